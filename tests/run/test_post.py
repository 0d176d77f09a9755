"""`clipseg post`: a run's soft maps to masks again. The model is `shapes`; post never loads it."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pictures import Shell, picture, records, save

EVERY = "mask,overlay,cutout,labels,npz,coco,yolo,voc,labelme,svg,webdataset"
CASES = {
    "plain": "-t 0.4 -f mask,overlay",
    "clean": "-t otsu -t red=p90 --peak 0.5 --open 1 --close 2 --fill-holes all --min-area 0.1% --grow 2 --feather 2",
    "everything": f"--refine guided --components --polygons --backdrop white --min-presence 0.3 -f {EVERY},soft,soft16",
    "labels": "--mode labels --background 0.2 --refine grabcut -f mask,labels --empty skip --invert",
}


def tree(out: Path) -> dict[str, bytes]:
    """What a run leaves, but for what holds times; a manifest without the paths of maps that post did not write."""
    found = {str(p.relative_to(out)): p.read_bytes() for p in out.rglob("*") if p.is_file()}
    return {
        name: data
        for name, data in found.items()
        if name not in ("run.json", ".clipseg-journal.jsonl", ".clipseg-lock")
    }


@pytest.fixture(scope="module")
def imgs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures in two folders, one name twice, one broken."""
    folder = tmp_path_factory.mktemp("post")
    for index, name in enumerate(("a.jpg", "a.png", "sub/b.jpg", "sub/odd\nname.jpg")):
        save(folder / "imgs" / name, picture(150 + 30 * index, 120, index))
    (folder / "imgs/broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 nothing")
    return folder


@pytest.fixture(scope="module")
def run(imgs: Path) -> Path:
    """A folder with the pictures and a run that kept its maps."""
    environment = os.environ | {"CLIPSEG_MODEL": "shapes", "XDG_CONFIG_HOME": str(imgs / "none")}
    command = [sys.executable, "-m", "clipseg_cli", "segment", "imgs", "-p", "a red circle", "-p", "red"]
    done = subprocess.run([*command, "-f", "soft16", "-f", "soft", "-o", "run"], cwd=imgs, env=environment, check=False)
    assert done.returncode == 3
    return imgs


@pytest.mark.parametrize("flags", CASES.values(), ids=CASES)
def test_post_gives_what_segment_gives(shell: Shell, run: Path, flags: str) -> None:
    """The same options to `post` and to `segment`: the same tree, byte for byte, manifest included, and no torch."""
    shell(f"cd {run} && rm -rf one two && clipseg segment imgs -p 'a red circle' -p red {flags} -o one", expect=3)
    code = (
        "import sys, clipseg_cli.cli.main as c\ntry: c.main()\n"
        "finally: assert not {'torch', 'transformers'} & set(sys.modules)"
    )
    told = shell(f'cd {run} && {sys.executable} -c "{code}" post run {flags} -o two', expect=3)
    assert "Assertion" not in told.stderr
    one, two = tree(run / "one"), tree(run / "two")
    assert one.keys() == two.keys() and [name for name in one if one[name] != two[name]] == []
    assert len(records(run / "two/manifest.jsonl")) == 5


def test_thresholds_stay_the_runs_and_photos_are_left_alone(shell: Shell, run: Path, tmp_path: Path) -> None:
    """Without -t the run's thresholds; masks need no photo, overlays do and say so."""
    shutil.copytree(run / "run", tmp_path / "run")
    done = shell("clipseg post run -f mask -o masks --json", expect=3)
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    before = records(tmp_path / "run/manifest.jsonl")
    assert [[m["threshold"] for m in row.get("masks", ())] for row in rows] == [
        [m["threshold"] for m in row.get("masks", ())] for row in before
    ]
    document = json.loads((tmp_path / "run/run.json").read_text()) | {"directory": str(tmp_path)}
    (tmp_path / "run/run.json").write_text(json.dumps(document))
    shell("clipseg post run -o seen", expect=3)
    assert {row["error"]["class"] for row in records(tmp_path / "seen/manifest.jsonl")} == {"vanished", "corrupt"}


def test_a_prompts_files_thresholds_beat_a_bare_one(shell: Shell, run: Path, tmp_path: Path) -> None:
    """`post -t 0.4` changes what the prompts file left open, as `segment -t 0.4` does; also through a second `post`."""
    shutil.copytree(run / "imgs", tmp_path / "imgs")
    (tmp_path / "p.csv").write_text("label,text,threshold\ncircle,a red circle,0.7\nred,red,\n")
    shell("clipseg segment imgs -P p.csv -f soft -o run", expect=3)
    shell("clipseg post run -t 0.4 -f mask,soft -o one && exit 1; clipseg post one -t 0.4 -f mask -o two", expect=3)
    shell("clipseg post run -t 0.4 -t circle=0.2 -f mask -o three", expect=3)
    for out, expected in (("one", [0.7, 0.4]), ("two", [0.7, 0.4]), ("three", [0.2, 0.4])):
        assert [mask["threshold"] for mask in records(tmp_path / out / "manifest.jsonl")[0]["masks"]] == expected


def test_what_cannot_be_done_is_told(shell: Shell, run: Path, tmp_path: Path) -> None:
    """No run, no soft maps, the run's own folder, another run's folder, a map that was lost."""
    assert "no run" in shell("clipseg post nowhere", expect=2).stderr
    shutil.copytree(run / "run", tmp_path / "run")
    assert "--out" in shell("clipseg post run -o run", expect=1).stderr
    shutil.copytree(run / "run", tmp_path / "other")
    assert "--overwrite" in shell("clipseg post run -o other", expect=1).stderr
    (tmp_path / "run/soft16/red/sub/b.png").unlink()
    shell("clipseg post run -f mask -o masks", expect=3)
    lost = [row for row in records(tmp_path / "masks/manifest.jsonl") if row["image"] == "imgs/sub/b.jpg"]
    assert lost[0]["error"]["class"] == "vanished"
    shell("clipseg post run -f mask -o masks", expect=3)  # what post wrote, post may write again
    document = json.loads((tmp_path / "run/run.json").read_text())
    document["settings"]["formats"] = ["mask"]
    (tmp_path / "run/run.json").write_text(json.dumps(document))
    assert "-f soft" in shell("clipseg post run -o more", expect=2).stderr
