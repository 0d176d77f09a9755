"""Claims: of two processes one gets a name, and the operating system drops the claims of a process with it."""

import os
import subprocess
import sys
from pathlib import Path

from clipseg_cli.storage.locks import Claims

HOLDER = """
import sys
from pathlib import Path
from clipseg_cli.storage.locks import Claims
claims = Claims(Path(sys.argv[1]))
claims.open()
print(claims.take("a"), claims.take("b\\udcff"), flush=True)
claims.drop("a")
print("dropped", flush=True)
sys.stdin.read()
"""


def test_a_claim_holds_until_it_is_dropped_or_its_process_is_killed(tmp_path: Path) -> None:
    """Another process gets no claimed name, but every other one, and all of them after kill -9. The file stays
    empty."""
    claims = Claims(tmp_path / "claims")
    claims.open()
    command = [sys.executable, "-c", HOLDER, str(tmp_path / "claims")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "True True\n" and holder.stdout.readline() == "dropped\n"
        assert claims.take("a") and not claims.take("b\udcff") and claims.take("c")
        holder.kill()
        holder.wait()
        assert claims.take("b\udcff")
    claims.close()
    assert (tmp_path / "claims").stat().st_size == 0


def test_without_locks_every_claim_succeeds(tmp_path: Path) -> None:
    """A file that cannot be locked (here one that is only read) lets every run do everything."""
    (tmp_path / "claims").touch()
    claims = Claims(tmp_path / "claims")
    claims.descriptor = os.open(tmp_path / "claims", os.O_RDONLY)
    assert claims.take("a")
    claims.drop("a")
    claims.close()
