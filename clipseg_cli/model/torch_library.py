"""Loads torch's library ahead of torch, beside everything that a run does before it needs the network.

`import torch` spends a sixth of its time in loading its largest library, for which it holds Python's one lock. Here
another thread loads it without that lock, and `import torch` then finds it loaded.
"""

import contextlib
import ctypes
import importlib.util
import sys
import threading
from pathlib import Path

NAME = "libtorch_cpu.so"  # of Linux; the others depend on it
RTLD_LAZY = 1  # in dlfcn.h


def load_ahead() -> None:
    """Begins to load the library. Does nothing if torch is imported already, or if this is not Linux.

    Whatever fails here fails again, with its message, in `import torch`.
    """
    if sys.platform != "linux" or "torch" in sys.modules:
        return
    import cv2  # noqa: F401  # the system loads one library at a time, so those that are needed soon come first

    with contextlib.suppress(Exception):
        found = importlib.util.find_spec("torch")
        if found is not None and found.origin is not None:
            library = str(Path(found.origin).parent / "lib" / NAME).encode()
            # called as a C function, because ctypes.CDLL(library) holds the lock in some versions of Python
            threading.Thread(target=ctypes.CDLL(None).dlopen, args=[library, RTLD_LAZY], daemon=True).start()
