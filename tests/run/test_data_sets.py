"""Data sets of whole runs: their images are the user's files, and every reader finds them."""

import io
import json
import tarfile
from pathlib import Path
from typing import Any
from urllib.parse import unquote
from xml.etree import ElementTree

import numpy as np
import PIL.Image
import pytest
import yaml

from clipseg_cli.inputs.orientation import stored
from clipseg_cli.inputs.source import Source, identify
from clipseg_cli.masks.soft_maps import Scored, StoredMap
from clipseg_cli.outputs.record import Record
from clipseg_cli.outputs.writers import photos
from clipseg_cli.prompts.text import Prompt
from clipseg_cli.run.finish import MaskPlan, finish
from clipseg_cli.settings.masks import MaskOptions
from clipseg_cli.storage import buckets, store
from icc import profile
from mask_shapes import read_coco
from output_folder import tree
from pictures import Program, picture, records

SETS = "-p 'a red circle' -p red -f coco,yolo,voc,labelme,labelstudio,cvat,webdataset"
SCENE = picture(150, 100)
SCENE[:, :40] = (60, 80, 120)


def save(path: Path, form: str = "", turn: int = 1) -> bytes:
    """Writes the scene, stored with this EXIF orientation, and returns the file's bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    exif = PIL.Image.Exif()
    exif[0x0112] = turn
    image = PIL.Image.fromarray(np.ascontiguousarray(stored(SCENE, turn)))
    image.save(path, form or None, exif=exif)
    return path.read_bytes()


@pytest.fixture
def images(tmp_path: Path) -> dict[str, bytes]:
    """The files of an input folder by name: upright and turned ones, equal stems, in subfolders, wrongly named."""
    names = ("a.jpg", "a.png", "sub/b c.JPEG", "sub/é.webp", "sub/a.tif")
    found = {name: save(tmp_path / "i" / name) for name in names}
    found["wrong.jpg"] = save(tmp_path / "i/wrong.jpg", "PNG")
    return found | {name: save(tmp_path / "i" / name, turn=6) for name in ("turned.jpg", "sub/turned.png")}


def shards(out: Path) -> dict[str, bytes]:
    """The photos in the shards of a run, by member name."""
    found: dict[str, bytes] = {}
    for shard in sorted((out / "webdataset").glob("*.tar")):
        with tarfile.open(shard) as archive:
            members = [each for each in archive.getmembers() if each.name.count(".") == 1 and ".json" not in each.name]
            found |= {each.name: archive.extractfile(each).read() for each in members}  # type: ignore[union-attr]
    return found


def counts(out: Path) -> dict[str, int]:
    """The photos that run.json counts."""
    found: dict[str, int] = json.loads((out / "run.json").read_text())["summary"]["photos"]
    return found


def test_upright_images_are_the_original_files(clipseg: Program, tmp_path: Path, images: dict[str, bytes]) -> None:
    """Byte for byte, profile and EXIF included, in every data set whose reader takes their kind. A turned PNG is exact
    to the pixel, a turned JPEG close. run.json counts both; a run that is resumed counts the same."""
    clipseg(f"clipseg segment i {SETS} -o out")
    out, packed = tmp_path / "out", shards(tmp_path / "out")
    taken = {
        "yolo/images": ("a.jpg.jpg", "a.png.png", "sub/b c.jpeg", "sub/é.webp", "sub/a.tif", "wrong.png"),
        "labelme": ("a.jpg.jpg", "a.png.png", "sub/b c.jpeg", "sub/é.webp", "sub/a.tif", "wrong.png"),
        "voc/JPEGImages": ("a.jpg.jpg", "", "sub/b c.jpg"),
    }
    for folder, names in taken.items():
        for name, data in zip(names, images.values(), strict=False):
            assert not name or (out / folder / name).read_bytes() == data
        with PIL.Image.open(out / folder / "turned.jpg") as turned:
            assert turned.getexif().get(0x0112, 1) == 1 and np.abs(np.array(turned).astype(int) - SCENE).mean() < 4
    for path in ("yolo/images/sub/turned.png", "labelme/sub/turned.png"):
        assert np.array_equal(np.array(PIL.Image.open(out / path)), SCENE)
    assert {*images.values()} - {*packed.values()} == {images["turned.jpg"], images["sub/turned.png"]}
    assert counts(out) == {"original": 6 * 3 + 5 + 2, "encoded": 2 * 3 + 3 + 6}
    (out / "yolo/images/wrong.png").unlink()
    assert "7 before" in clipseg(f"clipseg segment i {SETS} -o out").stderr
    assert counts(out) == {"original": 6 * 3 + 5 + 2, "encoded": 2 * 3 + 3 + 6}
    assert {name: (tmp_path / "i" / name).read_bytes() for name in images} == images


def test_stored_images_are_all_original_files(clipseg: Program, tmp_path: Path, images: dict[str, bytes]) -> None:
    """With `--orientation stored` turned images too, since labels and masks are in their frame."""
    clipseg(f"clipseg segment i {SETS} --orientation stored --images copy -o out")
    assert (tmp_path / "out/yolo/images/turned.jpg").read_bytes() == images["turned.jpg"]
    assert {*images.values()} == {*shards(tmp_path / "out").values()}
    assert not (tmp_path / "out/yolo/images/turned.jpg").samefile(tmp_path / "i/turned.jpg")
    document = json.loads((tmp_path / "out/labelme/turned.json").read_text())
    assert (document["imageWidth"], document["imageHeight"]) == (100, 150)


def test_every_named_image_exists(clipseg: Program, tmp_path: Path, images: dict[str, bytes]) -> None:
    """coco.json's names lead from the image root to the images, whatever way the folder was typed, and so do
    CVAT's; labelme's from their own folders, and Label Studio's from the output folder."""
    for typed, root in (("i", "i"), ("./i/", "i"), (f"{tmp_path}/i", f"{tmp_path}/i"), ("i/sub i/a.jpg", "i")):
        clipseg(f"clipseg segment {typed} {SETS} -o {tmp_path}/out --overwrite")
        data = read_coco(tmp_path / "out/coco.json").dataset
        assert data["info"]["image_root"] == root and data["licenses"] == []
        assert all((tmp_path / root / image["file_name"]).is_file() for image in data["images"])
        annotated = ElementTree.parse(tmp_path / "out/cvat/annotations.xml").iter("image")
        assert [each.attrib["name"] for each in annotated] == [image["file_name"] for image in data["images"]]
    for path in (tmp_path / "out/labelme").rglob("*.json"):
        assert (path.parent / json.loads(path.read_text())["imagePath"]).is_file()
    for task in json.loads((tmp_path / "out/labelstudio/tasks.json").read_text()):
        assert (tmp_path / "out" / unquote(task["data"]["image"].partition("?d=")[2])).is_file()


def test_a_split_is_the_same_in_every_data_set(clipseg: Program, tmp_path: Path, images: dict[str, bytes]) -> None:
    """Each image is in one part, the same one in all formats, and stays there when images are added. The files that
    name the parts name those that exist."""

    def parts(out: Path) -> list[dict[str, list[str]]]:
        data = yaml.safe_load((out / "yolo/data.yaml").read_text())
        names = [name for name in ("train", "val", "test") if name in data]
        yolo = {name: sorted(path.stem for path in (out / "yolo" / data[name]).iterdir()) for name in names}
        lists = {name: (out / f"voc/ImageSets/Segmentation/{name}.txt").read_text().splitlines() for name in names}
        coco = {name: read_coco(out / f"instances_{name}.json").dataset["images"] for name in names}
        stems = {
            row["image"]: Path(row["files"]["yolo"]).stem
            for row in records(out / "manifest.jsonl")
            if row["files"]["webdataset"].startswith("webdataset/")
        }
        tars = {
            name: [
                stems[row["image"]]
                for row in records(out / "manifest.jsonl")
                if f"/{name}-" in row["files"]["webdataset"]
            ]
            for name in names
        }
        labels = {name: [stems[f"i/{image['file_name']}"] for image in coco[name]] for name in names}
        return [{name: sorted(found[name]) for name in names} for found in (yolo, lists, labels, tars)]

    flags = f"segment i {SETS} --flat --split 0.5,0.3,0.2 --images copy"
    clipseg(f"clipseg {flags} -o out")
    yolo, *others = parts(tmp_path / "out")
    assert all(other == yolo for other in others)
    assert sum(map(len, yolo.values())) == len(images) and min(map(len, yolo.values())) > 0
    for number in range(4):
        save(tmp_path / f"i/more/{number}.jpg")
    clipseg(f"clipseg {flags} -o out")
    grown, *others = parts(tmp_path / "out")
    assert all(other == grown for other in others)
    assert {name: [stem for stem in grown[name] if "more" not in stem] for name in grown} == yolo


def test_colours_that_readers_mistake_are_converted(clipseg: Program, tmp_path: Path) -> None:
    """Grey of 16 bits and CMYK, white or refused elsewhere, become 8-bit RGB; a colour profile is no reason."""
    save(tmp_path / "i/plain.jpg")
    with PIL.Image.open(tmp_path / "i/plain.jpg") as image:
        image.convert("CMYK").save(tmp_path / "i/cmyk.jpg")
        image.save(tmp_path / "i/wide.jpg", icc_profile=profile("Display P3"))
    PIL.Image.fromarray(np.arange(15_000, dtype=np.uint16).reshape(100, 150) * 4).save(tmp_path / "i/deep.png")
    clipseg("clipseg segment i -p red -f yolo -o out")
    found = {path.name: path for path in sorted((tmp_path / "out/yolo/images").iterdir())}
    assert [name for name, path in found.items() if path.read_bytes() == (tmp_path / "i" / name).read_bytes()] == [
        "plain.jpg", "wide.jpg",
    ]  # fmt: skip
    for name in ("cmyk.jpg", "deep.png"):
        with PIL.Image.open(found[name]) as image:
            assert image.mode == "RGB"


def test_frames_are_encoded_from_a_run_and_from_post(clipseg: Program, tmp_path: Path) -> None:
    """A frame has no file of its own: a PNG, exact to the pixel, and all frames of a file are in one part. `post`
    writes the same, also for the first frame."""
    pages = [PIL.Image.fromarray(picture(96, 80, seed)) for seed in range(3)]
    (tmp_path / "i").mkdir()
    pages[0].save(tmp_path / "i/p.png", save_all=True, append_images=pages[1:])
    save(tmp_path / "i/a.png")
    clipseg("clipseg segment i -p red --frames all -f soft,yolo,coco --split 0.5,0.5 -o one")
    clipseg("clipseg post one -f yolo,coco --split 0.5,0.5 -o two")
    one, two = tree(tmp_path / "one"), tree(tmp_path / "two")
    made = [name for name in one if name.startswith(("yolo", "coco", "instances"))]
    assert len(made) == 2 * 4 + 4 and all(one[name] == two[name] for name in made)
    frames = sorted(name for name in made if "/p/" in name and name.endswith(".png"))
    assert len(frames) == 3 and len({name.rpartition("/")[0] for name in frames}) == 1
    for name, page in zip(frames, pages, strict=True):
        assert np.array_equal(np.array(PIL.Image.open(io.BytesIO(one[name]))), np.array(page))


def test_images_from_stdin_and_from_a_bucket_are_untouched(clipseg: Program, tmp_path: Path) -> None:
    """The bytes that came are those in the data set."""
    data = save(tmp_path / "a.jpg")
    clipseg("clipseg segment - -p red -f yolo,webdataset -o out", stdin=data)
    assert (tmp_path / "out/yolo/images/stdin.jpg").read_bytes() == data == shards(tmp_path / "out")["stdin.jpg"]
    files = buckets.system("memory://")
    files.pipe_file("memory://photos/sub/a.jpg", data)
    try:
        clipseg("clipseg segment memory://photos -p red -f yolo,coco -o memory://set")
        assert files.cat_file("memory://set/yolo/images/sub/a.jpg") == data
        document = json.loads(files.cat_file("memory://set/coco.json"))
        assert (document["info"]["image_root"], document["images"][0]["file_name"]) == ("memory://photos", "sub/a.jpg")
    finally:
        files.rm("memory://", recursive=True)


def test_an_image_that_changes_after_it_was_decoded_fails(tmp_path: Path) -> None:
    """With the class `changed`: its labels would not fit the file. The next run does it again."""
    save(tmp_path / "a.jpg")
    source = Source(str(tmp_path / "a.jpg"), "a.jpg", "a")
    seen = identify(source, False)
    save(tmp_path / "a.jpg", turn=3)

    def write(path: str, data: Any) -> None:
        store.write(tmp_path / "out" / path, data)

    blank, maps = Record("a.jpg", 150, 100, "JPEG"), [Scored(StoredMap(np.zeros((100, 150), np.uint8)), 0.0, 0.0, 0.0)]
    for form in ("yolo", "webdataset"):
        plan = MaskPlan((Prompt("cat", "a cat"),), (0.5,), MaskOptions(), (form,))  # type: ignore[arg-type]
        record = finish(
            blank, "a", lambda: SCENE, maps, plan, write, photos.Reread(lambda: photos.original(source, seen))
        )
        assert record.error is not None and record.error.kind == "changed"
