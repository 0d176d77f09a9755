"""Runs whose files have names by --name: they resume, and every command that reads a run follows them."""

import json
import shutil
from pathlib import Path

import pytest

from output_folder import tree
from pictures import SAMPLES, Program, picture, records, save

FLAGS = "-p circle -p 'red=a red circle' --name '{dir}/{stem}_{label}.png' --name 'soft={dir}/{stem}.soft_{label}.tif'"
FLAGS += " --name 'overlay={dir}/{name}_overlay.jpg' -f mask,soft,overlay"


@pytest.fixture
def nested(tmp_path: Path) -> Path:
    """Images with equal stems and folders."""
    for index, name in enumerate(("a.jpg", "a.png", "sub/a.jpg", "sub/IMG_001.png", "x_circle/b.jpg")):
        save(tmp_path / "imgs" / name, picture(160 + 16 * index, 120, index))
    return tmp_path / "imgs"


def test_outputs_beside_the_images_are_never_taken_for_images(
    quick_clipseg: Program, nested: Path, tmp_path: Path
) -> None:
    """A repeated run in the input folder finds the same images, finished, also from a subfolder and through a glob. A
    new image is processed, whatever its name; so are shards after each other."""
    originals = tree(nested)
    names = [str(path.relative_to(tmp_path)) for path in sorted(nested.rglob("*.*"))]
    for shard in ("0/2", "1/2", "0/1"):
        quick_clipseg(f"clipseg segment imgs {FLAGS} -o imgs --shard {shard}")
    before = {name: data for name, data in tree(nested).items() if not name.startswith(".clipseg")}
    assert {row["image"] for row in records(nested / "manifest.jsonl")} == {*names}
    assert len(before) == len(originals) + 5 * 5 + 1, "5 files for each image, and the manifest"
    assert before.items() >= originals.items()
    assert {"a.jpg_circle.png", "a.png_red.png", "a.jpg.soft_red.tif", "sub/IMG_001.png_overlay.jpg"} <= before.keys()
    save(nested / "sub/new_001.png", picture())
    assert "6 of 6 images done (5 before)" in quick_clipseg(f"clipseg segment imgs {FLAGS} -o imgs").stderr
    assert "3 of 3 images" in quick_clipseg("clipseg segment imgs/sub -p circle -o elsewhere").stderr
    assert "3 of 3 images" in quick_clipseg("clipseg segment 'imgs/sub/*' -p circle -o elsewhere2").stderr
    assert json.loads(quick_clipseg("clipseg status imgs --json").stdout)["missing"] == []


@pytest.mark.parametrize(("flags", "shown"), [("-o imgs", "add to the name, like"), ("-o other", "a.png, which could")])
def test_files_of_others_are_never_replaced(
    quick_clipseg: Program, nested: Path, tmp_path: Path, flags: str, shown: str
) -> None:
    """A run does not begin in a folder that holds files with the names of its outputs, nor may its outputs pass for
    images where it looks for images."""
    shutil.copytree(nested, tmp_path / "other")
    before = tree(nested), tree(tmp_path / "other")
    done = quick_clipseg(f"clipseg segment imgs -p circle -f mask --name '{{dir}}/{{stem}}.png' {flags}", expect=None)
    assert done.returncode in (1, 2) and shown in done.stderr
    assert (tree(nested), tree(tmp_path / "other")) == before
    quick_clipseg("clipseg segment imgs -p circle -f soft -o run")
    done = quick_clipseg("clipseg post run -f mask --name '{dir}/{stem}.png' -o other", expect=1)
    assert "a.png, which could" in done.stderr and tree(tmp_path / "other") == before[1]


def test_a_dry_run_shows_the_names(quick_clipseg: Program, nested: Path) -> None:
    """Those that the run then writes."""
    shown = quick_clipseg(f"clipseg segment imgs {FLAGS} -o out -n").stdout.splitlines()
    assert "imgs/sub/a.jpg -> sub/a_circle.png sub/a_red.png" in shown


def test_what_reads_a_run_follows_its_names(clipseg: Program, tmp_path: Path) -> None:
    """`post` with the options of the run writes the same bytes, `eval` gives the scores of a run with usual names, and
    the report shows the same masks."""
    line = f"clipseg segment {SAMPLES}/images -p a-red-circle='a red circle' -p a-blue-star='a blue star'"
    names = "--name '{index}/{label}.png' --name 'soft={format}/{dir}/{name}.{label}.tif'"
    clipseg(f"{line} -f mask,soft -o usual")
    clipseg(f"{line} -f mask,soft -o named {names}")
    clipseg("clipseg post named -f mask --name '{index}/{label}.png' -o again")
    clipseg("clipseg post named -f mask -o back")
    masks = {name: data for name, data in tree(tmp_path / "named").items() if name[0].isdigit()}
    assert len(masks) == 2 * len(records(tmp_path / "named/manifest.jsonl"))
    assert masks.items() <= tree(tmp_path / "again").items()
    usual = {name: data for name, data in tree(tmp_path / "usual").items() if name.startswith("masks/")}
    assert usual.items() <= tree(tmp_path / "back").items() and len(usual) == len(masks)
    scores = [clipseg(f"clipseg eval {run} {SAMPLES}/masks --json").stdout for run in ("usual", "named")]
    assert scores[0] == scores[1] and json.loads(scores[0])["miou"] > 0.6
    pages = [clipseg(f"clipseg report {run}") and (tmp_path / run / "report.html") for run in ("usual", "named")]
    maps = [page.read_text().count("data:image/png") for page in pages]
    assert maps[0] == maps[1] > 0


def test_a_run_that_is_overwritten_leaves_no_output_that_passes_for_an_image(
    quick_clipseg: Program, nested: Path
) -> None:
    """--overwrite deletes what the earlier run has named beside the images, and nothing else."""
    originals = tree(nested)
    quick_clipseg("clipseg segment imgs -p circle -f mask -o imgs --name '{dir}/{stem}_mask.png'")
    done = quick_clipseg("clipseg segment imgs -p circle -f mask -o imgs --name '{dir}/{stem}.m.png' --overwrite")
    assert "5 of 5 images done" in done.stderr
    after = {name: data for name, data in tree(nested).items() if not name.startswith((".clipseg", "manifest"))}
    assert after.items() >= originals.items() and len(after) == 10
    assert all(name in originals or name.endswith(".m.png") for name in after)


def test_another_name_is_another_run(quick_clipseg: Program, nested: Path) -> None:
    """It is a setting, so the folder of a run is not mixed; `-o FILE` has its own name."""
    quick_clipseg("clipseg segment imgs -p circle -f mask -o out")
    done = quick_clipseg("clipseg segment imgs -p circle -f mask -o out --name '{dir}/{name}.png'", expect=1)
    assert "name: null there" in done.stderr
    done = quick_clipseg("clipseg segment imgs/a.jpg -p circle -o a.png --name '{dir}/{name}.png'", expect=2)
    assert "leave out --name" in done.stderr
