"""`clipseg segment`: inputs, outputs and what is printed. The model is the bundled `shapes`."""

import base64
import json
import os
import pty
import subprocess
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

import icc
from clipseg_cli.inputs.colour import profiles
from pictures import Program, iou, picture, records, save


def test_a_folder_and_a_prompt_give_masks_overlays_and_a_manifest(clipseg: Program, imgs: Path, tmp_path: Path) -> None:
    """The tree is mirrored. Masks have the image's size and only 0 and 255. Manifest and run.json describe the run."""
    done = clipseg("clipseg segment imgs -p 'a red circle' -p sky=blue")
    out = tmp_path / "clipseg-out"
    rows = records(out / "manifest.jsonl")
    assert [row["image"] for row in rows] == [f"imgs/{n}" for n in ("a.jpg", "b.png", "sub/c.jpg", "sub/deep/d.webp")]
    assert done.stdout.splitlines() == [f"clipseg-out/{mask['path']}" for row in rows for mask in row["masks"]]
    for row in rows:
        assert row["v"] == 2 and row["status"] == "ok"
        mask = cv2.imread(str(out / row["masks"][0]["path"]), cv2.IMREAD_UNCHANGED)
        assert mask.shape == (row["height"], row["width"]) and set(np.unique(mask)) <= {0, 255}
        disc = cv2.circle(np.zeros_like(mask), (mask.shape[1] // 2, mask.shape[0] // 2), 30, 255, -1)
        assert iou(mask, disc) > 0.8
        first = row["masks"][0]
        assert first["area"] == np.count_nonzero(mask) and first["label"] == first["prompt"] == "a red circle"
        assert first["area_frac"] == pytest.approx(first["area"] / mask.size, abs=1e-6)
        assert row["masks"][1]["label"] == "sky" and row["masks"][1]["prompt"] == "blue"
        overlay = cv2.imread(str(out / row["files"]["overlay"]))
        assert overlay.shape == (*mask.shape, 3)
    assert (out / "masks/a-red-circle/sub/deep/d.png").is_file() and (out / "masks/sky/a.png").is_file()
    run = json.loads((out / "run.json").read_text())
    assert run["command"][:3] == ["clipseg", "segment", "imgs"] and run["model"]["name"] == "shapes"
    assert run["model"]["revision"] is None, "a commit id is never invented"
    assert "model shapes on cpu in " in done.stderr


def test_json_prints_the_lines_of_the_manifest(clipseg: Program, imgs: Path, tmp_path: Path) -> None:
    """`--json` prints them on stdout, with paths from the working directory; `--print none` prints nothing."""
    done = clipseg("clipseg segment imgs -p circle -o out --json")
    printed, kept = (
        list(map(json.loads, text.splitlines()))
        for text in (done.stdout, (tmp_path / "out/manifest.jsonl").read_text())
    )
    for one, other in zip(printed, kept, strict=True):
        assert Path(one["masks"][0]["path"]).is_file() and Path(one["files"]["overlay"]).is_file()
        other["masks"][0]["path"] = f"out/{other['masks'][0]['path']}"
        other["files"]["overlay"] = f"out/{other['files']['overlay']}"
    assert printed == kept
    assert clipseg("clipseg segment imgs -p circle -o out --print none").stdout == ""


@pytest.mark.parametrize("arguments", ["- -o -", ""])
def test_one_image_on_stdin_gives_its_mask_on_stdout(
    clipseg: Program, imgs: Path, tmp_path: Path, arguments: str
) -> None:
    """`- -o -` is a filter. If stdin and stdout are no terminals, it is the default. No folder is written."""
    done = clipseg(f"clipseg segment {arguments} -p 'a red circle'", stdin=(imgs / "a.jpg").read_bytes())
    (tmp_path / "mask.png").write_bytes(os.fsencode(done.stdout))
    with Image.open(tmp_path / "mask.png") as mask:
        assert mask.size == (160, 120) and mask.mode == "L" and set(np.unique(np.asarray(mask))) == {0, 255}
    assert not (tmp_path / "clipseg-out").exists()


def test_one_image_to_one_file(clipseg: Program, imgs: Path, tmp_path: Path) -> None:
    """-o FILE writes just that file, in the format of its suffix. --json names it."""
    clipseg("clipseg segment imgs/a.jpg -p circle -o mask.png")
    clipseg("clipseg segment imgs/a.jpg -p circle -p red -o seen.jpg")
    done = clipseg("clipseg segment imgs/a.jpg -p circle -o mask.tif --json")
    assert json.loads(done.stdout)["masks"][0]["path"] == "mask.tif"
    assert clipseg("clipseg segment imgs/a.jpg -p circle -f overlay -o seen.png").stdout == "seen.png\n"
    mask = cv2.imread(str(tmp_path / "mask.png"), cv2.IMREAD_UNCHANGED)
    with Image.open(tmp_path / "mask.tif") as other:
        assert other.format == "TIFF" and mask.shape == (120, 160) and np.array_equal(mask, np.asarray(other))
    assert cv2.imread(str(tmp_path / "seen.jpg")).shape == (120, 160, 3)
    with Image.open(tmp_path / "seen.png") as overlay:
        assert overlay.format == "PNG" and overlay.mode == "RGB"
    assert clipseg("clipseg segment imgs -p circle -o mask.png", expect=2).stderr.count("one image") == 1
    assert "there are 2" in clipseg("clipseg segment imgs/a.jpg -p a -p b -o mask.png", expect=2).stderr


def test_a_file_that_cannot_be_written_is_refused_and_no_folder_is_made(
    clipseg: Program, imgs: Path, tmp_path: Path
) -> None:
    """A lossy mask, a suffix that nothing is written as, and a folder of that name by accident: usage errors, also in a
    dry run. A slash at the end makes a folder."""
    before = sorted(tmp_path.iterdir())
    assert "never stored lossy" in clipseg("clipseg segment imgs/a.jpg -p a -f mask -o m.jpg", expect=2).stderr
    for line in (
        "segment imgs -p a -o m.gif -n",
        "segment imgs -p a -o m.mp4",
        "post imgs -o m.tif",
        "ui imgs -o m.png",
    ):
        assert "-o m." in clipseg(f"clipseg {line}", expect=2).stderr
    assert sorted(tmp_path.iterdir()) == before
    clipseg("clipseg segment imgs/a.jpg -p circle -f mask -o m.tif/")
    assert (tmp_path / "m.tif/masks/circle/imgs/a.png").is_file()


def test_a_list_on_stdin(clipseg: Program, imgs: Path, tmp_path: Path) -> None:
    """With no INPUTS and text on stdin, stdin is a list of paths. A missing one is a failed record, exit 3."""
    clipseg("clipseg segment -p circle -o out", expect=3, stdin=b"imgs/a.jpg\nimgs/none.jpg\n")
    rows = records(tmp_path / "out/manifest.jsonl")
    assert [row["status"] for row in rows] == ["ok", "failed"] and rows[1]["error"]["class"] == "vanished"


def test_names_that_would_collide_keep_their_extension(quick_clipseg: Program, imgs: Path, tmp_path: Path) -> None:
    """`b.png` and `b.jpg` in one folder get two masks."""
    save(imgs / "b.jpg", picture(200, 120, 9))
    quick_clipseg("clipseg segment imgs -p circle -o out")
    masks = (tmp_path / "out/masks/circle").glob("*.png")
    assert sorted(path.name for path in masks) == ["a.png", "b.jpg.png", "b.png.png"]


def test_names_that_are_no_text_keep_their_bytes(quick_clipseg: Program, imgs: Path, tmp_path: Path) -> None:
    """An image whose name is not UTF-8 is segmented, the manifest has the name's bytes, and its escape sequences do
    not reach the terminal."""
    os.rename(os.fsencode(imgs / "a.jpg"), os.fsencode(tmp_path) + b"/imgs/\xff\x1b[31m.jpg")
    done = quick_clipseg("clipseg segment imgs -p circle -o out --limit 9")
    rows = records(tmp_path / "out/manifest.jsonl")
    assert [base64.b64decode(row["image_b64"]) for row in rows if row["image_b64"]] == [b"imgs/\xff\x1b[31m.jpg"]
    assert "\x1b" not in done.stdout + done.stderr
    assert all((tmp_path / line).is_file() for line in done.stdout.splitlines())


def test_a_dry_run_prints_what_it_would_write(clipseg: Program, imgs: Path, tmp_path: Path) -> None:
    """-n lists every image with its masks and writes nothing."""
    done = clipseg("clipseg segment imgs -p 'a cat' -n")
    assert done.stdout.splitlines()[0] == "imgs/a.jpg -> masks/a-cat/a.png" and len(done.stdout.splitlines()) == 4
    assert not (tmp_path / "clipseg-out").exists()


def test_a_terminal_on_stdin_is_not_read(tmp_path: Path, environment: dict[str, str]) -> None:
    """Without INPUTS and with a terminal on stdin the program exits with 2 at once."""
    leader, follower = pty.openpty()
    try:
        done = subprocess.run(
            ["clipseg", "segment", "-p", "a"],
            stdin=follower,
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            timeout=60,
            check=False,
        )
    finally:
        os.close(leader)
        os.close(follower)
    assert done.returncode == 2 and b"no input" in done.stderr


@pytest.mark.slow
def test_files_name_the_colour_space_of_their_pixels(clipseg: Program, tmp_path: Path) -> None:
    """Display P3: overlays and cutouts carry the photo's own profile; VOC's photo is converted and carries sRGB.

    `post` repeats their bytes. A data set that takes PNG holds the original. A photo without a profile gives files that
    name no colour space.
    """
    photo = picture(160, 120, 1)
    for name, profile in (("wide", icc.profile("Display P3")), ("plain", None)):
        Image.fromarray(photo).save(tmp_path / f"{name}.png", icc_profile=profile)
        forms = "-f soft -f overlay -f cutout -f yolo -f voc -f webdataset"
        clipseg(f"clipseg segment {name}.png -p 'a red circle' -o {name} {forms}")
        clipseg(f"clipseg post {name} -o {name}-post -f overlay -f cutout")
        colour = [*(tmp_path / name).rglob("*.jpg"), *(tmp_path / name).glob("cutouts/**/*.png")]
        for suffix in ("png", "webp", "tif"):
            for form in ("overlay", "cutout"):
                clipseg(f"clipseg segment {name}.png -p 'a red circle' -f {form} -o {name}-{form}.{suffix}")
                colour.append(tmp_path / f"{name}-{form}.{suffix}")
        assert len(colour) == 9
        assert (tmp_path / name / f"yolo/images/{name}.png").read_bytes() == (tmp_path / f"{name}.png").read_bytes()
        for path in colour:
            with Image.open(path) as file:
                info = file.info
            expected = profile if profile is None or "voc" not in path.parts else profiles.srgb()
            assert info.get("icc_profile") == expected, path
            assert not {"srgb", "gamma"} & info.keys()
        for path in (tmp_path / f"{name}-post").rglob("*.*"):
            if path.suffix in (".jpg", ".png"):
                assert path.read_bytes() == (tmp_path / name / path.relative_to(tmp_path / f"{name}-post")).read_bytes()
    with Image.open(tmp_path / "wide/voc/JPEGImages/wide.jpg") as file:
        assert np.abs(np.asarray(file) - icc.in_srgb(photo, "Display P3").astype(int)).mean() < 3
    (row,) = records(tmp_path / "wide/manifest.jsonl")
    assert row["notes"] == "colours converted from Display P3 to sRGB"
