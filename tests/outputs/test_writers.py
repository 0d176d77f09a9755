"""Every format is read back by its consumer's own reader, and gives the mask that was written."""

import base64
import contextlib
import gc
import io
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import cv2
import numpy as np
import pytest
import yaml
from PIL import Image, ImageDraw
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from scipy import ndimage

from clipseg_cli.masks import cleanup, coco_codec, outline, soft_maps
from clipseg_cli.outputs import drawing
from clipseg_cli.outputs.writers import WRITERS, whole
from clipseg_cli.outputs.writers.result import Result
from clipseg_cli.settings.outputs import ExportOptions
from pictures import SAMPLES, Shell, iou, picture, records, save

pytestmark = pytest.mark.filterwarnings(
    "ignore:__array__ implementation:DeprecationWarning",  # of pycocotools
)


def blobs(seed: int, shape: tuple[int, int] = (90, 130)) -> np.ndarray:
    """A mask with parts, holes, corners that touch, and the frame crossed."""
    noise = np.random.default_rng(seed).random(shape)
    soft = ndimage.gaussian_filter(noise, [0.6, 1.5, 3, 6][seed % 4])
    return np.where(soft > np.quantile(soft, [0.5, 0.8, 0.3][seed % 3]), 255, 0).astype(np.uint8)


def ring() -> np.ndarray:
    """A disc with a hole in it, and a second part."""
    mask = cv2.circle(np.zeros((90, 130), np.uint8), (50, 45), 40, 255, -1)
    return cv2.circle(cv2.circle(mask, (45, 50), 20, 0, -1), (110, 40), 12, 255, -1)


MASKS = {"ring": ring(), "empty": np.zeros((90, 130), np.uint8), "full": np.full((90, 130), 255, np.uint8)}
MASKS |= {f"blobs {seed}": blobs(seed) for seed in range(12)}
every_mask = pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS)


def result(*given: np.ndarray, **export: Any) -> Result:
    """What the writers are given of a picture with these masks."""
    height, width = given[0].shape
    labels = tuple(f'label "{index}" <&>' for index in range(len(given)))
    return Result(
        name="imgs/a.jpg",
        photo=lambda: picture(width, height),
        labels=labels,
        slugs=tuple(f"label-{index}" for index in range(len(given))),
        masks=given,
        scores=tuple(0.9 for _ in given),
        thresholds=tuple(0.5 for _ in given),
        softs=given,
        fines=tuple(mask.astype(np.uint16) * 257 for mask in given),
        alphas=(),
        index=None,
        skip=tuple(False for _ in given),
        feather=0,
        export=ExportOptions(**export),
    )


def written(form: Any, one: Result, stem: str = "sub/a") -> dict[str, bytes]:
    """The files that a writer makes."""
    return {path: data for path, _, data in WRITERS[form](stem, one)}


def even_odd(rings: list[np.ndarray], shape: tuple[int, int]) -> np.ndarray:
    """Fills rings along the borders of pixels by counting, in each row, the sides to the left of each pixel."""
    inside = np.zeros(shape, bool)
    for points in rings:
        for (x0, y0), (x1, y1) in zip(points, np.roll(points, -1, 0), strict=True):
            assert x0 == x1 or y0 == y1
            if x0 == x1:
                inside[min(y0, y1) : max(y0, y1), x0:] ^= True
    return inside


@every_mask
def test_outlines_run_between_the_pixels(mask: np.ndarray) -> None:
    """The exact outline, filled by the even-odd rule, is the mask to the pixel."""
    rings = [ring for part in outline.edges(mask) for ring in (part.outer, *part.holes)]
    assert np.array_equal(even_odd(rings, mask.shape), mask > 0)
    assert len(outline.edges(mask)) == len(cleanup.parts(mask))


@every_mask
def test_run_lengths_are_pycocotools(mask: np.ndarray) -> None:
    """The compressed counts that COCO's own library makes, and the mask that it reads from them."""
    counts = coco_codec.packed(mask)
    assert counts == coco_mask.encode(np.asfortranarray(mask // 255))["counts"].decode()
    assert np.array_equal(coco_mask.decode({"size": list(mask.shape), "counts": counts}) * 255, mask)


def read_coco(path: Path) -> COCO:
    """pycocotools' reader, which prints."""
    with contextlib.redirect_stdout(io.StringIO()):
        return COCO(str(path))


@pytest.fixture
def assembled(tmp_path: Path) -> Any:
    """Writes the masks of pictures as a run would, and puts together what speaks of all of them."""

    def put(form: Any, pictures: dict[str, Result]) -> Path:
        lines = []
        for stem, one in pictures.items():
            files = written(form, one, stem)
            for path, data in files.items():
                (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
                (tmp_path / path).write_bytes(data)
            lines.append(json.dumps({"v": 1, "image": f"imgs/{stem}.jpg", form: next(iter(files))}) + "\n")
        (tmp_path / "manifest.jsonl").write_text("".join(reversed(lines)))  # as they came to be done
        whole.assemble(tmp_path, (form,), next(iter(pictures.values())).labels)
        return tmp_path

    return put


@pytest.mark.parametrize("components", [False, True])
@pytest.mark.parametrize("polygons", [False, True])
def test_coco_is_read_by_pycocotools(assembled: Any, polygons: bool, components: bool) -> None:
    """Images, categories, boxes, areas and scores are there, and the union of a label's annotations is its mask:
    exactly from run lengths, to 0.98 from polygons, holes left open."""
    shown = {f"p{i:02}": [mask, MASKS["ring"]] for i, mask in enumerate(MASKS.values())}
    out = assembled("coco", {k: result(*v, polygons=polygons, components=components) for k, v in shown.items()})
    data = read_coco(out / "coco.json")
    assert [data.cats[i]["name"] for i in data.getCatIds()] == ['label "0" <&>', 'label "1" <&>']
    assert [data.imgs[i]["file_name"] for i in sorted(data.imgs)] == ["imgs/a.jpg"] * len(shown)
    for image, (first, second) in zip(sorted(data.imgs), shown.values(), strict=True):
        for category, mask in ((1, first), (2, second)):
            found = data.loadAnns(data.getAnnIds(imgIds=image, catIds=category))
            union = sum((data.annToMask(each) for each in found), np.zeros_like(mask)) > 0
            assert np.array_equal(union, mask > 0) if not polygons else iou(union, mask) >= 0.98
            assert len(found) == (len(cleanup.parts(mask)) if components else int(mask.any()))
            assert sum(each["area"] for each in found) == np.count_nonzero(mask)
            assert all(each["score"] == 0.9 for each in found)
            for each in found if not polygons else ():
                assert each["bbox"] == coco_mask.toBbox(each["segmentation"]).tolist()


def test_coco_of_nothing_is_still_coco(assembled: Any) -> None:
    """No annotation at all: a file that reads."""
    out = assembled("coco", {"a": result(MASKS["empty"])})
    assert read_coco(out / "coco.json").getAnnIds() == []


def read_yolo(text: str, width: int, height: int) -> dict[int, np.ndarray]:
    """By the published rules: class and x y pairs in 0..1, scaled and drawn by cv2.fillPoly at whole pixels."""
    found: dict[int, np.ndarray] = {}
    for line in text.splitlines():
        number, *values = line.split()
        points = np.array(values, float).reshape(-1, 2)
        assert len(points) >= 3 and (points >= 0).all() and (points <= 1).all()
        one = cv2.fillPoly(np.zeros((height, width), np.uint8), [(points * (width, height)).astype(np.int32)], 255)
        found[int(number)] = found.get(int(number), np.zeros_like(one)) | one
    return found


@every_mask
def test_yolo_segments_draw_the_mask(mask: np.ndarray) -> None:
    """Labels beside the photo, at the place where trainers look for them; IoU 0.98 or more, holes left open."""
    files = written("yolo", result(mask, MASKS["ring"]))
    found = read_yolo(files["yolo/labels/sub/a.txt"].decode(), 130, 90)
    assert iou(found.get(0, MASKS["empty"]), mask) >= 0.98 and iou(found[1], MASKS["ring"]) >= 0.98
    assert Image.open(io.BytesIO(files["yolo/images/sub/a.jpg"])).size == (130, 90)


ODD = ("new\nline", "tab\t\x7f\x85\u2028", "b\udcff", "Größe 🚲", "\\U00000041: {x}", "- 'no'", "\ufeff#")


def test_yolo_names_its_classes(assembled: Any) -> None:
    """data.yaml is YAML that names the folders and the classes by number, whatever the label; the lines are where
    trainers look for them, also where a folder of the pictures has the name of one of theirs."""
    stems = ("a", "images/b", "x/images/images/c", "labels/d")
    out = assembled("yolo", dict.fromkeys(stems, replace(result(*[ring()] * len(ODD)), labels=ODD)))
    data = yaml.safe_load((out / "yolo/data.yaml").read_text())
    assert data["names"] == dict(enumerate(ODD))
    photos = sorted((out / "yolo" / data["train"]).rglob("*.jpg"))
    assert [str(photo.relative_to(out / "yolo/images")) for photo in photos] == sorted(f"{stem}.jpg" for stem in stems)
    # the rule of Ultralytics' `img2label_paths`
    lines = ["/labels/".join(str(photo).rsplit("/images/", 1)).rsplit(".", 1)[0] + ".txt" for photo in photos]
    assert all(set(read_yolo(Path(line).read_text(), 130, 90)) == {*range(len(ODD))} for line in lines)


@pytest.mark.parametrize("form", [*WRITERS])
def test_any_label_can_be_written(assembled: Any, form: Any) -> None:
    """Line ends, bytes that are not UTF-8, signs that mean something to a format: a name stays one name, and files
    that are text are UTF-8."""
    one = replace(result(*[ring()] * len(ODD)), labels=ODD, index=ring() // 255)
    out = assembled(form, {"a": one})
    names = [" ".join(label.split()).encode("utf-8", "backslashreplace").decode() for label in ODD]
    for file in (path for path in out.rglob("*") if path.suffix in (".json", ".txt", ".xml", ".svg", ".yaml")):
        text = file.read_text("utf-8")
        if file.suffix == ".json":
            json.loads(text)
        elif file.suffix in (".xml", ".svg"):
            ElementTree.fromstring(text)
        elif file.name == "classes.txt":
            assert text.split("\n") == ["background", *names, ""]


@every_mask
def test_labelme_draws_the_mask(mask: np.ndarray) -> None:
    """By labelme's own rules: the keys it asks for, polygons drawn by Pillow with outline and fill, photo inside."""
    document = json.loads(written("labelme", result(mask, ring()))["labelme/sub/a.json"])
    assert {"version", "flags", "shapes", "imagePath", "imageData", "imageHeight", "imageWidth"} == document.keys()
    photo = Image.open(io.BytesIO(base64.b64decode(document["imageData"])))
    assert photo.size == (document["imageWidth"], document["imageHeight"]) == (130, 90)
    for label, wanted in (('label "0" <&>', mask), ('label "1" <&>', ring())):
        union = np.zeros((90, 130), bool)
        for shape in document["shapes"]:
            if shape["label"] == label:
                assert shape["shape_type"] == "polygon" and len(shape["points"]) > 2
                drawn = Image.fromarray(np.zeros((90, 130), np.uint8))
                ImageDraw.Draw(drawn).polygon([tuple(point) for point in shape["points"]], outline=1, fill=1)
                union |= np.array(drawn, bool)
        assert iou(union, wanted) >= 0.98


@every_mask
def test_voc_is_read_by_pillow(mask: np.ndarray) -> None:
    """Indexed masks of classes and objects with a palette, boxes from 1, the photo beside them."""
    files = written("voc", result(ring(), mask, components=True))
    classes, objects = (
        Image.open(io.BytesIO(files[f"voc/Segmentation{kind}/sub/a.png"])) for kind in ("Class", "Object")
    )
    assert classes.mode == "P" and classes.getpalette()[:6] == [0, 0, 0, *drawing.colour(0)]
    index = np.array(classes)
    assert np.array_equal(index == 2, mask > 0) and np.array_equal(index == 1, (ring() > 0) & (mask == 0))
    assert np.array_equal(np.array(objects) > 0, index > 0)
    tree = ElementTree.fromstring(files["voc/Annotations/sub/a.xml"])
    boxes = [
        [int(each.findtext(f"bndbox/{key}")) for key in ("xmin", "ymin", "xmax", "ymax")]
        for each in tree.iter("object")
    ]
    wanted = [soft_maps.bbox(part) for one in (ring(), mask) for part in cleanup.parts(one)]
    assert boxes == [[x + 1, y + 1, x + w, y + h] for x, y, w, h in wanted]
    assert {each.findtext("name") for each in tree.iter("object")} <= {'label "0" <&>', 'label "1" <&>'}
    assert "voc/JPEGImages/sub/a.jpg" in files


@every_mask
def test_svg_is_drawn_by_a_renderer(mask: np.ndarray) -> None:
    """resvg, an SVG renderer in Rust, paints the mask to the pixel, holes left open."""
    import resvg_py

    text = written("svg", result(mask))["svg/sub/a.svg"].decode()
    png = resvg_py.svg_to_bytes(svg_string=text)
    alpha = np.array(Image.open(io.BytesIO(bytes(png))).convert("RGBA"))[..., 3]
    assert np.array_equal(alpha, mask)
    assert ElementTree.fromstring(text)[0][0].text == 'label "0" <&>'


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # it leaves files open
def test_webdataset_reads_its_shards(assembled: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """webdataset's own loader gives each sample once, its photo, masks and JSON under one key; shards have a limit,
    and stay as they are when nothing changed."""
    import webdataset

    monkeypatch.setattr(whole, "SHARD", 5)
    shown = {f"sub.d/{i // 2:02}{'._'[i % 2]}p": mask for i, mask in enumerate(MASKS.values())}  # 00.p, 00_p, 01.p
    pictures = {stem: result(mask, ring()) for stem, mask in shown.items()}
    out = assembled("webdataset", pictures)
    shards = sorted((out / "webdataset").iterdir())
    assert [shard.name for shard in shards] == ["000000.tar", "000001.tar", "000002.tar"]
    before = [(shard.stat().st_mtime_ns, shard.read_bytes()) for shard in shards]
    whole.assemble(out, ("webdataset",), ())
    assert before == [(shard.stat().st_mtime_ns, shard.read_bytes()) for shard in shards]
    samples = list(webdataset.WebDataset([str(shard) for shard in shards], shardshuffle=False).decode("rgb8"))
    keys = [sample["__key__"] for sample in samples]
    assert len({*keys}) == len(keys) and keys[1::2] == [*shown][1::2]
    assert [key.partition("~")[0] for key in keys] == [f"sub.d/{i // 2:02}_p" for i in range(len(shown))]
    for sample, mask in zip(samples, shown.values(), strict=True):
        assert sample["jpg"].shape == (90, 130, 3) and np.array_equal(sample["label-0.png"][..., 0], mask)
        assert np.array_equal(sample["label-1.png"][..., 0], ring())
        assert [each["mask"] for each in sample["json"]["masks"]] == ["label-0.png", "label-1.png"]
    gc.collect()  # what the loader left open goes here, where its warning is expected


def test_npz_and_sixteen_bits_are_numpys_and_pillows() -> None:
    """Arrays by name without pickles; a 16-bit grey PNG."""
    one = result(ring(), MASKS["blobs 1"])
    with np.load(io.BytesIO(written("npz", one)["npz/sub/a.npz"]), allow_pickle=False) as arrays:
        assert arrays["masks"].dtype == bool and np.array_equal(arrays["masks"][1] * 255, MASKS["blobs 1"])
        assert arrays["labels"].tolist() == list(one.labels) and arrays["soft"].dtype == np.uint8
    fine = Image.open(io.BytesIO(written("soft16", one)["soft16/label-0/sub/a.png"]))
    assert fine.mode == "I;16" and np.array_equal(np.array(fine), ring().astype(np.uint16) * 257)


def antialiased() -> tuple[np.ndarray, np.ndarray]:
    """A red disc on green whose edge mixes both, and its mask."""
    large = np.zeros((800, 800, 3), np.uint8)
    large[:] = (20, 200, 30)
    cv2.circle(large, (400, 400), 250, (210, 30, 40), -1)
    small = cv2.resize(large, (100, 100), interpolation=cv2.INTER_AREA)
    return small, np.where(small[..., 0] > 60, 255, 0).astype(np.uint8)


@pytest.mark.parametrize("feather", [0.0, 3.0])
def test_a_cutout_carries_no_fringe(feather: float) -> None:
    """Nothing of the green ground shows on the edge of the red disc, hard or soft, also when the cutout is scaled."""
    photo, mask = antialiased()
    assert (photo[mask > 0][:, 1] > 60).any(), "the photo's own edge is greenish"
    rgba = drawing.cutout(photo, mask, cleanup.feather(mask, feather))
    assert rgba.shape == (100, 100, 4) and np.array_equal(rgba[50, 50], [*photo[50, 50], 255])
    assert (rgba[rgba[..., 3] > 0][:, 1] < 60).all()
    white = drawing.on(rgba, (255, 255, 255)).astype(int)
    assert (white[..., 0] >= white[..., 1] - 1).all() and (white[0, 0] == 255).all()
    half = cv2.resize(rgba, (55, 55), interpolation=cv2.INTER_LINEAR)
    assert (half[half[..., 3] > 127][:, 1] < 60).all()


def test_a_thin_object_keeps_its_own_colours() -> None:
    """Where there is no inside, nothing is guessed."""
    photo = picture(60, 40)
    mask = np.zeros((40, 60), np.uint8)
    mask[20, 10:50] = 255
    rgba = drawing.cutout(photo, mask, mask)
    assert np.array_equal(rgba[mask > 0][:, :3], photo[mask > 0])


FORMATS = "mask,soft,soft16,npz,overlay,cutout,labels,coco,yolo,voc,labelme,svg,webdataset"


def files(out: Path) -> Iterator[tuple[str, bytes]]:
    """What a run leaves, but for what holds times."""
    for path in sorted(out.rglob("*")):
        if path.is_file() and path.name not in ("run.json", ".clipseg-journal.jsonl", ".clipseg-lock"):
            yield str(path.relative_to(out)), path.read_bytes()


def test_all_formats_from_a_shell(shell: Shell, tmp_path: Path) -> None:
    """One run with every format; one that was done in two goes, with a file lost between them, ends in the same bytes;
    what COCO and YOLO hold is what the masks hold."""
    for index in range(4):
        save(tmp_path / f"imgs/sub{index % 2}/p{index}.jpg", picture(120 + 16 * index, 96, index))
    flags = f"-p 'a red circle' -p 'a circle' -f {FORMATS} --components --backdrop white -e jpg"
    shell(f"clipseg segment imgs {flags} -o whole")
    shell(f"clipseg segment imgs {flags} -o twice --limit 2")
    (tmp_path / "twice/coco.json").unlink()
    (tmp_path / "twice/.clipseg-parts/coco/sub0/p0.json").unlink()
    shell(f"clipseg segment imgs {flags} -o twice")
    assert dict(files(tmp_path / "whole")) == dict(files(tmp_path / "twice"))
    data, rows = read_coco(tmp_path / "whole/coco.json"), records(tmp_path / "whole/manifest.jsonl")
    for image in data.imgs.values():
        row = next(row for row in rows if row["image"] == image["file_name"])
        for category, mask in enumerate(row["masks"], 1):
            found = data.loadAnns(data.getAnnIds(imgIds=image["id"], catIds=category))
            union = sum((data.annToMask(each) for each in found), np.zeros((row["height"], row["width"]), np.uint8))
            assert np.array_equal(union * 255, cv2.imread(str(tmp_path / "whole" / mask["path"]), cv2.IMREAD_UNCHANGED))
        assert (tmp_path / "whole" / row["npz"]).is_file() and Path(tmp_path / "whole" / mask["cutout"]).is_file()
    with Image.open(tmp_path / "whole" / rows[0]["masks"][0]["cutout"]) as cutout:
        assert cutout.mode == "RGB"
    assert len((tmp_path / "whole/voc/ImageSets/Segmentation/train.txt").read_text().splitlines()) == 4


def test_an_unknown_colour_is_a_usage_error(shell: Shell) -> None:
    """Exit 2, with what can be given."""
    assert "#rrggbb" in shell(f"clipseg segment {SAMPLES} -p x --backdrop mud", expect=2).stderr
