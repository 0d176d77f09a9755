"""A run as a whole: its tree, output names that are never shared, several devices, and when a run gives up."""

import json
import shutil
from pathlib import Path

import cv2
import pytest

from clipseg_cli.inputs.source import Source
from clipseg_cli.run import segment
from clipseg_cli.storage import store
from output_folder import tree
from pictures import Program, Shell, picture, records, save, save_tiny


@pytest.mark.slow
def test_several_devices_do_one_run(quick_shell: Shell, tmp_path: Path) -> None:
    """Two workers of two devices write the files of one, and run.json names the devices."""
    save_tiny(tmp_path / "imgs", 60)
    quick_shell("clipseg segment imgs -p red -o one; clipseg segment imgs -p red -o two --device cpu,cpu")
    assert tree(tmp_path / "one") == tree(tmp_path / "two")
    assert json.loads((tmp_path / "two/run.json").read_text())["device"] == "cpu"


def test_a_device_that_is_wrong_or_absent_is_refused(clipseg: Program, tmp_path: Path) -> None:
    """Both are usage errors."""
    save(tmp_path / "imgs/a.png", picture(48, 48))
    assert "like cuda:0,1" in clipseg("clipseg segment imgs -p circle --device cuda:0,", expect=2).stderr
    assert "no device 'cuda:9" in clipseg("clipseg find imgs -p circle --device cuda:98,99", expect=2).stderr


@pytest.mark.parametrize("flag", ["--fail-fast", "--max-errors 2"])
def test_a_run_stops_at_so_many_errors(clipseg: Program, tmp_path: Path, flag: str) -> None:
    """The run ends with 1 once so many images failed. Each is in the manifest, and the model was not loaded."""
    for index in range(60):
        (tmp_path / f"{index:02}.jpg").write_bytes(b"\xff\xd8\xff\xe0 not much of an image")
    done = clipseg(f"clipseg segment . -p circle {flag}", expect=1)
    allowed = 1 if flag == "--fail-fast" else 2
    assert f"stopped: {allowed} images failed" in done.stderr and "model shapes" not in done.stderr
    rows = records(tmp_path / "clipseg-out/manifest.jsonl")
    assert [row["error"]["class"] for row in rows] == ["corrupt"] * allowed


def test_two_images_never_share_an_output(
    quick_clipseg: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every image has a mask of its own: `a.jpg` beside `a.png`, an absolute and a relative path of one spelling, a
    folder with the name of an image's mask. The same command again changes nothing."""
    names = ["sub.jpg", "sub.png/a.jpg", "sub.jpg.png/b.jpg", "a.jpg", "a.png", "A.jpg"]
    for seed, name in enumerate(names):
        save(tmp_path / "imgs" / name, picture(48, 40, seed))
    quick_clipseg("clipseg segment imgs -p red -o out")
    masks = [row["masks"][0]["path"] for row in records(tmp_path / "out/manifest.jsonl")]
    assert len(set(masks)) == len(names) and all((tmp_path / "out" / path).is_file() for path in masks)
    inner = tmp_path / "imgs" / str(tmp_path).lstrip("/")  # named from imgs/, it looks like the absolute path
    save(inner / "imgs/a.jpg", picture(48, 40, 9))
    line = f"clipseg segment {tmp_path}/imgs/a.jpg {inner.relative_to(tmp_path / 'imgs')}/imgs/a.jpg"
    monkeypatch.chdir(tmp_path / "imgs")
    for _ in range(2):
        quick_clipseg(f"{line} a.jpg ./a.jpg -p red -o ../two")
        rows = records(tmp_path / "two/manifest.jsonl")
        assert len(rows) == 3 == len({row["masks"][0]["path"] for row in rows})


def test_two_folders_in_one_output_folder_share_no_output(
    quick_clipseg: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One run after the other, over two folders with an image of one name, and over an absolute and a relative path of
    one spelling: every image has its own mask and keeps it, and a further run finds all done."""
    relative = f"b/{tmp_path}/a/x.png".replace("//", "/")
    for seed, name in enumerate(["a/x.png", "b/x.png", relative]):
        save(tmp_path / name, picture(48 + seed, 40, seed))
    lines = [(tmp_path, "a"), (tmp_path, "b -d 1"), (tmp_path, f"{tmp_path}/a/x.png")]
    lines += [(tmp_path / "b", relative.removeprefix("b/"))]
    for turn in range(2):
        for folder, inputs in lines:
            monkeypatch.chdir(folder)
            told = quick_clipseg(f"clipseg segment {inputs} -p red -o {tmp_path}/out").stderr
            assert told.count("(1 before)") == turn
    rows = records(tmp_path / "out/manifest.jsonl")
    paths = [tmp_path / "out" / row["masks"][0]["path"] for row in rows]
    assert len(rows) == 4 == len({row["image"] for row in rows}) == len(set(paths))
    assert [cv2.imread(str(path)).shape for path in paths] == [(40, row["width"], 3) for row in rows]


def test_a_mask_does_not_outlive_its_image(quick_clipseg: Program, tmp_path: Path) -> None:
    """If an image is replaced by one that cannot be read, or by one without the object under --empty skip, its old
    files are deleted. Those of other images stay."""
    line = "clipseg segment imgs -p red -f mask -f overlay -f yolo --empty skip -o out"
    for name in "abc":
        save(tmp_path / f"imgs/{name}.png", picture(48, 40, 3))
    quick_clipseg(line)
    files = sorted((tmp_path / "out").rglob("a.*"))
    assert [path.suffix for path in files] == [".png", ".jpg", ".png", ".txt"]
    (tmp_path / "imgs/a.png").write_bytes(b"\x89PNG\r\n\x1a\n and no more")
    save(tmp_path / "imgs/b.png", 0 * picture(48, 40, 3))
    quick_clipseg(line, expect=3)
    assert not any(path.exists() for path in files)
    assert {path.parent.name for path in (tmp_path / "out").rglob("b.*")} == {"overlays", "images", "labels"}
    assert len([*(tmp_path / "out").rglob("c.*")]) == len(files)


def test_names_stay_apart_on_a_file_system_that_folds_them(tmp_path: Path) -> None:
    """If `A.png` and `a.png` are one file, or two spellings of é, the second image's output is marked. The file system
    of this machine does not fold names, and the program finds that out."""
    names = ["a", "A", "caf\u00e9", "cafe\u0301", "Stra\u00dfe", "STRASSE", "b"]
    found = list(segment._unfolded(Source(name, name, name) for name in names))
    assert [source.output == source.name for source in found] == [True, False, True, False, True, False, True]
    assert len({store.folded(source.output) for source in found}) == len(names)
    assert not store.folds(tmp_path) and not [*tmp_path.iterdir()]


def test_the_second_run_takes_the_next_free_folder(quick_clipseg: Program, tmp_path: Path) -> None:
    """Without -o a run of other settings goes to clipseg-out-2, and says so. The same command again resumes, wherever
    its folder is, also after the folders before it are gone. --overwrite starts its own run again, and no other."""
    save(tmp_path / "imgs/a.png", picture(48, 40))
    first = quick_clipseg("clipseg segment imgs -p cat")
    assert "-> clipseg-out\n" in first.stderr and first.stdout == "clipseg-out/masks/cat/a.png\n"
    second = quick_clipseg("clipseg segment imgs -p dog")
    assert second.stdout == "clipseg-out-2/masks/dog/a.png\n"
    assert "clipseg-out holds a run with other settings: this run goes to clipseg-out-2\n" in second.stderr
    for label, out in (("dog", "clipseg-out-2"), ("cat", "clipseg-out")):
        told = quick_clipseg(f"clipseg segment imgs -p {label}").stderr
        assert "(1 before)" in told and f"-> {out}\n" in told
        told = quick_clipseg(f"clipseg segment imgs -p {label} --overwrite").stderr
        assert "before" not in told and f"-> {out}\n" in told
    shutil.rmtree(tmp_path / "clipseg-out")
    told = quick_clipseg("clipseg segment imgs -p dog").stderr
    assert "this run is in clipseg-out-2\n" in told and "(1 before)" in told
    assert "-> clipseg-out\n" in quick_clipseg("clipseg segment imgs -p bird").stderr
    quick_clipseg("clipseg segment imgs -p fish --overwrite")  # has no run yet: clipseg-out, as it says
    assert [path.name for path in (tmp_path / "clipseg-out-2/masks").iterdir()] == ["dog"]
    assert sorted(path.name for path in tmp_path.glob("clipseg-out*")) == ["clipseg-out", "clipseg-out-2"]
    assert json.loads((tmp_path / "clipseg-out/run.json").read_text())["settings"]["prompts"][0]["label"] == "fish"


def test_a_folder_that_is_named_is_never_exchanged(quick_clipseg: Program, tmp_path: Path) -> None:
    """With -o, other settings are an error that shows the difference and the two ways on. Nothing is touched."""
    save(tmp_path / "imgs/a.png", picture(48, 40))
    quick_clipseg("clipseg segment imgs -p cat -t 0.3 -o out")
    before = tree(tmp_path / "out")
    message = quick_clipseg("clipseg segment imgs -p dog -p cat -t 0.4 -o out", expect=1).stderr
    assert message.splitlines() == [
        "clipseg: out holds a run with other settings:",
        "  prompt dog: only now",
        "  threshold of prompt cat: 0.3 there, 0.4 now",
        "name another folder with -o, or replace that run with --overwrite",
    ]
    assert tree(tmp_path / "out") == before and not (tmp_path / "out-2").exists()


@pytest.mark.slow
def test_two_runs_that_start_together_take_two_folders(quick_shell: Shell, tmp_path: Path) -> None:
    """Without -o, two commands at the same time never write to one folder; each says where it is."""
    save_tiny(tmp_path / "imgs", 8)
    labels = ["red", "blue", "green", "cat", "dog"]
    quick_shell(f"for label in {' '.join(labels)}; do clipseg segment imgs -p $label -q --print none & done; wait")
    folders = sorted(tmp_path.glob("clipseg-out*"))
    found = [[path.name for path in (folder / "masks").iterdir()] for folder in folders]
    assert sorted(found) == sorted([label] for label in labels)
    assert all(len(records(folder / "manifest.jsonl")) == 8 for folder in folders)


def test_two_runs_give_the_same_bytes(clipseg: Program, tmp_path: Path) -> None:
    """Everything but run.json is equal byte for byte between two runs of one command."""
    for index, name in enumerate(("a.jpg", "b.png", "sub/c.jpg", "sub/deep/d.webp")):
        save(tmp_path / "imgs" / name, picture(160 + 16 * index, 120, index))
    for out in ("one", "two"):
        clipseg(f"clipseg segment imgs -p circle -f mask -f soft -f overlay -o {out}")
    one, two = (
        {path.relative_to(out): path.read_bytes() for path in out.rglob("*") if path.is_file()}
        for out in (tmp_path / "one", tmp_path / "two")
    )
    assert one.keys() == two.keys() and len(one) == 4 * 3 + 5
    assert {path for path in one if one[path] != two[path]} == {Path("run.json")}


def test_one_corrupt_file_costs_one_record(clipseg: Program, tmp_path: Path) -> None:
    """The other images are done, the manifest gives the reason, and the exit code is 3."""
    image = save(tmp_path / "imgs/a.jpg", picture())
    (tmp_path / "imgs/broken.jpg").write_bytes(image.read_bytes()[:700])
    (tmp_path / "imgs/empty.png").touch()
    done = clipseg("clipseg segment imgs -p circle -o out", expect=3)
    rows = {row["image"]: row for row in records(tmp_path / "out/manifest.jsonl")}
    assert rows["imgs/a.jpg"]["status"] == "ok" and len(rows) == 3
    assert rows["imgs/broken.jpg"]["error"]["class"] == "corrupt"
    assert rows["imgs/empty.png"]["error"]["class"] == "empty"
    assert "imgs/broken.jpg" in done.stderr and not (tmp_path / "out/masks/circle/broken.png").exists()


@pytest.mark.parametrize("out", ["imgs/out", "imgs"])
def test_a_run_never_segments_its_own_outputs(clipseg: Program, tmp_path: Path, out: str) -> None:
    """If the output folder is inside the input folder, or is the same, a second run finds the same images."""
    for name in ("a.jpg", "sub/b.png"):
        save(tmp_path / "imgs" / name, picture(64, 48))
    for _ in range(2):
        clipseg(f"clipseg segment imgs -p circle -o {out}")
        assert len(records(tmp_path / out / "manifest.jsonl")) == 2
