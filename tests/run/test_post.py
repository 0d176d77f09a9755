"""`clipseg post` makes the masks of a run's soft maps again. The model is `shapes`; post never loads it."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from clipseg_cli.errors import OutputError
from clipseg_cli.model.segmenter import Segmenter
from clipseg_cli.outputs import writers
from output_folder import tree
from pictures import Program, picture, records, save

EVERY = "mask,overlay,cutout,labels,instances,npz,coco,yolo,voc,labelme,svg,webdataset"
CASES = {
    "plain": "-t 0.4 -f mask,overlay",
    "clean": "-t otsu -t red=p90 --peak 0.5 --open 1 --close 2 --fill-holes all --min-area 0.1% --grow 2 --feather 2",
    "everything": f"--refine guided --instances --polygons --backdrop white --min-presence 0.3 -f {EVERY},soft,soft16",
    "labels": "--mode labels --background 0.2 --refine grabcut -f mask,labels --empty skip --invert",
}


@pytest.fixture
def run(clipseg: Program, tmp_path: Path) -> Path:
    """A run that kept its soft maps, of images in two folders, one name twice, and one broken."""
    for index, name in enumerate(("a.jpg", "a.png", "sub/b.jpg", "sub/odd\nname.jpg")):
        save(tmp_path / "imgs" / name, picture(150 + 30 * index, 120, index))
    (tmp_path / "imgs/broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 nothing")
    clipseg("clipseg segment imgs -p 'a red circle' -p red -f soft16 -f soft -o run", expect=3)
    return tmp_path / "run"


def contents(out: Path) -> dict[str, bytes]:
    """Returns the content of every file by name, without the lock and the files that hold times."""
    return {name: data for name, data in tree(out).items() if name != ".clipseg-lock"}


@pytest.mark.parametrize("flags", CASES.values(), ids=CASES)
def test_post_writes_what_segment_writes(
    clipseg: Program, run: Path, tmp_path: Path, flags: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the same options `post` and `segment` leave the same tree, byte for byte, manifest included."""
    clipseg(f"clipseg segment imgs -p 'a red circle' -p red {flags} -o one", expect=3)
    monkeypatch.delattr(Segmenter, "load")  # nobody may load a model
    clipseg(f"clipseg post run {flags} -o two", expect=3)
    one, two = contents(tmp_path / "one"), contents(tmp_path / "two")
    assert one.keys() == two.keys() and [name for name in one if one[name] != two[name]] == []
    assert len(records(tmp_path / "two/manifest.jsonl")) == 5


@pytest.mark.parametrize(
    "case",
    ["everything", pytest.param("clean", marks=pytest.mark.slow), pytest.param("labels", marks=pytest.mark.slow)],
)
def test_post_does_not_import_torch(
    clipseg: Program, run: Path, tmp_path: Path, environment: dict[str, str], case: str
) -> None:
    """Neither torch nor transformers, in a fresh process."""
    code = (
        "import sys, clipseg_cli.cli.main as c\ntry: c.main()\n"
        "finally: assert not {'torch', 'transformers'} & set(sys.modules)"
    )
    command = [sys.executable, "-c", code, "post", "run", *CASES[case].split(), "-o", "two"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 3 and "Assertion" not in done.stderr, done.stderr


def test_thresholds_stay_those_of_the_run(clipseg: Program, run: Path, tmp_path: Path) -> None:
    """Without -t each label keeps its threshold."""
    done = clipseg("clipseg post run -f mask -o masks --json", expect=3)
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [[mask["threshold"] for mask in row["masks"]] for row in rows] == [
        [mask["threshold"] for mask in row["masks"]] for row in records(run / "manifest.jsonl")
    ]


def test_photos_are_read_only_where_they_are_needed(clipseg: Program, run: Path, tmp_path: Path) -> None:
    """Masks come without them. An overlay of a photo that is gone is a failed record."""
    shutil.rmtree(tmp_path / "imgs")
    clipseg("clipseg post run -f mask -o masks", expect=3)
    assert [row["status"] for row in records(tmp_path / "masks/manifest.jsonl")].count("ok") == 4
    clipseg("clipseg post run -o seen", expect=3)
    assert {row["error"]["class"] for row in records(tmp_path / "seen/manifest.jsonl")} == {"vanished", "corrupt"}


def test_photos_are_found_from_the_folder_of_the_run(
    clipseg: Program, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Relative names start in the folder in which the run was started. A photo of another size is not the run's."""
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    clipseg("clipseg post ../run -o seen", expect=3)
    assert [row["status"] for row in records(tmp_path / "elsewhere/seen/manifest.jsonl")].count("ok") == 4
    save(tmp_path / "imgs/a.jpg", picture(20, 20))
    clipseg("clipseg post ../run -o other", expect=3)
    rows = {row["image"]: row for row in records(tmp_path / "elsewhere/other/manifest.jsonl")}
    assert rows["imgs/a.jpg"]["error"]["class"] == "changed"


def test_thresholds_of_a_prompts_file_precede_a_general_one(clipseg: Program, run: Path, tmp_path: Path) -> None:
    """`post -t 0.4` sets the threshold of the labels that have none in the prompts file, as `segment -t 0.4` does,
    also in a second `post`."""
    (tmp_path / "p.csv").write_text("label,text,threshold\ncircle,a red circle,0.7\nred,red,\n")
    clipseg("clipseg segment imgs -P p.csv -f soft -o own", expect=3)
    clipseg("clipseg post own -t 0.4 -f mask,soft -o one", expect=3)
    clipseg("clipseg post one -t 0.4 -f mask -o two", expect=3)
    clipseg("clipseg post own -t 0.4 -t circle=0.2 -f mask -o three", expect=3)
    for out, expected in (("one", [0.7, 0.4]), ("two", [0.7, 0.4]), ("three", [0.2, 0.4])):
        assert [mask["threshold"] for mask in records(tmp_path / out / "manifest.jsonl")[0]["masks"]] == expected


def test_the_output_never_replaces_another_run(clipseg: Program, run: Path, tmp_path: Path) -> None:
    """The run's own folder and that of another run are refused. Output of an earlier `post` is replaced."""
    assert "--out" in clipseg("clipseg post run -o run", expect=1).stderr
    shutil.copytree(run, tmp_path / "other")
    assert "--overwrite" in clipseg("clipseg post run -o other", expect=1).stderr
    clipseg("clipseg post run -o other --overwrite -f mask", expect=3)
    clipseg("clipseg post run -o other -f mask -t 0.9", expect=3)
    assert records(tmp_path / "other/manifest.jsonl")[0]["masks"][0]["threshold"] == 0.9


def test_a_repeated_post_does_only_what_is_missing_or_changed(
    clipseg: Program, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An interrupted `post` goes on: what is finished is not written again, unless its soft map has changed. The end is
    the tree of an uninterrupted one. A finished one writes no file, and other options begin again."""
    clipseg("clipseg post run -f mask,coco -o whole", expect=3)
    last = [row["image"] for row in records(run / "manifest.jsonl") if row["status"] == "ok"][-1]
    write = writers.WRITERS["mask"]

    def stopped(stem: str, result: Any) -> Iterator[Any]:
        if result.name == last:
            raise OutputError("stopped")
        yield from write(stem, result)

    with monkeypatch.context() as patch:
        patch.setitem(writers.WRITERS, "mask", stopped)
        clipseg("clipseg post run -f mask,coco -o masks", expect=1)
    done = {row["image"] for row in records(tmp_path / "masks/manifest.jsonl") if row["status"] == "ok"}
    assert len(done) == 3 and last not in done
    assert "(3 before)" in clipseg("clipseg post run -f mask,coco -o masks", expect=3).stderr
    assert contents(tmp_path / "masks").items() ^ contents(tmp_path / "whole").items() <= {
        ("manifest.jsonl", contents(out)["manifest.jsonl"]) for out in (tmp_path / "masks", tmp_path / "whole")
    }
    os.utime(run / "soft16/red/sub/b.png", ns=(1, 1))
    assert "(3 before)" in clipseg("clipseg post run -f mask,coco -o masks", expect=3).stderr
    assert "(4 before)" in clipseg("clipseg post run -f mask,coco -o masks", expect=3).stderr
    assert "before" not in clipseg("clipseg post run -f mask,coco -t 0.9 -o masks", expect=3).stderr


def test_a_lost_soft_map_costs_one_image(clipseg: Program, run: Path, tmp_path: Path) -> None:
    """The image's record is `vanished`."""
    (run / "soft16/red/sub/b.png").unlink()
    clipseg("clipseg post run -f mask -o masks", expect=3)
    (lost,) = [row for row in records(tmp_path / "masks/manifest.jsonl") if row["image"] == "imgs/sub/b.jpg"]
    assert lost["error"]["class"] == "vanished"


def test_post_needs_a_run_with_soft_maps(clipseg: Program, run: Path) -> None:
    """A folder without a run, a run without soft maps, and 16-bit soft maps of an 8-bit run are usage errors."""
    assert "no run" in clipseg("clipseg post nowhere", expect=2).stderr
    document = json.loads((run / "run.json").read_text())
    for formats, flags, message in ((["mask"], "", "-f soft"), (["soft"], "-f soft16", "only 8-bit soft maps")):
        document["settings"]["formats"] = formats
        (run / "run.json").write_text(json.dumps(document))
        assert message in clipseg(f"clipseg post run -o more {flags}", expect=2).stderr
