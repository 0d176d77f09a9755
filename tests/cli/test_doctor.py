"""`clipseg doctor`."""

import pytest

from clipseg_cli.cli import doctor
from pictures import Program


def test_doctor_segments_a_drawing(clipseg: Program) -> None:
    """It exits 0 if the bundled model finds a drawn disc on this machine."""
    shown = clipseg("clipseg doctor").stdout
    assert "FAIL" not in shown and "finds a drawn red circle" in shown and "torch" in shown


def test_a_failed_check_exits_with_1(clipseg: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    """A mask that is not good enough, and a device that is not there."""
    monkeypatch.setattr(doctor, "SELF_TEST_IOU", 1.1)
    assert "FAIL self-test: finds a drawn red circle" in clipseg("clipseg doctor", expect=1).stdout
    assert "FAIL self-test" in clipseg("clipseg doctor --device cuda:99", expect=1).stdout
