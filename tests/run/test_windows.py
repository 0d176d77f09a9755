"""Images larger than --max-pixels, done by windows: the bytes of the image in memory, and resumed after any end."""

import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import PIL.Image
import pytest
import rasterio
import tifffile

import fake_network
from clipseg_cli.errors import OutputError
from clipseg_cli.run.network import Network
from clipseg_cli.storage.unfinished import Unfinished
from geotiffs import by_gdal, by_tags
from output_folder import tree
from pictures import Program, Shell, picture, records, save

RUN = "clipseg segment i -p 'a red circle' -p 'a blue square' --features none --tile 256px"
SMALL = "--max-pixels 300000"  # less than the scene has, more than a window
FORMATS = "-f mask,soft,soft16,labels,joined"
TILED = {"tiled": True, "blockxsize": 128, "blockysize": 128, "compress": "deflate"}


def scene(height: int = 700, width: int = 900) -> np.ndarray:
    """A uint8 (3, H, W) scene of red discs and blue squares of 100 to 200 pixels, with no value of 0."""
    rng = np.random.default_rng(0)
    image = picture(width, height)
    image[:] = np.median(image.reshape(-1, 3), 0)
    for number in range(height * width // 90_000):
        x, y, r = int(rng.integers(width)), int(rng.integers(height)), int(rng.integers(50, 100))
        if number % 2:
            cv2.rectangle(image, (x - r, y - r), (x + r, y + r), (40, 60, 200), -1)
        else:
            cv2.circle(image, (x, y), r, (214, 40, 40), -1)
    return np.moveaxis(np.maximum(image, 1), 2, 0)


def hole() -> np.ndarray:
    """A uint8 (H, W) mask of the scene: 0 in a box that contains whole windows."""
    mask = np.full((700, 900), 255, np.uint8)
    mask[100:600, 200:800] = 0
    return mask


LAYOUTS: dict[str, Callable[[], bytes]] = {
    "tiles": lambda: by_gdal(scene(), **TILED, predictor=2),
    "planes": lambda: by_gdal(scene(), interleave="band", compress="lzw"),
    "one strip": lambda: by_gdal(scene(), nodata=0, blockysize=700),
    "mask": lambda: by_gdal(scene(), mask=hole(), tiled=True, compress="zstd"),
    "transparency": lambda: by_gdal(np.concatenate([scene(), hole()[None]]), photometric="RGB", alpha="YES"),
    "near-infrared": lambda: by_gdal(np.concatenate([scene(), scene()[:1]]), photometric="RGB", alpha="YES"),
    "16 bits": lambda: by_gdal(scene().astype(np.uint16) * 11 * (hole() > 0), nodata=0, compress="deflate"),
    "floats": lambda: by_gdal(np.where(hole() > 0, scene() / np.float32(300), np.nan).astype(np.float32)),
    "BigTIFF": lambda: by_gdal(scene(), BIGTIFF="YES", compress="deflate"),
    "nothing": lambda: by_gdal(scene() * 0, nodata=0),
}


QUICK = ("tiles", "one strip", "mask", "transparency", "16 bits", "nothing")


def put(folder: Path, data: bytes, name: str = "a.tif") -> Path:
    """Writes the image of a test."""
    (folder / "i").mkdir(exist_ok=True)
    (folder / "i" / name).write_bytes(data)
    return folder / "i" / name


def visible(out: str) -> dict[str, bytes]:
    """The files of a run that a user sees, without run.json."""
    return {name: data for name, data in tree(Path(out)).items() if not name.startswith(".")}


@pytest.mark.parametrize(
    "layout", [*QUICK, *(pytest.param(each, marks=pytest.mark.slow) for each in LAYOUTS if each not in QUICK)]
)
def test_windows_give_the_bytes_of_the_image_in_memory(quick_clipseg: Program, tmp_path: Path, layout: str) -> None:
    """Masks, soft maps, labels and the record are equal, whatever the layout and the type of the file."""
    put(tmp_path, LAYOUTS[layout]())
    quick_clipseg(f"{RUN} {FORMATS} -o whole")
    quick_clipseg(f"{RUN} {FORMATS} {SMALL} -o parts")
    whole, parts = visible("whole"), visible("parts")
    assert whole.keys() == parts.keys() and len(whole) == 10
    assert [name for name in whole if whole[name] != parts[name] and name != "manifest.jsonl"] == []
    (one,), (other,) = (records(Path(out, "manifest.jsonl")) for out in ("whole", "parts"))
    if layout == "nothing":  # in memory, one window of it is seen
        assert other["notes"] == one["notes"] == "all of the pixels have no data"
        assert [mask["area"] for mask in other["masks"]] == [0, 0]
    else:
        assert one == other
    assert not Path("parts/.clipseg-unfinished").exists()


def test_it_finds_what_is_there(clipseg: Program, tmp_path: Path) -> None:
    """The masks of the real network, mirrored views too, are those of the image in memory, and cover the objects."""
    put(tmp_path, by_gdal(scene(), **TILED))
    run = f"{RUN} -m shapes --flip"
    for out, more in (("whole", ""), ("parts", f"{SMALL} --features kept"), ("again", f"{SMALL} --features kept")):
        clipseg(f"{run} {more} -f mask -o {out}")
    assert visible("whole") == visible("parts") == visible("again")
    with rasterio.open("parts/masks/a-red-circle/a.tif") as image:
        mask, place = image.read(1) > 0, image.bounds
    with rasterio.open(tmp_path / "i/a.tif") as image:
        red, blue = (np.abs(scene() - np.array(colour)[:, None, None]).max(0) == 0 for colour in (RED, BLUE))
        assert place == image.bounds
    assert mask[red].mean() > 0.9 and mask[blue].mean() < 0.1


RED, BLUE = (214, 40, 40), (40, 60, 200)


def test_where_a_run_ends_it_goes_on(quick_clipseg: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ended before and after each save, also before the last, a run goes on with the next row of windows."""
    put(tmp_path, LAYOUTS["16 bits"]())
    quick_clipseg(f"{RUN} {FORMATS} {SMALL} -o whole")
    save_state, see, windows = Unfinished.save, Network.see, list[int]()
    ends = iter([(0, False), (0, True), (1, False), (2, True), (99, True)])

    def counted(network: Network, views: Any, keep: bool = True) -> Any:
        windows.append(len(views))
        return see(network, views, keep)

    monkeypatch.setattr(Network, "see", counted)
    for count, saved in ends:
        left = [count]

        def save_or_end(parts: Unfinished, *state: Any, left: list[int] = left, saved: bool = saved) -> None:
            left[0] -= 1
            if left[0] >= 0 or saved:
                save_state(parts, *state)
            if left[0] < 0:
                raise OutputError("no space left")

        monkeypatch.setattr(Unfinished, "save", save_or_end)
        windows.append(0)
        quick_clipseg(f"{RUN} {FORMATS} {SMALL} -o parts", expect=0 if count == 99 else 1)
    assert visible("whole") == visible("parts")
    rows = 4  # of windows of 256 pixels in 700, 5 in a row
    assert sum(windows) < 5 * (rows + 2 * 4)  # not begun anew four times: at most two rows are seen again
    quick_clipseg(f"{RUN} {FORMATS} {SMALL} -o parts --overwrite", expect=0)
    assert visible("whole") == visible("parts")


def test_a_changed_image_begins_anew(quick_clipseg: Program, tmp_path: Path) -> None:
    """What was finished of a file that ended early is kept, but never mixed with another file."""
    whole = by_gdal(scene(1400), **TILED)
    path = put(tmp_path, whole[: len(whole) * 2 // 3])
    # the directory must be there: GDAL writes it first
    failed = quick_clipseg(f"{RUN} {SMALL} -f mask -o out", expect=3)
    assert "corrupt" in failed.stderr and "missing" in failed.stderr
    assert [*Path("out/.clipseg-unfinished").rglob("state.npz")]
    assert visible("out").keys() == {"manifest.jsonl"}
    path.write_bytes(whole)
    quick_clipseg(f"{RUN} {SMALL} -f mask -o out")
    quick_clipseg(f"{RUN} -f mask -o other")
    assert visible("out") == visible("other")


@pytest.mark.parametrize(
    "options, what",
    [
        ("-f mask,overlay", "-f overlay"), ("-f mask --min-area 5", "--min-area"), ("-f mask -t otsu", "otsu"),
        ("-f mask --refine guided", "--refine"), ("-f mask --grow 2", "--grow"), ("-f geojson", "-f geojson"),
        ("-f mask --min-presence 0.5", "--min-presence"), ("-f mask --instances", "--instances"),
        ("-f mask --name mask={label}/{dir}/{stem}.png", "-f mask as .png"),
    ],
)  # fmt: skip
def test_what_needs_the_whole_image_is_named(quick_clipseg: Program, tmp_path: Path, options: str, what: str) -> None:
    """Such an image is a failed record, and the others of the run are done."""
    put(tmp_path, by_gdal(scene(), **TILED))
    put(tmp_path, by_gdal(scene(100, 120)), "b.tif")
    done = quick_clipseg(f"{RUN} {options} {SMALL} -o out", expect=3)
    assert "too_large: 900 x 700 pixels" in done.stderr and f"{what} needs the whole image" in done.stderr
    assert [record["status"] for record in records(Path("out/manifest.jsonl"))] == ["failed", "ok"]


def test_a_row_of_windows_must_fit(quick_clipseg: Program, tmp_path: Path) -> None:
    """Too large windows, and absurdly many of them in a file that claims a size, are refused before any is read."""
    path = put(tmp_path, by_gdal(scene(), **TILED))
    assert "900 x 600 pixels, exceeds" in quick_clipseg(f"{RUN} {SMALL} --tile 600px -f mask -o a", expect=3).stderr
    with tifffile.TiffFile(path, mode="r+b") as file:
        file.pages[0].tags["ImageLength"].overwrite(2**32 - 1, dtype=4)
    refused = quick_clipseg(f"{RUN} {SMALL} -f mask -o b", expect=3).stderr
    assert "900 x 4294967295 pixels are more than 1000000 windows" in refused


def test_only_tiffs_are_read_by_windows(quick_clipseg: Program, tmp_path: Path) -> None:
    """Other kinds of files, and a TIFF without --tile 256px, are too large. A plain TIFF needs a name like a.tif."""
    save(tmp_path / "i/a.png", np.moveaxis(scene(), 0, 2))
    assert "PNG must be in memory" in quick_clipseg(f"{RUN} -f mask {SMALL} -o a", expect=3).stderr
    put(tmp_path, by_tags(np.moveaxis(scene(), 0, 2)))
    (tmp_path / "i/a.png").unlink()
    assert "too_large" in quick_clipseg(f"{RUN} -f mask --tile 3 {SMALL} -o b", expect=3).stderr
    assert "-f mask as .png" in quick_clipseg(f"{RUN} -f mask {SMALL} -o c", expect=3).stderr
    named = "-f mask --name 'mask={label}/{dir}/{stem}.tif'"
    quick_clipseg(f"{RUN} {named} {SMALL} -o d")
    quick_clipseg(f"{RUN} {named} -o e")
    for path in Path("e").rglob("*.tif"):
        with PIL.Image.open(path) as one, PIL.Image.open(Path("d", *path.parts[1:])) as other:
            assert np.array_equal(np.array(one), np.array(other)) and np.array(one).any()


def test_one_file_and_stdout(quick_clipseg: Program, tmp_path: Path) -> None:
    """`-o mask.tif` writes the same mask. Nothing unfinished stays."""
    put(tmp_path, by_gdal(scene(), **TILED))
    run = RUN.replace(" -p 'a blue square'", "").replace(" i ", " i/a.tif ")
    quick_clipseg(f"{run} -o one.tif")
    quick_clipseg(f"{run} {SMALL} -o two.tif")
    assert Path("one.tif").read_bytes() == Path("two.tif").read_bytes()
    assert {path.name for path in tmp_path.iterdir()} == {"i", "one.tif", "two.tif"}
    assert "a red circle" in quick_clipseg(f"clipseg find i -p 'a red circle' --tile 256px {SMALL} --json").stdout


@pytest.mark.slow
def test_killed_in_the_middle_it_goes_on(quick_shell: Shell, environment: dict[str, str], tmp_path: Path) -> None:
    """SIGKILL after the first saved row, then the same command: the same bytes as in one go."""
    put(tmp_path, by_gdal(scene(1500, 1500), **TILED))
    run = f"{RUN} -f mask,soft --max-pixels 400000"
    quick_shell(f"{run} -o whole")
    words = [sys.executable, "-m", "clipseg_cli", *shlex.split(run)[1:], "-o", "parts"]
    path = environment | {"PYTHONPATH": fake_network.python_path()}
    running = subprocess.Popen(words, cwd=tmp_path, env=path, stderr=subprocess.DEVNULL)
    while running.poll() is None and not [*Path(tmp_path, "parts").rglob("state.npz")]:
        time.sleep(0.002)
    running.send_signal(signal.SIGKILL)
    assert running.wait() == -signal.SIGKILL, "it ended before it could be killed"
    assert [*Path(tmp_path, "parts").rglob("state.npz")] and not [*Path(tmp_path, "parts").rglob("*.tif")]
    quick_shell(f"{run} -o parts")
    assert visible(str(tmp_path / "whole")) == visible(str(tmp_path / "parts"))
