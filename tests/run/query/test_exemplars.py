"""Exemplars: which files, which region of each is the object, and what the model sees."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image as Pillow

from clipseg_cli.errors import UsageError
from clipseg_cli.model.segmenter import Segmenter
from clipseg_cli.prompts import highlight
from clipseg_cli.run.query.exemplars import Exemplar, parse, visual_prompt
from clipseg_cli.settings.inputs import DecodeOptions
from clipseg_cli.settings.prompts import RECIPE
from geotiffs import by_gdal
from pictures import picture, save


def disc(width: int = 200, height: int = 160) -> np.ndarray:
    """Returns the region of the disc in `pictures.picture`: bool (H, W)."""
    region = np.zeros((height, width), np.uint8)
    return cv2.circle(region, (width // 2, height // 2), min(width, height) // 4, 255, -1) > 0


def seen(segmenter: Segmenter, exemplar: Exemplar, region_prompt: str | None = None) -> np.ndarray:
    """Returns the visual prompt of the default recipe."""
    return visual_prompt(segmenter, exemplar, RECIPE, region_prompt)


@pytest.mark.parametrize("way", ["mask", "faint mask", "sibling", "box", "alpha", "palette", "whole"])
def test_each_way_of_marking_the_object_gives_its_region(segmenter: Segmenter, reference: Path, way: str) -> None:
    """A mask, a mask file beside the exemplar, a box and transparency mark the object. Without any of them the whole
    image is the object."""
    region = disc()
    if way == "box":
        region = np.zeros_like(region)
        region[40:120, 60:140] = True
    if way == "whole":
        region = np.ones_like(region)
    image = cv2.cvtColor(cv2.imread(str(reference)), cv2.COLOR_BGR2RGB)
    flat = np.where(region, 255, 0).astype(np.uint8)
    masks, boxes = [], []
    if "mask" in way:
        masks = [str(reference.with_name("other.png"))]
        cv2.imwrite(masks[0], flat if way == "mask" else region.astype(np.uint8))
    elif way == "sibling":
        cv2.imwrite(str(reference.with_name("ref_mask.png")), flat)
    elif way == "box":
        boxes = ["60,40,80,80"]
    elif way == "alpha":
        cv2.imwrite(str(reference), np.dstack((image[..., ::-1], flat)))
        image = np.where(region[..., None], image, 255).astype(np.uint8)  # transparent pixels are read on white
    elif way == "palette":
        few = Pillow.fromarray(np.where(region[..., None], (214, 40, 40), (9, 9, 9)).astype(np.uint8)).quantize(2)
        few.save(reference, transparency=few.getpixel((0, 0)))
        image = np.where(region[..., None], (214, 40, 40), 255).astype(np.uint8)
    (exemplar,) = parse([str(reference)], masks, boxes, "it")
    expected = highlight.highlight(image, region, RECIPE, segmenter.side).transpose(2, 0, 1)
    np.testing.assert_allclose(seen(segmenter, exemplar), expected, atol=1e-5)


def test_a_large_exemplar_looks_like_a_small_one(segmenter: Segmenter, tmp_path: Path) -> None:
    """The model sees about the same of an image of many pixels and of the same image with few."""
    prompts = []
    for width, height in ((300, 225), (3000, 2250)):
        image = cv2.resize(picture(300, 225), (width, height), interpolation=cv2.INTER_NEAREST)
        path = save(tmp_path / f"{width}.png", image)
        for box in (f"{width // 4},{height // 4},{width // 2},{height // 2}", f"0,0,{width},{height}"):
            prompts.append(seen(segmenter, parse([str(path)], [], [box], "it")[0]))
    for small, large in zip(prompts[:2], prompts[2:], strict=True):
        assert np.abs(small - large).mean() < 0.05


def test_a_text_prompt_finds_the_region(segmenter: Segmenter, reference: Path) -> None:
    """--support-prompt marks the mask that the text gives in the exemplar."""
    (exemplar,) = parse([str(reference)], [], [], "it")
    by_mask = highlight.highlight(picture(200, 160, 5), disc(), RECIPE, segmenter.side).transpose(2, 0, 1)
    assert np.abs(seen(segmenter, exemplar, "a red circle") - by_mask).mean() < 0.2, "about the same crop"


def test_a_folder_is_many_exemplars(reference: Path) -> None:
    """Every image of the folder is an exemplar, with the mask file beside it. Mask files are no exemplars."""
    cv2.imwrite(str(reference.with_name("ref_mask.png")), np.where(disc(), 255, 0).astype(np.uint8))
    save(reference.with_name("second.jpg"), picture())
    found = parse([f"it={reference.parent}"], [], [], "x")
    assert [(Path(each.path).name, each.mask and Path(each.mask).name) for each in found] == [
        ("ref.png", "ref_mask.png"),
        ("second.jpg", None),
    ]
    assert found[0] == Exemplar("it", str(reference), str(reference.with_name("ref_mask.png")))


def test_wrong_files_and_boxes_are_refused(reference: Path) -> None:
    """Missing files, other numbers of masks than of exemplars, and boxes that are no boxes are usage errors."""
    image = str(reference)
    for supports, masks, boxes, message in (
        ([f"{image}.no"], [], [], "no such file"),
        ([image] * 2, ["m.png"], [], "1 times for 2 exemplars"),
        ([image], ["m.png"], [], "m.png: no such file"),
        ([image], [], ["1,2,3"], "X,Y,WIDTH,HEIGHT"),
        *(([support], [], [], "--support") for support in ("", "it=", f"={image}", f" ={image}", "x" * 5000)),
    ):
        with pytest.raises(UsageError, match=message):
            parse(supports, masks, boxes, "x")


@pytest.mark.parametrize("box", ["300,300,5,5", "0,0,0,0", "-9,-9,5,5"])
def test_an_empty_region_is_refused(segmenter: Segmenter, reference: Path, box: str) -> None:
    """A box outside the image marks no object."""
    (exemplar,) = parse([str(reference)], [], [box], "x")
    with pytest.raises(UsageError, match="empty region"):
        seen(segmenter, exemplar)


def test_a_mask_of_another_size_is_refused(segmenter: Segmenter, reference: Path) -> None:
    """The error names the mask."""
    small = save(reference.with_name("small.png"), picture(50, 50))
    (exemplar,) = parse([str(reference)], [str(small)], [], "x")
    with pytest.raises(UsageError, match=r"small\.png has another size"):
        seen(segmenter, exemplar)


def test_an_exemplar_has_the_bands_of_the_images(segmenter: Segmenter, tmp_path: Path) -> None:
    """`--bands` counts for it too, if it is a TIFF that has them; otherwise it is read as it is."""
    scene = picture(80, 60, 5)
    save(tmp_path / "swapped.png", scene[:, :, ::-1].copy())
    four = np.concatenate([np.moveaxis(scene, 2, 0)[[2, 1, 0]], np.moveaxis(scene, 2, 0)[:1]])
    (tmp_path / "four.tif").write_bytes(by_gdal(four, photometric="minisblack"))
    files = [("four.tif", (1, 2, 3)), ("swapped.png", (1, 2, 3)), ("four.tif", (5, 5, 5)), ("four.tif", (4, 2, 1))]
    views = [
        visual_prompt(segmenter, Exemplar("x", str(tmp_path / name)), RECIPE, None, DecodeOptions(bands=bands))
        for name, bands in files
    ]
    assert np.array_equal(views[0], views[1]) and np.array_equal(views[1], views[2])
    assert not np.array_equal(views[0], views[3])
