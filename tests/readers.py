"""Packages of other programs, so that tests can let them read our files.

They are no dependencies of the tests: their own dependencies are older versions of Pillow, OpenCV, pandas and others.
They also work with the versions that are installed. So the first test that needs one installs all of them, without
their dependencies, into a folder of the user's cache, which comes last on the path.
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

FOREIGN = (
    "supervision==0.31.2 pydeprecate==0.13.0 matplotlib==3.11.2 contourpy==1.3.3 cycler==0.12.1 fonttools==4.68.0 "
    "kiwisolver==1.5.1 pyparsing==3.3.3 defusedxml==0.7.1 "
    "datumaro==1.13.12 cachetools==7.0.0 imagesize==2.0.1 json-stream==2.5.1 json-stream-rs-tokenizer==0.5.4 lxml==6.1.3 "
    "orjson==3.13.0 ruamel.yaml==0.19.1 shapely==2.2.0 "
    "label-studio-sdk==2.1.2 appdirs==1.4.4 httpx==0.28.1 httpcore==1.0.9 ijson==3.6.0 nltk==3.10.4 pyjwt==2.15.1 "
    "ujson==6.1.0 xmljson==0.2.1 "
    "pycolmap==4.2.1"
).split()
LIMIT = 240  # seconds that pip may take


def package(name: str) -> Any:
    """The module; skips the test if it neither is installed nor can be."""
    if any(requirement.replace("-", "_").startswith(f"{name}==") for requirement in FOREIGN):
        if failure := _install():
            pytest.skip(f"{name} cannot be installed: {failure}")
    return pytest.importorskip(name, reason=f"{name} is not installed", exc_type=ImportError)


@functools.cache
def _install() -> str:
    """Puts the packages on the path, and returns why that failed, or ""."""
    version = f"{sys.implementation.cache_tag} {' '.join(FOREIGN)}"
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "clipseg-tests"
    folder = cache / hashlib.sha256(version.encode()).hexdigest()[:16]
    if not folder.is_dir():
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache) as made:
            pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--only-binary", ":all:", "--target"]
            try:
                done = subprocess.run([*pip, f"{made}/all", *FOREIGN], capture_output=True, text=True, timeout=LIMIT)
            except subprocess.TimeoutExpired:
                return f"pip took more than {LIMIT} s"
            if done.returncode:
                return (done.stderr.strip().splitlines() or ["pip failed"])[-1]
            if not folder.is_dir():  # another run may have been faster
                Path(made, "all").rename(folder)
    sys.path.append(str(folder))
    return ""
