"""The entry of `clipseg` and of `python -m clipseg_cli`, which begins to load torch beside all other imports."""

import contextlib
import ctypes
import os
import sys
import threading
from importlib.util import find_spec
from typing import NoReturn

COMMANDS = {"segment", "oneshot", "find", "embed"}  # those that end with a network
QUICK = {"--dry-run", "--help", "-h"}  # unless they are asked for these


def main() -> NoReturn:
    """Runs the program and exits."""
    if COMMANDS.intersection(sys.argv[1:2]) and not QUICK.intersection(sys.argv):
        preload()
    from clipseg_cli.cli import main

    main()


def preload() -> None:
    """Loads torch's largest libraries in a thread of its own: a tenth of the time to a first mask. Nothing depends on
    it, and nothing of it is seen: where it fails, the import of torch will say why."""
    torch = find_spec("torch") if sys.platform == "linux" else None
    if torch is not None and torch.origin is not None:
        threading.Thread(target=_load, args=[os.path.join(os.path.dirname(torch.origin), "lib")]).start()


def _load(folder: str) -> None:
    with contextlib.suppress(OSError):  # in torch's own order and manner
        ctypes.CDLL(os.path.join(folder, "libtorch_global_deps.so"), mode=ctypes.RTLD_GLOBAL)
        ctypes.CDLL(os.path.join(folder, "libtorch_cpu.so"))


if __name__ == "__main__":
    main()
