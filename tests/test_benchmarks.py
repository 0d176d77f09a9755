"""The benchmarks run. How fast they find it is never tested."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.__main__ import renewed
from benchmarks.page import browser
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
    page = ("random, tiny size",) if browser() else ()
    assert page or "no Chromium" in done.stdout
    for start in ("480x360", "first mask, clipseg", "encoder, ms an image", "second run", "20", *page):
        assert any(cell.startswith(start) for cell in first), f"no row {start}"
    race = next(row for row in rows if row[0].startswith("480x360"))
    assert float(race[-1]) > 0.95, "the masks of this program are those of the plain script"


def test_the_model_of_many_machines_keeps_its_bounds() -> None:
    """Without a driver's cost, actors do their share at their pace; a driver slower than its actors bounds them;
    lost actors cost what their images cost again. Every table has its rows."""
    from benchmarks import scale
    from benchmarks.costs import Costs

    free = scale.simulate(scale.Cluster(4, 0.5, 0), 100)
    assert len(free) == 100 and free[-1] == pytest.approx(100 / 4 * 0.5)
    assert scale.simulate(scale.Cluster(1000, 0.5, 0.01), 5000)[-1] == pytest.approx(5000 * 0.01, rel=0.05)
    lossy = scale.Cluster(4, 0.5, 0, restart=10, losses=0.001)
    assert scale.rate(lossy, 20_000) == pytest.approx(4 / (0.5 + 0.5 * 0.001 * (10 + scale.AHEAD * 0.5)), rel=0.05)
    costs = Costs(0.004, 0.001, 0.02, 0.005, 0.005, 0, 0.0004, 0.0001, 0, 9e4, 9e4, 2, 500, 1500, 4e8, 0, 10)
    assert scale.here(costs, 2000, 2) == pytest.approx(10 + 2000 * 0.0355 / 2, rel=0.01)
    assert scale.hours(costs, 1e6) == pytest.approx(1e6 * 0.0355 / 3600)
    rows = (scale.limits(costs) + scale.machine_hours({"shapes": costs})).splitlines()
    assert "| one driver | 2,000 images/s |" in rows and any(row.startswith("| shapes | 28.17 |") for row in rows)


def test_one_part_is_renewed_in_its_place() -> None:
    """`--only` leaves the head and the other parts of RESULTS.md as they are."""
    old = "# Results\n\nwhere\n\n## A\n\n1\n\n## B\n\n2\n"
    assert renewed(old, ["## A\n\n3", "## C\n\n4"]) == "# Results\n\nwhere\n\n## A\n\n3\n\n## B\n\n2\n\n## C\n\n4\n"
