"""`--layout`: files that other programs find and read as meant. They are read here as those programs read them."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from clipseg_cli.settings.layouts import LAYOUTS
from pictures import Program, iou, records
from readers import package

# layout: the path for `sub/a.b.jpg`, the value of the object, and whether the program turns images by their EXIF
EXPECTED = {
    "colmap": ("sub/a.b.jpg.png", 0, False),
    "realityscan": ("sub/a.b.jpg.mask.png", 0, False),
    "metashape": ("sub/a.b_mask.png", 0, False),
    "openmvs": ("sub/a.b.mask.png", 0, False),
    "3dgrut": ("sub/a.b_mask.png", 0, False),
    "nerfstudio": ("masks/sub/a.b.png", 0, False),
    "lichtfeld": ("masks/sub/a.b.png", 0, False),
    "onetrainer": ("sub/a.b-masklabel.png", 255, True),
    "kohya": ("sub/a.b.png", 255, False),
    "iopaint": ("sub/a.b.png", 255, False),
    "comfyui": ("sub/a.b.png", 255, True),
    "darktable": ("sub/a.b.jpg.pfm", 255, False),
}


def scene() -> Image.Image:
    """A red disc and, far from it, a smaller one; wider than high, so that no turn is the same."""
    y, x = np.mgrid[:120, :180]
    pixels = np.full((120, 180, 3), (190, 200, 180), np.uint8)
    pixels[(x - 60) ** 2 + (y - 50) ** 2 < 35**2] = (214, 40, 40)
    pixels[(x - 150) ** 2 + (y - 90) ** 2 < 20**2] = (214, 40, 40)
    return Image.fromarray(pixels)


@pytest.fixture
def turned(tmp_path: Path) -> Path:
    """Images whose EXIF orientation turns them, in folders, with dots, spaces and other letters in their names."""
    undo = {5: 5, 6: 8, 7: 7, 8: 6}
    for orientation, name in ((1, "ü x.png"), (6, "sub/a.b.jpg"), (3, "sub/deep/IMG_1.jpeg"), (5, "-x.webp")):
        image = scene()
        image.getexif()[0x0112] = undo.get(orientation, orientation)
        stored, exif = ImageOps.exif_transpose(image), Image.Exif()
        exif[0x0112] = orientation
        (tmp_path / "imgs" / name).parent.mkdir(parents=True, exist_ok=True)
        stored.save(tmp_path / "imgs" / name, exif=exif, quality=95)
    return tmp_path / "imgs"


def pixels(path: Path, upright: bool) -> np.ndarray:
    """An image as a program reads it that turns it by its EXIF orientation, or does not."""
    with Image.open(path) as image:
        return np.array(ImageOps.exif_transpose(image) if upright else image)


def mask_as_read(path: Path, layout: str) -> np.ndarray:
    """The mask, 0 to 255, as its program reads it: with ComfyUI, 1 - alpha; with darktable, 0 to 1."""
    if layout == "comfyui":
        return np.asarray(255 - pixels(path, True)[..., 3])
    read = pixels(path, False)
    assert (read.dtype == np.float32) == (layout == "darktable") and read.ndim == 2
    return read * 255 if layout == "darktable" else read


@pytest.mark.parametrize("layout", EXPECTED)
def test_a_program_finds_its_masks_and_they_fit_the_pixels_that_it_reads(
    quick_clipseg: Program, turned: Path, tmp_path: Path, layout: str
) -> None:
    """One mask per image for all labels, under the program's own name, in the frame of the pixels that it reads, with
    the object as what it ignores, trains or erases; with --keep the other way round."""
    name, value, upright = EXPECTED[layout]
    for keep, out in (("", "out"), ("--keep", "kept")):
        line = f"clipseg segment imgs -p red -p 'a circle' --layout {layout} {keep} -o {out} --print paths"
        printed = quick_clipseg(line).stdout.splitlines()
        assert f"{out}/{name}" in printed and len(printed) == 4
        for row in records(tmp_path / out / "manifest.jsonl"):
            image, (path,) = pixels(tmp_path / row["image"], upright)[..., :3].astype(int), row["files"].values()
            red = (image[..., 0] > 150) & (image[..., 1] < 100)
            mask = mask_as_read(tmp_path / out / path, layout)
            assert mask.shape == red.shape and {*np.unique(mask)} == {0, 255}
            object_is = mask == (value if out == "out" else 255 - value)
            assert iou(object_is, red) > 0.75, "the network of the test is coarse; of a turned mask it is below 0.4"
            assert f"{out}/{path}" in printed


def test_colours_of_an_alpha_png_are_those_of_the_image(quick_clipseg: Program, turned: Path, tmp_path: Path) -> None:
    """Also where it is transparent."""
    quick_clipseg("clipseg segment imgs -p red --layout comfyui -o out -e png")
    with Image.open(tmp_path / "out/ü x.png") as made, Image.open(turned / "ü x.png") as image:
        assert made.mode == "RGBA" and np.array_equal(np.array(made)[..., :3], np.array(image))


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # the package's own
def test_colmap_takes_no_keypoint_from_the_object(quick_clipseg: Program, turned: Path, tmp_path: Path) -> None:
    """pycolmap extracts keypoints all over noise, and with the masks none on the object, in the pixels of the file."""
    pycolmap = package("pycolmap")
    noise = np.random.default_rng(0).integers(0, 60, (120, 180, 1), np.uint8)
    for path in (path for path in turned.rglob("*") if path.is_file()):
        with Image.open(path) as image:
            exif, size = image.getexif(), image.size
            noisy = np.array(image.convert("RGB")) // 2 + np.resize(noise, (size[1], size[0], 1))
        Image.fromarray(noisy).save(path, exif=exif)
    quick_clipseg("clipseg segment imgs -p red --layout colmap -o masks")
    on_object = {}
    for name, options in {"without": {}, "with": {"mask_path": "masks"}}.items():
        pycolmap.extract_features(f"{name}.db", "imgs", reader_options=options)
        database = pycolmap.Database.open(f"{name}.db")
        for image in database.read_all_images():
            mask = pixels(tmp_path / f"masks/{image.name}.png", False)
            at = database.read_keypoints(image.image_id)[:, :2].astype(int)
            on_object[name, image.name] = int((mask[at[:, 1], at[:, 0]] == 0).sum())
            assert len(at) > 20
    assert len(on_object) == 6, "it reads no WebP"
    assert all(count == 0 if name == "with" else count > 20 for (name, _), count in on_object.items()), on_object


def test_equal_stems_are_told_to_programs_that_go_by_stems(quick_clipseg: Program, turned: Path) -> None:
    """The run goes on, and says how many images are not told apart."""
    Image.new("RGB", (60, 40)).save(turned / "sub/a.b.png")
    assert "2 images differ" in quick_clipseg("clipseg segment imgs -p red --layout kohya -o out").stderr
    assert "differ" not in quick_clipseg("clipseg segment imgs -p red --layout colmap -o masks").stderr


def test_layouts_are_listed(quick_clipseg: Program) -> None:
    """One line each, or as JSON. Those that are no data sets are tested here. A wrong name is a usage error that
    lists them."""
    lines = quick_clipseg("clipseg layouts").stdout.splitlines()
    assert {*EXPECTED} == {name for name, preset in LAYOUTS.items() if preset.polarity}
    assert [line.split()[0] for line in lines] == [*LAYOUTS] and all(len(line) < 100 for line in lines)
    assert "choose from colmap, " in quick_clipseg("clipseg segment x -p red --layout colmpa", 2).stderr
    assert json.loads(quick_clipseg("clipseg layouts --json").stdout)["kohya"]["polarity"] == "white"


def test_a_layout_is_a_setting_of_the_run(quick_clipseg: Program, turned: Path, tmp_path: Path) -> None:
    """The same layout resumes, spelled out too; with --keep it is another run. `post` takes layouts from soft maps."""
    quick_clipseg("clipseg segment imgs -p red --layout kohya -f soft -o out")
    flags = "-f joined,soft --name 'joined={dir}/{stem}.png' --polarity white --orientation stored"
    assert "(4 before)" in quick_clipseg(f"clipseg segment imgs -p red {flags} -o out").stderr
    assert "polarity" in quick_clipseg("clipseg segment imgs -p red --layout kohya -f soft -o out --keep", 1).stderr
    quick_clipseg("clipseg post out --layout onetrainer -o masks")
    assert np.array_equal(
        pixels(tmp_path / "masks/sub/a.b-masklabel.png", False),
        np.rot90(pixels(tmp_path / "out/sub/a.b.png", False), -1),
    )


def test_beside_the_images_only_under_names_of_its_own(quick_clipseg: Program, turned: Path) -> None:
    """A layout that gives masks the names of images is refused in their folder; others are written there and are never
    taken for images."""
    assert "an input folder" in quick_clipseg("clipseg segment imgs -p red --layout kohya -o imgs", 2).stderr
    for _ in range(2):
        done = quick_clipseg("clipseg segment imgs -p red --layout onetrainer -o imgs")
        assert "4 of 4 images done" in done.stderr and (turned / "sub/a.b-masklabel.png").is_file()
