"""The benchmarks run. How fast they find it is never tested."""

import os
import subprocess
import sys
from pathlib import Path

from pictures import ROOT


def test_the_short_form_measures_every_part(tmp_path: Path) -> None:
    """On a tiny network, all three contenders finish and agree, and the report has every table."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", "--short", "--work", str(tmp_path)],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    rows = [line.strip("| ").split(" | ") for line in done.stdout.splitlines() if line.startswith("| ")]
    first = [row[0] for row in rows]
    for start in ("480x360", "first mask, clipseg", "encoder, ms an image", "second run", "20"):
        assert any(cell.startswith(start) for cell in first), f"no row {start}"
    race = next(row for row in rows if row[0].startswith("480x360"))
    assert float(race[-1]) > 0.95, "the masks of this program are those of the plain script"
