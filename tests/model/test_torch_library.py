"""torch's library is loaded ahead of torch, which then works as if it had loaded it itself."""

import subprocess
import sys

import pytest

CODE = """
import sys, threading
from clipseg_cli.model import torch_library

torch_library.load_ahead()
[thread.join() for thread in threading.enumerate() if thread is not threading.main_thread()]
ahead = torch_library.NAME in open("/proc/self/maps").read()
assert "torch" not in sys.modules
import torch

before = threading.active_count()
torch_library.load_ahead()  # torch is here already
print(ahead, float(torch.ones(3, 3).mm(torch.ones(3, 3)).sum()), threading.active_count() - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere nothing is loaded ahead")
def test_the_library_is_loaded_before_torch_and_serves_it() -> None:
    """After `load_ahead` the library is in the process, and torch multiplies matrices with it."""
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, timeout=300, check=False)
    assert done.stdout.split() == ["True", "27.0", "0"], done.stderr
