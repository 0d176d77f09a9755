"""What a run says at its end, and line by line with --verbose."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from clipseg_cli.cli import summary
from clipseg_cli.errors import ImageError
from clipseg_cli.outputs.record import Mask, Record
from clipseg_cli.run.summary import Summary
from pictures import Program, Shell, picture, save, save_tiny

CAT = Mask("cat", "a cat", 0.5, 0.9, 0.1, 12, 0.1234, (3, 0, 3, 4), 0.8, files=(("mask", "masks/cat/a.png"),))
DOG = replace(CAT, label="it's a\x1b dog", area=0, area_frac=0.0, bbox=(0, 0, 0, 0), presence=0.42)


def counted(*masks: Mask) -> Summary:
    """Returns the summary of a run with one image and one failure, in two seconds."""
    counts = Summary(seconds=2.0)
    counts.add(Record("a.jpg", 6, 4, masks=masks))
    counts.add(Record("b.jpg", error=ImageError("corrupt", "load", "it is")))
    counts.left_out["no_image", ".txt"] = 2
    return counts


def test_a_summary_says_what_was_found_and_what_to_do_next() -> None:
    """Counts, rate and place; a line per label; failures; files left out; one command. Names cannot alter the
    terminal, and a suggested threshold can be pasted into a shell."""
    assert summary.lines(counted(CAT, DOG), "my out", again="clipseg post 'my out'") == [
        "1 of 2 images done, 1 failed (see my out/manifest.jsonl), 2.0 s, 1 images/s -> my out",
        "cat: found in 1 of 1 images, median share 12.3 %",
        "it's a\\x1b dog: found in 0 of 1 images, 1 unsure",
        "failed: 1 corrupt",
        "left out: 2 files that are no images (2 .txt)",
        "next: clipseg post 'my out' -t 'it'\"'\"'s a\\x1b dog=0.4'  "
        "(it's a\\x1b dog: highest presence score 0.42, threshold 0.50)",
    ]


@pytest.mark.parametrize(
    ("given", "last"),
    [
        ({"out": "my out"}, "next: clipseg report 'my out'"),
        ({"out": "out", "report": "out/report.html"}, "next: open out/report.html in a browser"),
        ({"out": "a.png", "single": True}, "left out: 2 files that are no images (2 .txt)"),
        ({}, "left out: 2 files that are no images (2 .txt)"),
    ],
)
def test_the_next_command_fits_the_outputs(given: dict[str, str], last: str) -> None:
    """A report of a folder; none of a single file, nor where nothing was written."""
    assert summary.lines(counted(CAT), **given)[-1] == last  # type: ignore[arg-type]


def test_a_thousand_labels_do_not_flood_the_terminal() -> None:
    """The first labels get a line each."""
    told = summary.lines(counted(*(replace(CAT, label=f"{n}") for n in range(1000))), "out")
    assert len(told) < 40 and "and 970 more labels: see run.json" in told


def test_quiet_silences_the_summary(quick_clipseg: Program, tmp_path: Path) -> None:
    """Not that of run.json. It silences --verbose too."""
    save(tmp_path / "a.png", picture(48, 40))
    for command in ("segment a.png -p red -f soft -o out", "find a.png -p red --print none", "post out"):
        assert quick_clipseg(f"clipseg {command} -q -v").stderr == ""
    assert json.loads((tmp_path / "out/run.json").read_text())["summary"]["labels"]["red"]["found"] == 1


def test_every_command_that_reads_images_ends_with_a_summary(quick_clipseg: Program, tmp_path: Path) -> None:
    """segment, find and post; also where the output is one file or stdout."""
    save_tiny(tmp_path / "imgs", 2)
    (tmp_path / "imgs/a.txt").touch()
    left = "left out: 1 file that is no image (1 .txt)"
    told = quick_clipseg("clipseg segment imgs -p red -f soft -o out").stderr
    assert "2 of 2 images done" in told and "red: found in 2 of 2 images, median share " in told and left in told
    assert told.splitlines()[-1] == "next: clipseg report out"
    told = quick_clipseg("clipseg find imgs -p red").stderr
    assert "2 of 2 images done" in told and left in told and "next" not in told
    told = quick_clipseg("clipseg post out -t 0.9 -o new").stderr
    assert "2 of 2 images done" in told and "red: found in 2 of 2 images" in told and " -> new\n" in told
    for out in ("m.png", "-"):
        told = quick_clipseg(f"clipseg segment imgs/0/00000.png -p red -o {out}").stderr
        assert f"-> {'stdout' if out == '-' else out}\nred: found in 1 of 1 images" in told and "next" not in told


def test_a_label_that_was_not_found_gets_a_threshold_that_finds_it(quick_clipseg: Program, tmp_path: Path) -> None:
    """From stored soft maps the suggested command needs no model, and it works as it stands."""
    for seed in range(3):
        save(tmp_path / f"imgs/{seed}.png", np.full((40, 48, 3), (124 + seed, 100, 100), np.uint8))  # logits near -0.5
    command = "clipseg segment imgs -p red -t 0.5"
    told = quick_clipseg(f"{command} -f soft -o out").stderr.splitlines()
    assert "red: found in 0 of 3 images, 1 unsure" in told
    assert told[-1] == "next: clipseg post out -t red=0.4  (red: highest presence score 0.41, threshold 0.50)"
    found = quick_clipseg(told[-1].removeprefix("next: ").split("  (")[0]).stderr
    assert "red: found in 1 of 3 images" in found
    told = quick_clipseg(f"{command} -o other").stderr.splitlines()
    assert told[-1].startswith("next: the same command with another -o and -t red=0.4 ")
    told = quick_clipseg(command).stderr.splitlines()
    assert told[-1].startswith("next: the same command with -t red=0.4 ")


def test_verbose_shows_a_line_per_image(quick_clipseg: Program, tmp_path: Path) -> None:
    """The share and the presence score of each label, or the error; a resumed image is marked."""
    save(tmp_path / "imgs/a.png", picture(48, 40))
    (tmp_path / "imgs/b.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    (tmp_path / "imgs/c\x1b.png").write_bytes((tmp_path / "imgs/a.png").read_bytes())
    command = "clipseg segment imgs -p red -p cat -o out"
    for _ in range(2):
        told = quick_clipseg(f"{command} -v", expect=3).stderr.splitlines()
        again = " (before)" if any("before" in each for each in told) else ""
        (first,) = [each for each in told if each.startswith("imgs/a.png")]
        share = json.loads((tmp_path / "out/manifest.jsonl").read_text().splitlines()[0])["masks"][0]["area_frac"]
        assert first == f"imgs/a.png{again}: " + ", ".join(
            f"{label} {100 * share:.3g} % (presence 1.00)" for label in ("red", "cat")
        )
        assert sum(each.startswith("failed imgs/b.png: corrupt") for each in told) == 1
        assert sum(each.startswith(f"imgs/c\\x1b.png{again}: red") for each in told) == 1
    assert again, "the second run resumed"
    assert "imgs/a.png" not in quick_clipseg(command, expect=3).stderr
    assert "imgs/a.png: red" in quick_clipseg("clipseg find imgs -p red --verbose", expect=3).stderr


@pytest.mark.slow
def test_the_summary_is_the_same_with_worker_processes(quick_shell: Shell, tmp_path: Path) -> None:
    """Worker processes and threads change neither counts nor their order."""
    save_tiny(tmp_path / "imgs", 30, corrupt=10)
    documents = []
    for jobs in (1, 2):
        told = quick_shell(f"clipseg segment imgs -p red -p cat -o out{jobs} -j {jobs} -v", expect=3).stderr
        assert told.count("(presence") == 2 * 27 and "failed: 3 corrupt" in told
        documents.append(json.loads((tmp_path / f"out{jobs}/run.json").read_text())["summary"])
    assert documents[0].pop("images_per_second") and documents[1].pop("images_per_second")
    assert documents[0] == documents[1]
