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
SOON = ("cv2", "_csv", "_elementtree", "_socket", "tokenizers")  # libraries that a run needs before torch
RTLD_LAZY = 1  # in dlfcn.h


def load_ahead() -> None:
    """Begins to load the library. Does nothing if torch is imported already, or if this is not Linux.

    Whatever fails here fails again, with its message, in `import torch`.
    """
    if sys.platform != "linux" or "torch" in sys.modules:
        return
    with contextlib.suppress(Exception):
        for name in SOON:  # the system loads one library at a time: later, Python would wait here for torch's
            importlib.import_module(name)
        found = importlib.util.find_spec("torch")
        if found is not None and found.origin is not None:
            library = str(Path(found.origin).parent / "lib" / NAME).encode()
            # called as a C function, because ctypes.CDLL(library) holds the lock in some versions of Python
            threading.Thread(target=ctypes.CDLL(None).dlopen, args=[library, RTLD_LAZY], daemon=True).start()
