"""Files that speak of all images: made at the end of a run, of the parts that each image left and the manifest names.

They depend on those parts alone, in the order of the images' names, so that a run that was killed and resumed, or
shared by several processes, ends with the same bytes as one that was not.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from clipseg_cli import manifest, store
from clipseg_cli.settings import Format

SHARD = 1000  # samples of a webdataset shard at most
END = bytes(1024)  # of a tar: two empty blocks

Parts = Sequence[tuple[str, Path]]  # (image, its part), sorted


def coco(out: Path, parts: Parts, labels: Sequence[str], fsync: bool) -> None:
    """coco.json: images, annotations and categories, numbered from 1."""

    def text() -> Iterator[bytes]:
        head = {"info": {"description": "masks by clipseg"}, "categories": _categories(labels)}
        yield json.dumps(head, ensure_ascii=False)[:-1].encode("utf-8", "backslashreplace") + b',\n"images": [\n'
        for number, (_, path) in enumerate(parts, 1):
            image = json.loads(path.read_bytes())["image"]
            yield _line({"id": number} | image, number == len(parts))
        yield b'],\n"annotations": [\n'
        total, before = 0, b""
        for number, (_, path) in enumerate(parts, 1):
            for annotation in json.loads(path.read_bytes())["annotations"]:
                total += 1
                yield before
                before = _line({"id": total, "image_id": number} | annotation, False)
        yield before.removesuffix(b",\n") + (b"\n" if before else b"") + b"]}\n"

    store.write(out / "coco.json", text(), fsync)


def yolo(out: Path, parts: Parts, labels: Sequence[str], fsync: bool) -> None:
    """yolo/data.yaml. Paths are relative to it; the images are not split: `val` names the same as `train`."""
    names = "".join(f"  {index}: {json.dumps(label, ensure_ascii=False)}\n" for index, label in enumerate(labels))
    store.write(out / "yolo/data.yaml", f"train: images\nval: images\nnames:\n{names}".encode(), fsync)


def voc(out: Path, parts: Parts, labels: Sequence[str], fsync: bool) -> None:
    """voc/ImageSets/Segmentation/train.txt, one image a line, and voc/classes.txt, the name of index 0 first."""
    stems = (path.relative_to(out / "voc/SegmentationClass").with_suffix("") for _, path in parts)
    lines = "".join(f"{stem.as_posix()}\n" for stem in stems)
    store.write(out / "voc/ImageSets/Segmentation/train.txt", lines.encode(), fsync)
    names = "".join(" ".join(name.split()) + "\n" for name in ("background", *labels))
    store.write(out / "voc/classes.txt", names.encode("utf-8", "backslashreplace"), fsync)


def labels(out: Path, parts: Parts, labels: Sequence[str], fsync: bool) -> None:
    """labels/classes.txt: its line i + 1 names index i of the pictures beside it."""
    names = "".join(f"{name}\n" for name in ("background", *labels))
    store.write(out / "labels/classes.txt", names.encode("utf-8", "backslashreplace"), fsync)


def webdataset(out: Path, parts: Parts, labels: Sequence[str], fsync: bool) -> None:
    """webdataset/000000.tar and on. A shard that is newer than its samples and has their size stays as it is."""
    count = -(-len(parts) // SHARD)
    for index in range(count):
        some = parts[index * SHARD : (index + 1) * SHARD]
        shard, paths = out / f"webdataset/{index:06}.tar", [path for _, path in some]
        if not _current(shard, paths):
            store.write(shard, _joined(paths), fsync)
    for stale in (out / "webdataset").glob("*.tar"):
        if stale.stem.isdigit() and int(stale.stem) >= count:
            stale.unlink()


def _joined(paths: Sequence[Path]) -> Iterator[bytes]:
    for path in paths:
        yield path.read_bytes()
    yield END


def _current(shard: Path, paths: Sequence[Path]) -> bool:
    states = [path.stat() for path in paths]
    try:
        made = shard.stat()
    except FileNotFoundError:
        return False
    size = sum(state.st_size for state in states) + len(END)
    return made.st_size == size and made.st_mtime_ns > max(state.st_mtime_ns for state in states)


def _categories(labels: Sequence[str]) -> list[dict[str, object]]:
    return [{"id": index, "name": label, "supercategory": ""} for index, label in enumerate(labels, 1)]


def _line(document: dict[str, object], last: bool) -> bytes:
    text = json.dumps(document, ensure_ascii=False, separators=(",", ":"))
    return (text + ("\n" if last else ",\n")).encode("utf-8", "backslashreplace")


def assemble(out: Path, formats: Sequence[Format], labels: Sequence[str], fsync: bool = False) -> None:
    """Makes every file of `formats` that speaks of all images, from the manifest of a run that came to its end."""
    for form in formats:
        if make := WHOLE.get(form):
            make(out, sorted(_parts(out, form)), labels, fsync)


def _parts(out: Path, form: Format) -> Iterator[tuple[str, Path]]:
    for document in manifest.documents(out / manifest.MANIFEST):
        if path := document.get(form):
            yield document["image"], out / path


Whole = Callable[[Path, Parts, Sequence[str], bool], None]
WHOLE: dict[Format, Whole] = {"labels": labels, "coco": coco, "yolo": yolo, "voc": voc, "webdataset": webdataset}
