"""The benchmarks run and their arithmetic is right. No test depends on how fast anything is."""

import os
import re
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from benchmarks import against, costs, gpu, inputs, measurements, network, process, scale
from benchmarks.__main__ import introduction
from benchmarks.measurements import replace_sections
from benchmarks.page import browser
from benchmarks.process import Timing
from clipseg_cli.model.registry import BUNDLED
from clipseg_cli.run.engines.crew import cores
from pictures import ROOT, SAMPLES

COSTS = costs.Costs(0.004, 0.001, 0.02, 0.005, 0.005, 0, 0.0004, 0.0001, 0, 9e4, 9e4, 2, 500, 1500, 4e8, 0, 10)


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six small photographs."""
    return inputs.photographs(tmp_path_factory.mktemp("inputs"), 160, 120, 6)


def report(module: str, *words: str) -> str:
    """Runs a module of the benchmarks in a fresh process and returns what it prints."""
    done = subprocess.run(
        [sys.executable, "-m", module, *words],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_the_short_form_measures_every_section(tmp_path: Path) -> None:
    """With a tiny network all contenders finish, their masks agree, and the report has every table."""
    printed = report("benchmarks", "--short", "--work", str(tmp_path))
    rows = [line.strip("| ").split(" | ") for line in printed.splitlines() if line.startswith("| ")]
    first = [row[0] for row in rows]
    page = ("random, tiny size",) if browser() else ()
    assert page or "no Chromium" in printed
    sections = ("480x360", "first mask, clipseg", "encoder, ms per image", "second run", "full size", "20", *page)
    for start in sections:
        assert any(cell.startswith(start) for cell in first), f"no row {start}"
    row = next(row for row in rows if row[0].startswith("480x360"))
    assert float(row[-1]) > 0.95, "the masks of clipseg are those of the baseline"


@pytest.mark.slow
def test_numbers_of_processes_and_precisions_are_compared(tmp_path: Path) -> None:
    """With a tiny network all contenders finish. The masks of every precision agree with those of fp32."""
    printed = report("benchmarks.workers", "--tiny", "--work", str(tmp_path), "--before", str(ROOT))
    rows = [line.strip("| ").split(" | ") for line in printed.splitlines() if line.startswith("| full size")]
    assert [row[1] for row in rows[1:]] == ["fp32", "int8", "bf16", "fp32, AVX2", "int8, AVX2"]
    assert all(float(row[-1]) > 0.9 for row in rows[1:])


@pytest.mark.slow
def test_a_working_tree_is_compared_with_a_commit(tmp_path: Path) -> None:
    """The program of the commit runs from a folder of its own, and every row has a time of both."""
    known = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, check=False)
    if known.returncode:
        pytest.skip("this is not a git repository")
    model = inputs.checkpoint(tmp_path, "tiny")
    table, _ = against.compare("HEAD", tmp_path, model, 0, few=True)
    rows = [line.strip("| ").split(" | ") for line in table.splitlines() if line.startswith("| ")][1:]
    assert [row[0] for row in rows] == ["`--help`", "48 known images, 1 prompt, full size"]
    assert all(float(cell.strip("*")) > 0 for row in rows for cell in row[1:])
    assert "Medians of 1 rounds" in table


def test_only_what_is_slower_in_the_median_and_at_best_is_reported() -> None:
    """Processor time or time by the clock alone is enough; one slow run of three is not."""

    def times(processor: tuple[float, ...], total: tuple[float, ...]) -> list[Timing]:
        return [Timing((), (), one, 0, other) for other, one in zip(processor, total, strict=True)]

    base = times((1.0, 1.1, 1.2), (2.0, 2.0, 2.1))
    timings = {
        "same": {"before": base, "now": base},
        "one slow run": {"before": base, "now": times((1.0, 1.1, 9.0), (2.0, 2.0, 9.0))},
        "busy machine": {"before": base, "now": times((1.0, 1.4, 1.5), (2.0, 3.0, 4.0))},
        "waits": {"before": base, "now": times((1.0, 1.1, 1.2), (2.3, 2.3, 2.4))},
        "computes": {"before": base, "now": times((1.2, 1.3, 1.4), (2.0, 2.0, 2.1))},
    }
    table, slower = against.report("abc", timings, 3)
    assert slower == ["waits", "computes"]
    assert "| waits | 1.10 | 1.10 | **1.00** | 2.00 | 2.30 | **1.15** |" in table
    assert "slower than abc: waits, computes." in table
    assert "slower than abc: nothing." in against.report("abc", {"same": timings["same"]}, 3)[0]


def test_a_gpus_benchmark_runs_on_a_cpu(tmp_path: Path) -> None:
    """With a tiny network all contenders finish, every stage takes time, and the masks agree with those of fp32."""
    printed = report("benchmarks.gpu", "--device", "cpu", "--tiny", "--images", "8", "--work", str(tmp_path))
    rows = [line.strip("| ").split(" | ") for line in printed.splitlines() if line.startswith("| ")]
    rates = {(row[0], row[1]): float(row[2]) for row in rows if row[0] in ("1", "8") and row[1] != "core"}
    contenders = ("baseline", "optimised", "clipseg", "clipseg -j 1", "clipseg -b 64")
    assert {*rates} == {*(("1", name) for name in contenders), ("8", "optimised"), ("8", "clipseg")}
    stages = {row[0]: float(row[2]) for row in rows if row[1] in ("core", "device")}
    assert len(stages) == 11 and min(rates.values()) > 0 <= min(stages.values())  # taking back may round to nothing
    iou = re.search(r"IoU of 16 masks with those of the CPU in fp32: ([0-9.]+)\.", printed)
    assert iou is not None and float(iou[1]) > 0.95
    assert not [*tmp_path.glob("tmp*")]


def test_what_keeps_a_gpu_busy_is_added_up() -> None:
    """A stage that is done for each prompt counts as often. Several devices and cores share the work."""
    stages = [gpu.Stage("encode", "device", 0.004, (1, 1)), gpu.Stage("take", "device", 0.001, (1, 8))]
    stages.append(gpu.Stage("cut", "core", 0.002, (1, 8)))
    said = gpu.busy(stages, rate=100.0, many=True, devices=2)
    assert "12.00 ms of the device" in said and "16.00 ms of a core" in said and "fill 60% of the device" in said
    assert f"{1.6 / cores():.0%} of the cores" in said


def test_a_process_is_timed_by_its_lines() -> None:
    """Every line has a time, in order, before the end of the process. A failed process raises with its stderr."""
    timing = process.run(["-c", "print('a'); print('b')"])
    assert timing.lines == ("a", "b")
    assert 0 < timing.stamps[0] <= timing.stamps[1] <= timing.total and timing.memory > 1e6
    assert 0 < timing.processor < 60
    with pytest.raises(RuntimeError, match="exited with 3:\nno luck"):
        process.run(["-c", "import sys; print('no luck', file=sys.stderr); sys.exit(3)"])


def test_a_rate_leaves_out_the_first_batch() -> None:
    """Of 32 lines or more, the first 16 warm up: here those of two processes, four at once, then half as many."""
    few = (0.0, 1.0, 2.0)
    many = (*[9.0] * 16, *[17.0] * 8, *[25.0] * 8)
    assert [Timing(("",) * len(each), each, 0, 0).rate for each in (few, many)] == [1.0, 1.0]


def test_photographs_have_the_stored_size_and_exif(photographs: Path) -> None:
    """The files are JPEGs of the size, with the orientations in turn. A second call returns the same folder."""
    files = sorted(photographs.iterdir())
    assert len(files) == 6
    for index, path in enumerate(files):
        with Image.open(path) as image:
            assert image.format == "JPEG" and image.size == (160, 120)
            assert image.getexif()[inputs.ORIENTATION] == inputs.ORIENTATIONS[index % 4]
    stamp = files[0].stat().st_mtime_ns
    assert inputs.photographs(photographs.parent, 160, 120, 6) == photographs
    assert files[0].stat().st_mtime_ns == stamp


def test_the_network_is_compared_with_the_matrix_peak(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the bundled model every figure is positive, and the share is that of the encoder in the peak."""
    monkeypatch.setattr(network, "PEAK", ((64, 64, 64), (64, 32, 64)))
    measured = network.measure(BUNDLED, 0.001)
    numbers = {name: value for name, value in measured.items() if name != "dtype"}
    assert all(value > 0 for value in numbers.values())
    assert measured["share"] == pytest.approx(measured["encoder"] / measured["peak"])


def test_the_iou_of_two_runs_counts_pixels_of_all_masks(tmp_path: Path) -> None:
    """Folders of labels may have spaces in one run and hyphens in the other."""
    for name, folder, columns in (("x", "a cat", 4), ("y", "a cat", 8), ("x", "a-cat", 4), ("y", "a-cat", 4)):
        mask = np.zeros((4, 8), np.uint8)
        mask[:, :columns] = 255
        path = tmp_path / folder.replace(" ", "_") / folder / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), mask)
    iou = measurements.total_iou(tmp_path / "a_cat", tmp_path / "a-cat")
    assert iou == pytest.approx((16 + 16) / (16 + 32))


def test_the_report_names_the_machine() -> None:
    """Cores, Python and the versions of the libraries stand in its first lines."""
    assert introduction().startswith("# Results\n\nWritten by") and "torch" in introduction()


def test_one_section_is_replaced_in_its_place() -> None:
    """`--only` leaves the head and the other sections of RESULTS.md as they are."""
    old = "# Results\n\nwhere\n\n## A\n\n1\n\n## B\n\n2\n"
    new = replace_sections(old, ["## A\n\n3", "## C\n\n4"])
    assert new == "# Results\n\nwhere\n\n## A\n\n3\n\n## B\n\n2\n\n## C\n\n4\n"


def test_the_drivers_bookkeeping_is_measured(photographs: Path, tmp_path: Path) -> None:
    """Finding images, writing records and resuming them all cost something."""
    measured = costs.bookkeeping(str(photographs), str(tmp_path), count=20, known_count=100)
    assert measured.keys() == {"walk", "ledger", "lines", "known"}
    assert all(value > 0 for value in measured.values()) and measured["lines"] > 200


def test_the_stages_of_an_image_are_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The stages, and a run of the pipeline that writes a mask and an overlay per image."""
    monkeypatch.setattr(costs, "WARM", 1)
    measured = costs.stages(str(SAMPLES / "images"), 0, 4, str(tmp_path))
    assert all(measured[name] > 0 for name in ("load", "resize", "encode", "decode", "read", "written", "worker"))
    assert measured["files"] == 2 and len(list(tmp_path.rglob("*.*"))) == 4


@pytest.mark.slow
def test_the_messages_of_ray_are_measured() -> None:
    """The driver and its actors each take some time per message."""
    measured = costs.messaging(200, 1)
    assert measured["driver"] > 0 and measured["actor"] > 0


def test_the_simulation_of_a_cluster_keeps_its_bounds() -> None:
    """If the driver costs nothing, actors set the rate; a driver slower than its actors sets it; failed actors cost
    the images in their queue again."""
    free = scale.simulate(scale.Cluster(4, 0.5, 0), 100)
    assert len(free) == 100 and free[-1] == pytest.approx(100 / 4 * 0.5)
    assert scale.simulate(scale.Cluster(1000, 0.5, 0.01), 5000)[-1] == pytest.approx(5000 * 0.01, rel=0.05)
    failing = scale.Cluster(4, 0.5, 0, restart=10, failures=0.001)
    assert scale.rate(failing, 20_000) == pytest.approx(4 / (0.5 + 0.5 * 0.001 * (10 + scale.AHEAD * 0.5)), rel=0.05)
    assert scale.predict(COSTS, 2000, 2) == pytest.approx(10 + 2000 * 0.0355 / 2, rel=0.01)
    assert scale.core_hours(COSTS, 1e6) == pytest.approx(1e6 * 0.0355 / 3600)


def test_the_report_on_scale_has_every_table(monkeypatch: pytest.MonkeyPatch) -> None:
    """Costs, machine hours, throughput and limits, and how far the prediction was off."""
    monkeypatch.setattr(scale, "ACTORS", (2,))
    monkeypatch.setattr(scale, "MIN_SIMULATED", 500)
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    text = scale.report(COSTS, 2000, measured=45.5)
    assert "predicted 45.5 s, measured 45.5 s" in text
    rows = text.splitlines()
    assert "| one driver | 2,000 images/s |" in rows and any(row.startswith("| shapes | 28.17 |") for row in rows)
    assert "| **actor in total, ms** | **35.00** |" in rows and any(row.startswith("| 2 | ") for row in rows)
