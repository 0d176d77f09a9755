"""The promises of the README and of docs/: the bundled model finds what the samples show, and every example runs."""

import itertools
import json
import re
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

from pictures import ROOT, SAMPLES, Program, Shell, iou, picture, records

LABEL = "a-red-circle"
FOUND = 0.85  # intersection over union that every sample with a red circle reaches


def read_mask(path: Path) -> np.ndarray:
    """uint8 (H, W), as it is stored."""
    mask = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    assert mask is not None, path
    return mask


def test_the_samples_red_circles_are_found(clipseg: Program, tmp_path: Path) -> None:
    """Every sample that shows a red circle has a mask with IoU over 0.85, every other one an empty mask."""
    clipseg(f"clipseg segment {SAMPLES}/images -p 'a red circle' -o out")
    rows = records(tmp_path / "out/manifest.jsonl")
    assert len(rows) == len(list((SAMPLES / "images").iterdir())) >= 8
    scores = []
    for row in rows:
        stem = Path(row["image"]).stem
        mask = read_mask(tmp_path / "out" / row["masks"][0]["path"])
        truth = read_mask(SAMPLES / "masks" / LABEL / f"{stem}.png")
        assert mask.shape == truth.shape
        if truth.any():
            scores.append(iou(mask, truth))
            assert scores[-1] > FOUND, f"{stem}: {scores[-1]:.3f}"
        else:
            assert not mask.any(), stem
    assert 4 <= len(scores) < len(rows)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_mask_has_the_orientation_that_a_viewer_shows(clipseg: Program, tmp_path: Path, orientation: int) -> None:
    """With every EXIF orientation the mask has the upright image's size and finds the disc where a viewer shows it."""
    from PIL import Image, ImageOps

    upright = np.full((240, 320, 3), 205, np.uint8)
    cv2.circle(upright, (90, 100), 55, (214, 40, 40), -1, cv2.LINE_AA)
    exif = Image.Exif()
    exif[0x0112] = orientation
    # the camera stores the image that the orientation turns upright
    undo = {5: 5, 6: 8, 7: 7, 8: 6}.get(orientation, orientation)
    stored = Image.fromarray(upright)
    stored.getexif()[0x0112] = undo
    stored = ImageOps.exif_transpose(stored)
    stored.save(tmp_path / "turned.jpg", exif=exif, quality=95)
    clipseg("clipseg segment turned.jpg -p 'a red circle' -o mask.png")
    mask = read_mask(tmp_path / "mask.png")
    truth = cv2.circle(np.zeros((240, 320), np.uint8), (90, 100), 55, 255, -1)
    assert mask.shape == truth.shape and iou(mask, truth) > 0.8


def test_every_pixel_mode_gives_a_mask(clipseg: Program, tmp_path: Path) -> None:
    """Palette, 16-bit, CMYK, RGBA and grey images get masks of their own size; the disc is found where colour is."""
    from PIL import Image

    image = Image.fromarray(picture(320, 240))
    folder = tmp_path / "modes"
    folder.mkdir()
    image.convert("P", palette=Image.Palette.ADAPTIVE).save(folder / "palette.png")
    image.convert("CMYK").save(folder / "cmyk.jpg", quality=95)
    image.convert("RGBA").save(folder / "rgba.png")
    image.convert("L").save(folder / "grey.png")
    cv2.imwrite(str(folder / "deep.png"), np.asarray(image.convert("L")).astype(np.uint16) * 257)
    clipseg("clipseg segment modes -p 'a red circle' -o out -f mask -f overlay")
    truth = cv2.circle(np.zeros((240, 320), np.uint8), (160, 120), 60, 255, -1)
    masks = {}
    for row in records(tmp_path / "out/manifest.jsonl"):
        masks[Path(row["image"]).stem] = read_mask(tmp_path / "out" / row["masks"][0]["path"])
    assert all(mask.shape == truth.shape for mask in masks.values()) and len(masks) == 5
    assert all(iou(masks[name], truth) > 0.8 for name in ("palette", "cmyk", "rgba"))
    assert np.array_equal(masks["deep"], masks["grey"]), "16 bits are scaled to 8"


RECIPES = (ROOT / "README.md").read_text(encoding="utf-8").split("## Recipes")[1].split("\n## ")[0]
PAGES = sorted((ROOT / "docs").glob("*.md"))


def examples(text: str) -> list[list[str]]:
    """The lines of each block that begins with ```bash, without comments. A block with ```sh is not run."""
    blocks = re.findall(r"^```bash\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    return [[line.split("  #")[0].rstrip() for line in block.splitlines()] for block in blocks]


@pytest.fixture
def named(tmp_path: Path) -> None:
    """The files that the examples name."""
    shutil.copytree(SAMPLES / "images", tmp_path / "photos")
    for folder in ("imgs", "scans"):
        (tmp_path / folder).mkdir()
        for name in ("balcony.jpg", "desk.png"):
            shutil.copy(SAMPLES / "images" / name, tmp_path / folder)
    shutil.copy(SAMPLES / "images/balcony.jpg", tmp_path / "in.jpg")
    shutil.copy(SAMPLES / "exemplars/red_circle.png", tmp_path / "ref.png")
    shutil.copytree(SAMPLES / "exemplars", tmp_path / "cats")
    shutil.copytree(SAMPLES / "masks", tmp_path / "gt")
    (tmp_path / "prompts.csv").write_text("label,text,threshold\nsky,the sky,\ncircle,a red circle,0.4\n")


def needs_a_shell(line: str) -> bool:
    """Whether a line has pipes or redirections."""
    return bool(re.search(r"[|<>]", line))


@pytest.mark.usefixtures("named")
def test_the_recipes_of_the_readme_run(clipseg: Program, tmp_path: Path) -> None:
    """Every recipe without a pipe runs as written, on the samples and with `shapes`."""
    (lines,) = examples(RECIPES)
    plain = [line for line in lines if not needs_a_shell(line)]
    assert len(plain) >= 10
    for line in plain:
        for folder in ("out", "clipseg-out"):
            shutil.rmtree(tmp_path / folder, ignore_errors=True)
        for command in line.split(" && "):
            clipseg(command)


@pytest.mark.slow
@pytest.mark.usefixtures("named")
def test_the_recipes_with_pipes_run(shell: Shell, tmp_path: Path) -> None:
    """Every recipe with a pipe or a redirection runs in a shell; a failure anywhere in the pipe counts."""
    (lines,) = examples(RECIPES)
    piped = [line for line in lines if needs_a_shell(line)]
    assert len(piped) >= 4
    for line in piped:
        shell(f"rm -rf out clipseg-out; {line}")
    assert cv2.imread(str(tmp_path / "mask.png"), cv2.IMREAD_UNCHANGED) is not None


@pytest.mark.slow
@pytest.mark.usefixtures("named")
def test_the_recipes_with_pipes_run_from_anywhere(shell: Shell, tmp_path: Path) -> None:
    """In another working directory than that of images and outputs too. Every path on stdout exists from there."""
    (lines,) = examples(RECIPES)
    (tmp_path / "elsewhere").mkdir()
    names = r"(?<=[ =])(imgs|photos/?|in\.jpg|mask\.png|out)(?=[ ;]|$)"
    count = 0
    for line in filter(needs_a_shell, lines):
        done = shell("rm -rf out; cd elsewhere; " + re.sub(names, r"../\1", line))
        printed = done.stdout.replace("\0", "\n").splitlines()
        assert all((tmp_path / "elsewhere" / path).is_file() for path in printed), printed
        count += len(printed)
    assert count >= 3


@pytest.mark.slow
@pytest.mark.usefixtures("named")
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_examples_of_the_docs_run(clipseg: Program, shell: Shell, page: Path) -> None:
    """The lines of all ```bash blocks of a page run as written, one after the other in the same folder."""
    for line in itertools.chain(*examples(page.read_text(encoding="utf-8"))):
        if needs_a_shell(line):
            shell(line)
        else:
            clipseg(line)


@pytest.mark.parametrize("page", [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *PAGES], ids=lambda page: page.stem)
def test_links_lead_somewhere(page: Path) -> None:
    """Every relative link of a document names a file that is there, and a heading of it."""
    for target in re.findall(r"\]\(([^)]+)\)", page.read_text(encoding="utf-8")):
        path, _, anchor = target.partition("#")
        if "://" in target:
            continue
        file = page if not path else page.parent / path
        assert file.is_file(), target
        if anchor:
            headings = re.findall(r"^#+ (.*)$", file.read_text(encoding="utf-8"), re.MULTILINE)
            slugs = {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}
            assert anchor in slugs, target


def test_the_model_card_and_the_config_agree() -> None:
    """The default threshold stands once, in the bundled model's config.json, and is what `Segmenter` uses."""
    from clipseg_cli.model.registry import BUNDLED, locate

    threshold = json.loads((BUNDLED / "config.json").read_text())["clipseg_threshold"]
    assert locate("shapes").threshold == threshold
    assert sum(path.stat().st_size for path in BUNDLED.iterdir()) <= 10_000_000
