"""Packages of other programs, so that tests can let them read our files.

They are no dependencies of the tests, because their own dependencies are older versions of Pillow, OpenCV, pandas and
others. They also work with the versions that the tests have. So the first test that needs one installs those of
readers.txt, without their dependencies, into a folder of the user's cache, which comes last on the path.
"""

import functools
import hashlib
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest

LIST = Path(__file__).with_name("readers.txt")
LIMIT = 240  # seconds that pip may take


def package(name: str) -> Any:
    """The module; skips the test if it neither is installed nor can be."""
    failure = _install() if f"\n{name.replace('_', '-')}==" in LIST.read_text() else ""
    if failure:
        pytest.skip(f"{name} cannot be installed: {failure}")
    return pytest.importorskip(name, reason=f"{name} is not installed", exc_type=ImportError)


@functools.cache
def _install() -> str:
    """Puts the packages on the path, and returns why that failed, or ""."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "clipseg-tests"
    version = hashlib.sha256(LIST.read_bytes()).hexdigest()[:8]
    folder = cache / f"readers-{version}-{sys.implementation.cache_tag}"
    pip = ["-m", "pip", "install", "-q", "--no-deps", "--no-compile", "--only-binary", ":all:", "--target"]
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache) as made:
            if not folder.is_dir():
                command = [sys.executable, *pip, f"{made}/all", "-r", str(LIST)]
                subprocess.run(command, capture_output=True, timeout=LIMIT, check=True)
                Path(made, "all").rename(folder)
    except subprocess.CalledProcessError as error:
        return (error.stderr.decode(errors="replace").strip().splitlines() or ["pip failed"])[-1]
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    sys.path.append(str(folder))
    return ""
