"""The first promise of the README: the bundled model finds what the samples show."""

import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

from pictures import SAMPLES, Shell, iou, picture, records

LABEL = "a-red-circle"
FOUND = 0.85  # intersection over union that every sample with a red circle reaches


def test_the_samples_red_circles_are_found(shell: Shell, tmp_path: Path) -> None:
    """Every sample that shows a red circle has a mask with IoU over 0.85, every other one an empty mask."""
    shell(f"clipseg segment {SAMPLES}/images -p 'a red circle' -o out")
    rows = records(tmp_path / "out/manifest.jsonl")
    assert len(rows) == len(list((SAMPLES / "images").iterdir())) >= 8
    scores = []
    for row in rows:
        stem = Path(row["image"]).stem
        mask = cv2.imread(str(tmp_path / "out" / row["masks"][0]["path"]), cv2.IMREAD_UNCHANGED)
        truth = cv2.imread(str(SAMPLES / "masks" / LABEL / f"{stem}.png"), cv2.IMREAD_UNCHANGED)
        assert mask.shape == truth.shape
        if truth.any():
            scores.append(iou(mask, truth))
            assert scores[-1] > FOUND, f"{stem}: {scores[-1]:.3f}"
        else:
            assert not mask.any(), stem
    assert 4 <= len(scores) < len(rows)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_mask_lies_as_a_viewer_shows_the_picture(shell: Shell, tmp_path: Path, orientation: int) -> None:
    """With every EXIF orientation the mask has the upright picture's size and finds the disc where a viewer sees it."""
    from PIL import Image, ImageOps

    upright = np.full((240, 320, 3), 205, np.uint8)
    cv2.circle(upright, (90, 100), 55, (214, 40, 40), -1, cv2.LINE_AA)
    exif = Image.Exif()
    exif[0x0112] = orientation
    # what the camera stores: the picture that the orientation turns upright
    undo = {5: 5, 6: 8, 7: 7, 8: 6}.get(orientation, orientation)
    stored = Image.fromarray(upright)
    stored.getexif()[0x0112] = undo
    stored = ImageOps.exif_transpose(stored)
    stored.save(tmp_path / "turned.jpg", exif=exif, quality=95)
    shell("clipseg segment turned.jpg -p 'a red circle' -o mask.png")
    mask = cv2.imread(str(tmp_path / "mask.png"), cv2.IMREAD_UNCHANGED)
    truth = cv2.circle(np.zeros((240, 320), np.uint8), (90, 100), 55, 255, -1)
    assert mask.shape == truth.shape and iou(mask, truth) > 0.8


def test_every_mode_of_file_gives_a_mask(shell: Shell, tmp_path: Path) -> None:
    """Palette, 16-bit, CMYK, RGBA, grey: a mask of the right size each; the disc is found wherever colour is kept."""
    from PIL import Image

    image = Image.fromarray(picture(320, 240))
    folder = tmp_path / "modes"
    folder.mkdir()
    image.convert("P", palette=Image.Palette.ADAPTIVE).save(folder / "palette.png")
    image.convert("CMYK").save(folder / "cmyk.jpg", quality=95)
    image.convert("RGBA").save(folder / "rgba.png")
    image.convert("L").save(folder / "grey.png")
    cv2.imwrite(str(folder / "deep.png"), np.asarray(image.convert("L")).astype(np.uint16) * 257)
    shell("clipseg segment modes -p 'a red circle' -o out -f mask -f overlay")
    truth = cv2.circle(np.zeros((240, 320), np.uint8), (160, 120), 60, 255, -1)
    masks = {}
    for row in records(tmp_path / "out/manifest.jsonl"):
        masks[Path(row["image"]).stem] = cv2.imread(
            str(tmp_path / "out" / row["masks"][0]["path"]), cv2.IMREAD_UNCHANGED
        )
    assert all(mask.shape == truth.shape for mask in masks.values()) and len(masks) == 5
    assert all(iou(masks[name], truth) > 0.8 for name in ("palette", "cmyk", "rgba"))
    assert np.array_equal(masks["deep"], masks["grey"]), "16 bits are scaled to 8"


def test_the_readme_does_what_it_says(shell: Shell, tmp_path: Path) -> None:
    """Every `clipseg` line of the README's Use section runs as written, on the samples and with `shapes`."""
    for folder in ("photos", "imgs", "scans"):
        shutil.copytree(SAMPLES / "images", tmp_path / folder)
    shutil.copy(SAMPLES / "images/balcony.jpg", tmp_path / "in.jpg")
    shutil.copy(SAMPLES / "exemplars/red_circle.png", tmp_path / "ref.png")
    shutil.copytree(SAMPLES / "exemplars", tmp_path / "cats")
    (tmp_path / "prompts.csv").write_text("label,text,threshold\nsky,the sky,\ncircle,a red circle,0.4\n")
    readme = (SAMPLES.parent / "README.md").read_text(encoding="utf-8")
    block = readme.split("## Use")[1].split("```bash\n")[1].split("```")[0]
    lines = block.strip().splitlines()
    assert len(lines) >= 6
    for line in lines:
        shell(f"rm -rf out clipseg-out; {line}")
    assert cv2.imread(str(tmp_path / "mask.png"), cv2.IMREAD_UNCHANGED) is not None


def test_the_model_card_and_the_config_agree() -> None:
    """The default threshold stands once, in the bundled model's config.json, and is what `Segmenter` uses."""
    from clipseg_cli.model.registry import BUNDLED, locate

    threshold = json.loads((BUNDLED / "config.json").read_text())["clipseg_threshold"]
    assert locate("shapes").threshold == threshold
    assert sum(path.stat().st_size for path in BUNDLED.iterdir()) <= 10_000_000
