"""Files that speak of all images: made at the end of a run, of the parts that each image left and the manifest names.

They depend on those parts alone, in the order of the images' names, so that a run that was killed and resumed, or
shared by several processes, ends with the same bytes as one that was not.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from pathlib import Path, PurePosixPath

from clipseg_cli.outputs import manifest
from clipseg_cli.settings.outputs import Format
from clipseg_cli.storage import store
from clipseg_cli.storage.store import Place

SHARD = 1000  # samples of a webdataset shard at most
END = bytes(1024)  # of a tar: two empty blocks

Parts = Sequence[tuple[str, str]]  # (image, path of its part under the output directory), sorted


def coco(out: Place, parts: Parts, labels: Sequence[str], fsync: bool) -> None:
    """coco.json: images, annotations and categories, numbered from 1."""
    paths = [path for _, path in parts]

    def text() -> Iterator[bytes]:
        head = {"info": {"description": "masks by clipseg"}, "categories": _categories(labels)}
        yield json.dumps(head, ensure_ascii=False)[:-1].encode("utf-8", "backslashreplace") + b',\n"images": [\n'
        for number, part in enumerate(store.contents(out, paths), 1):
            image = json.loads(part)["image"]
            yield _line({"id": number} | image, number == len(parts))
        yield b'],\n"annotations": [\n'
        total, before = 0, b""
        for number, part in enumerate(store.contents(out, paths), 1):
            for annotation in json.loads(part)["annotations"]:
                total += 1
                yield before
                before = _line({"id": total, "image_id": number} | annotation, False)
        yield before.removesuffix(b",\n") + (b"\n" if before else b"") + b"]}\n"

    store.write(out / "coco.json", text(), fsync)


def yolo(out: Place, parts: Parts, labels: Sequence[str], fsync: bool) -> None:
    """yolo/data.yaml. Paths are relative to it; the images are not split: `val` names the same as `train`."""
    names = "".join(f"  {index}: {_quoted(label)}\n" for index, label in enumerate(labels))
    store.write(out / "yolo/data.yaml", f"train: images\nval: images\nnames:\n{names}".encode(), fsync)


def voc(out: Place, parts: Parts, labels: Sequence[str], fsync: bool) -> None:
    """voc/ImageSets/Segmentation/train.txt, one image a line, and voc/classes.txt, the name of index 0 first."""
    stems = (PurePosixPath(path).relative_to("voc/SegmentationClass").with_suffix("") for _, path in parts)
    lines = "".join(f"{stem}\n" for stem in stems)
    store.write(out / "voc/ImageSets/Segmentation/train.txt", lines.encode(), fsync)
    store.write(out / "voc/classes.txt", _names(labels), fsync)


def labels(out: Place, parts: Parts, labels: Sequence[str], fsync: bool) -> None:
    """labels/classes.txt: its line i + 1 names index i of the pictures beside it."""
    store.write(out / "labels/classes.txt", _names(labels), fsync)


def webdataset(out: Place, parts: Parts, labels: Sequence[str], fsync: bool) -> None:
    """webdataset/000000.tar and on. A shard that is newer than its samples and has their size stays as it is."""
    count = -(-len(parts) // SHARD)
    for index in range(count):
        some = parts[index * SHARD : (index + 1) * SHARD]
        shard, paths = f"webdataset/{index:06}.tar", [path for _, path in some]
        if not _current(out, shard, paths):
            store.write(out / shard, chain(store.contents(out, paths), [END]), fsync)
    for stale in (out / "webdataset").glob("*.tar"):
        number = stale.name.removesuffix(".tar")
        if number.isdigit() and int(number) >= count:
            stale.unlink()


def _current(out: Place, shard: str, paths: Sequence[str]) -> bool:
    if not isinstance(out, Path):  # it would take a request a sample to know
        return False
    states = [(out / path).stat() for path in paths]
    try:
        made = (out / shard).stat()
    except FileNotFoundError:
        return False
    size = sum(state.st_size for state in states) + len(END)
    return made.st_size == size and made.st_mtime_ns > max(state.st_mtime_ns for state in states)


def _names(labels: Sequence[str]) -> bytes:
    """One name a line, that of the ground first; blanks and line ends within a name become one space."""
    names = "".join(" ".join(name.split()) + "\n" for name in ("background", *labels))
    return names.encode("utf-8", "backslashreplace")


def _quoted(text: str) -> str:
    """A YAML string; what YAML cannot hold as it is stands as its number."""
    marked = (f"\\U{ord(c):08x}" if not c.isprintable() else f"\\{c}" if c in '"\\' else c for c in text)
    return f'"{"".join(marked)}"'


def _categories(labels: Sequence[str]) -> list[dict[str, object]]:
    return [{"id": index, "name": label, "supercategory": ""} for index, label in enumerate(labels, 1)]


def _line(document: dict[str, object], last: bool) -> bytes:
    text = json.dumps(document, ensure_ascii=False, separators=(",", ":"))
    return (text + ("\n" if last else ",\n")).encode("utf-8", "backslashreplace")


def assemble(out: Place, formats: Sequence[Format], labels: Sequence[str], fsync: bool = False) -> None:
    """Makes every file of `formats` that speaks of all images, from the manifest of a run that came to its end."""
    for form in formats:
        if make := WHOLE.get(form):
            make(out, sorted(_parts(out, form)), labels, fsync)


def _parts(out: Place, form: Format) -> Iterator[tuple[str, str]]:
    for document in manifest.documents(out / manifest.MANIFEST):
        if path := document.get(form):
            yield document["image"], path


Whole = Callable[[Place, Parts, Sequence[str], bool], None]
WHOLE: dict[Format, Whole] = {"labels": labels, "coco": coco, "yolo": yolo, "voc": voc, "webdataset": webdataset}
