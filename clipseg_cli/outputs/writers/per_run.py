"""Files that cover the whole run, such as coco.json. They are assembled at its end from one fragment per image.

The manifest says which images have a fragment, the journal where it is. Only these fragments are read, in the order of
the images' names. A run that was killed and resumed, or shared by several processes, therefore ends with the same bytes
as an uninterrupted run.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path, PurePosixPath

from clipseg_cli.errors import OutputError
from clipseg_cli.outputs import manifest
from clipseg_cli.outputs.record import key_of, readable_name
from clipseg_cli.outputs.writers import annotations, labelling, parquet
from clipseg_cli.outputs.writers.annotations import FRAGMENTS
from clipseg_cli.settings.outputs import Format
from clipseg_cli.storage import store
from clipseg_cli.storage.store import AnyPath

SHARD = 1000  # samples: the most that one WebDataset shard holds
TAR_END = bytes(1024)  # two empty blocks end a tar archive

# In place of the fragment, a record names the file that a reader opens. Until a run ends, that is the first shard.
READ_FROM: dict[Format, str] = {
    "coco": "coco.json",
    "parquet": "manifest.parquet",
    "labelstudio": "labelstudio/tasks.json",
    "cvat": "cvat/annotations.xml",
    "webdataset": "webdataset/000000.tar",
}

Fragments = Sequence[tuple[str, str]]  # (key of the image, path relative to the output folder), sorted


def coco(out: AnyPath, fragments: Fragments, labels: Sequence[str], fsync: bool) -> None:
    """Writes coco.json: images, annotations and categories, numbered from 1."""
    paths = [path for _, path in fragments]
    store.write(out / "coco.json", coco_json(lambda: store.contents(out, paths), len(paths), labels), fsync)


def coco_json(fragments: Callable[[], Iterable[bytes]], count: int, labels: Sequence[str]) -> Iterator[bytes]:
    """Yields the pieces of a COCO file. `fragments` returns the fragments of `count` images; it is called twice."""
    head = {"info": {"description": "masks by clipseg"}, "categories": _categories(labels)}
    yield json.dumps(head, ensure_ascii=False)[:-1].encode("utf-8", "backslashreplace") + b',\n"images": [\n'
    for number, fragment in enumerate(fragments(), 1):
        image = json.loads(fragment)["image"]
        yield _line({"id": number} | image, number == count)
    yield b'],\n"annotations": [\n'
    total, previous = 0, b""
    for number, fragment in enumerate(fragments(), 1):
        for annotation in json.loads(fragment)["annotations"]:
            total += 1
            yield previous
            previous = _line({"id": total, "image_id": number} | annotation, False)
    yield previous.removesuffix(b",\n") + (b"\n" if previous else b"") + b"]}\n"


def yolo(out: AnyPath, fragments: Fragments, labels: Sequence[str], fsync: bool) -> None:
    """Writes yolo/data.yaml. Paths are relative to it. Images are not split: `train` and `val` name the same folder."""
    names = "".join(f"  {index}: {_quoted(label)}\n" for index, label in enumerate(labels))
    store.write(out / "yolo/data.yaml", f"train: images\nval: images\nnames:\n{names}".encode(), fsync)


def voc(out: AnyPath, fragments: Fragments, labels: Sequence[str], fsync: bool) -> None:
    """Writes voc/ImageSets/Segmentation/train.txt, one image per line, voc/classes.txt and voc/labelmap.txt.

    The last two have the background first; labelmap.txt has the colour of each label in VOC's palette.
    """
    stems = (PurePosixPath(path).relative_to("voc/SegmentationClass").with_suffix("") for _, path in fragments)
    lines = "".join(f"{stem}\n" for stem in stems)
    store.write(out / "voc/ImageSets/Segmentation/train.txt", lines.encode(), fsync)
    store.write(out / "voc/classes.txt", _names(labels), fsync)
    colours = enumerate(("background", *annotations.voc_names(labels)))
    coloured = "".join(f"{name}:{','.join(map(str, annotations.VOC_PALETTE[number]))}::\n" for number, name in colours)
    store.write(out / "voc/labelmap.txt", f"# label:color_rgb:parts:actions\n{coloured}".encode(), fsync)


def labels(out: AnyPath, fragments: Fragments, labels: Sequence[str], fsync: bool) -> None:
    """Writes labels/classes.txt: line i + 1 names the value i of the label images."""
    store.write(out / "labels/classes.txt", _names(labels), fsync)


def labelstudio(out: AnyPath, fragments: Fragments, labels: Sequence[str], fsync: bool) -> None:
    """Writes labelstudio/tasks.json, a list of tasks, and labelstudio/labels.xml, the labelling interface."""
    tasks = labelling.labelstudio_json(store.contents(out, [path for _, path in fragments]))
    store.write(out / "labelstudio/tasks.json", tasks, fsync)
    store.write(out / "labelstudio/labels.xml", labelling.labelstudio_config(labels), fsync)


def cvat(out: AnyPath, fragments: Fragments, labels: Sequence[str], fsync: bool) -> None:
    """Writes cvat/annotations.xml: labels, and images numbered from 0."""
    pieces = labelling.cvat_xml(store.contents(out, [path for _, path in fragments]), labels)
    store.write(out / "cvat/annotations.xml", pieces, fsync)


def webdataset(out: AnyPath, fragments: Fragments, labels: Sequence[str], fsync: bool) -> None:
    """Writes webdataset/000000.tar, 000001.tar, ... A complete shard that is newer than its samples is kept.

    The records then name the shards of their images.
    """
    count = -(-len(fragments) // SHARD)
    shards: dict[str, str] = {}
    for index in range(count):
        samples = fragments[index * SHARD : (index + 1) * SHARD]
        shard, paths = f"webdataset/{index:06}.tar", [path for _, path in samples]
        if not _current(out, shard, paths):
            store.write(out / shard, chain(store.contents(out, paths), [TAR_END]), fsync)
        shards |= {image: shard for image, _ in samples}
    manifest.point(out, "webdataset", shards, fsync)
    for stale in (out / "webdataset").glob("*.tar"):
        number = stale.name.removesuffix(".tar")
        if number.isdigit() and int(number) >= count:
            stale.unlink()


def _current(out: AnyPath, shard: str, paths: Sequence[str]) -> bool:
    if not isinstance(out, Path):  # in a bucket this would cost one request per sample
        return False
    members = [(out / path).stat() for path in paths]
    try:
        made = (out / shard).stat()
    except FileNotFoundError:
        return False
    size = sum(member.st_size for member in members) + len(TAR_END)
    return made.st_size == size and made.st_mtime_ns > max(member.st_mtime_ns for member in members)


def _names(labels: Sequence[str]) -> bytes:
    """Returns one name per line, `background` first; white space within a name becomes one space."""
    return "".join(annotations.plain(name) + "\n" for name in ("background", *labels)).encode()


def _quoted(text: str) -> str:
    """Returns a YAML string; characters that are not printable become numeric escapes."""
    escaped = (f"\\U{ord(c):08x}" if not c.isprintable() else f"\\{c}" if c in '"\\' else c for c in text)
    return f'"{"".join(escaped)}"'


def _categories(labels: Sequence[str]) -> list[dict[str, object]]:
    return [{"id": index, "name": label, "supercategory": ""} for index, label in enumerate(labels, 1)]


def _line(document: dict[str, object], last: bool) -> bytes:
    text = json.dumps(document, ensure_ascii=False, separators=(",", ":"))
    return (text + ("\n" if last else ",\n")).encode("utf-8", "backslashreplace")


def assemble(out: AnyPath, formats: Sequence[Format], labels: Sequence[str], fsync: bool = False) -> None:
    """Writes every file of `formats` that covers the whole run, from the manifest of a finished run."""
    for name in formats:
        if write := PER_RUN.get(name):
            write(out, sorted(_fragments(out, name)), labels, fsync)


def _fragments(out: AnyPath, name: Format) -> Iterator[tuple[str, str]]:
    hidden = manifest.written(out, f"{FRAGMENTS}/{name}/") if name in READ_FROM else None
    for document in manifest.documents(out / manifest.MANIFEST):
        if path := document["files"].get(name):
            image = key_of(document)
            if hidden is not None and (path := hidden.get(image, "")) == "":
                raise OutputError(f"{out} has lost the fragment of {readable_name(image)}: run the same command again")
            yield image, path


PER_RUN: dict[Format, Callable[[AnyPath, Fragments, Sequence[str], bool], None]] = {
    "labels": labels,
    "coco": coco,
    "yolo": yolo,
    "voc": voc,
    "labelstudio": labelstudio,
    "cvat": cvat,
    "webdataset": webdataset,
    "parquet": parquet.table,
}
