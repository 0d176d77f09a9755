"""What a run found, counted record by record."""

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from clipseg_cli.errors import ImageError
from clipseg_cli.inputs import kinds
from clipseg_cli.outputs.record import Mask, Record
from clipseg_cli.run.summary import Summary
from pictures import Program, picture, records, save, save_tiny

CAT = Mask("cat", "a cat", 0.5, 0.9, 0.1, 12, 0.5, (3, 0, 3, 4), 0.8)


def summed(*masks: Mask, min_presence: float = 0.0) -> Summary:
    """Returns the summary of a run with one mask per image."""
    summary = Summary(min_presence)
    for mask in masks:
        summary.add(Record("a.jpg", 6, 4, masks=(mask,)))
    return summary


def test_the_median_is_right_to_three_digits_whatever_the_size() -> None:
    """numpy's median is the oracle, for objects from a millionth of the image to all of it."""
    rng = np.random.default_rng(0)
    for count in (1, 2, 3, 10, 999, 2000):
        shares = 10 ** rng.uniform(-6, 0, count)
        label = summed(*(replace(CAT, area_frac=float(share)) for share in shares)).labels["cat"]
        assert label.found == count
        assert label.median() == pytest.approx(np.median(shares.round(6)), rel=0.01)


def test_only_images_where_it_was_found_count_for_the_median() -> None:
    """An empty mask has no share. A label that was never found has the median 0."""
    absent = replace(CAT, area=0, area_frac=0.0, bbox=(0, 0, 0, 0), presence=0.1)
    label = summed(CAT, absent, absent).labels["cat"]
    assert (label.found, label.median()) == (1, 0.5)
    assert summed(absent).labels["cat"].median() == 0


def test_the_memory_does_not_grow_with_the_images() -> None:
    """The shares of every size make a bounded number of keys."""
    few, many = (
        summed(*(replace(CAT, area_frac=10 ** (-6 * n / count)) for n in range(count))) for count in (9, 20_000)
    )
    assert len(few.labels["cat"].shares) == 9 and len(many.labels["cat"].shares) <= 3701
    assert many.labels["cat"].median() == pytest.approx(0.001, rel=0.01)


@pytest.mark.parametrize(
    ("presence", "threshold", "min_presence", "unsure"),
    [
        (0.4, 0.3, 0.0, 1),
        (0.2, 0.3, 0.0, 1),
        (0.41, 0.3, 0.0, 0),
        (0.19, 0.3, 0.0, 0),
        (0.41, 0.3, 0.5, 1),
        (0.3, 0.3, 0.5, 0),
    ],
)
def test_an_image_is_unsure_near_the_threshold(
    presence: float, threshold: float, min_presence: float, unsure: int
) -> None:
    """At most 0.1 away from it, or from --min-presence if that is higher."""
    mask = replace(CAT, presence=presence, threshold=threshold)
    assert summed(mask, min_presence=min_presence).labels["cat"].unsure == unsure


@pytest.mark.parametrize(
    ("presence", "threshold", "min_presence", "area", "suggested"),
    [
        (0.24, 0.5, 0.0, 0, 0.2),
        (0.25, 0.5, 0.0, 0, 0.2),
        (0.26, 0.5, 0.0, 0, 0.25),
        (0.05, 0.5, 0.0, 0, None),  # nothing is there
        (0.6, 0.5, 0.0, 0, None),  # clean-up emptied it: a lower threshold is not the way
        (0.24, 0.5, 0.3, 0, None),  # --min-presence emptied it
        (0.24, 0.5, 0.0, 9, None),  # it was found
    ],
)
def test_a_threshold_is_suggested_only_where_it_helps(
    presence: float, threshold: float, min_presence: float, area: int, suggested: float | None
) -> None:
    """For a label that was never found, below the highest presence score."""
    mask = replace(CAT, presence=presence, threshold=threshold, area=area)
    told = summed(mask, min_presence=min_presence).suggestion()
    assert told == (None if suggested is None else ("cat", suggested, presence, threshold))


def test_failures_and_files_left_out_are_counted_by_kind() -> None:
    """In JSON all of them; in the sentence the five most frequent kinds, with names that cannot alter a terminal."""
    summary = summed(CAT)
    for kind in ("corrupt", "empty", "corrupt"):
        summary.add(Record("b.jpg", error=ImageError(kind, "load", "it is")))  # type: ignore[arg-type]
    assert (summary.done, summary.failed) == (1, 3)
    assert summary.files_left_out() == ""
    summary.left_out.update(Counter({("no_image", f".{n}"): 1 for n in range(7)}))
    summary.left_out.update({("no_image", ".t\x1bt"): 8, ("link", ".jpg"): 1})
    assert summary.files_left_out() == (
        "left out: 15 files that are no images (8 .t\\x1bt, 1 .0, 1 .1, 1 .2, 1 .3, 3 more kinds), "
        "1 symbolic link (1 .jpg; --follow includes them)"
    )
    document = json.loads(json.dumps(summary.document()))
    assert document["failed"] == {"corrupt": 2, "empty": 1}
    assert len(document["left_out"]["no_image"]) == 8 and document["left_out"]["link"] == {".jpg": 1}


def test_run_json_has_the_summary_and_resumed_images_count(quick_clipseg: Program, tmp_path: Path) -> None:
    """A resumed run has the same summary as an uninterrupted one; a run of `post` has one too."""
    save_tiny(tmp_path / "imgs", 12, corrupt=6)
    (tmp_path / "imgs/notes.txt").touch()

    def told(out: str) -> dict[str, object]:
        document = json.loads((tmp_path / out / "run.json").read_text())["summary"]
        assert document.pop("images_per_second") > 0
        return document  # type: ignore[no-any-return]

    quick_clipseg("clipseg segment imgs -p red -p blue -f soft -f mask -o one", expect=3)
    quick_clipseg("clipseg segment imgs -p red -p blue -f soft -f mask -o two --limit 5")
    quick_clipseg("clipseg segment imgs -p red -p blue -f soft -f mask -o two", expect=3)
    assert told("one") == told("two")
    masks = [row["masks"][0] for row in records(tmp_path / "one/manifest.jsonl") if row["status"] == "ok"]
    found = [mask["area_frac"] for mask in masks if mask["area"]]
    summary = told("one")
    assert summary["labels"]["red"]["found"] == len(found) == 10  # type: ignore[index]
    assert summary["labels"]["red"]["median_area_frac"] == pytest.approx(np.median(found), rel=0.005)  # type: ignore[index]
    assert summary["failed"] == {"corrupt": 2} and summary["left_out"] == {"no_image": {".txt": 1}}
    quick_clipseg("clipseg post one -f mask -o three", expect=3)
    assert told("three") == {**summary, "left_out": {}}


def test_a_folder_without_images_says_what_it_holds(quick_clipseg: Program, tmp_path: Path) -> None:
    """The error names the kinds of its files."""
    (tmp_path / "imgs").mkdir()
    (tmp_path / "imgs/a.xmp").touch()
    said = quick_clipseg("clipseg segment imgs -p red", expect=4).stderr
    assert "left out: 1 file that is no image (1 .xmp)" in said
    assert "1 .xmp" in quick_clipseg("clipseg find imgs -p red", expect=4).stderr
    save(tmp_path / "a.png", picture(48, 40))
    assert "left out" not in quick_clipseg("clipseg segment a.png -p red").stderr


def test_images_that_cannot_be_read_fail_and_other_files_are_counted(
    quick_clipseg: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder with a photo, sidecars, a GIMP file, and a HEIC whose extra is not installed: exit 3, and two failed
    records that say what to do. `find` does the same, and `status` counts the same images."""
    monkeypatch.setitem(kinds.KINDS, "HEIC", replace(kinds.KINDS["HEIC"], packages=("a_package_that_is_missing",)))
    save(tmp_path / "imgs/a.png", picture(48, 40))
    files = {"b.xcf": b"gimp xcf v011\0", "c.HEIC": b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "a.xmp": b"<x/>"}
    for name, data in {**files, "a.txt": b"text", "b.xmp": b"<x/>", "._a.png": b"\0\5\x16\7"}.items():
        (tmp_path / "imgs" / name).write_bytes(data)
    said = quick_clipseg("clipseg segment imgs -p red -o out", expect=3).stderr
    assert "left out: 4 files that are no images (2 .xmp, 1 ._*, 1 .txt)" in said
    errors = {row["image"]: row["error"] for row in records(tmp_path / "out/manifest.jsonl") if row["status"] != "ok"}
    assert {name: error["class"] for name, error in errors.items()} == {
        "imgs/b.xcf": "unsupported",
        "imgs/c.HEIC": "unsupported",
    }
    assert errors["imgs/b.xcf"]["message"] == "XCF is not supported; convert it to PNG, JPEG or TIFF"
    assert "pip install 'clipseg-cli[heic]'" in errors["imgs/c.HEIC"]["message"]
    run = json.loads((tmp_path / "out/run.json").read_text())
    assert run["summary"]["left_out"] == {"no_image": {".txt": 1, ".xmp": 2, "._*": 1}}
    assert "2 unsupported" in quick_clipseg("clipseg status out", expect=3).stdout
    assert "pip install" in quick_clipseg("clipseg find imgs -p red", expect=3).stderr
