"""Files that cover the whole run, such as coco.json. They are assembled at its end from one fragment per image.

The manifest says which images have a fragment, the journal where it is. Only these fragments are read, in the order of
the images' names. A run that was killed and resumed, or shared by several processes, therefore ends with the same bytes
as an uninterrupted run.
"""

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from pathlib import Path, PurePosixPath

from clipseg_cli.errors import OutputError
from clipseg_cli.outputs import manifest
from clipseg_cli.outputs.image_root import ImageRoot
from clipseg_cli.outputs.record import key_of, readable_name
from clipseg_cli.outputs.splits import SPLITS
from clipseg_cli.outputs.writers import annotations, labelling, map_layers, parquet
from clipseg_cli.outputs.writers.annotations import FRAGMENTS
from clipseg_cli.settings.outputs import Format
from clipseg_cli.storage import store
from clipseg_cli.storage.store import AnyPath

SHARD = 1000  # samples: the most that one WebDataset shard holds
TAR_END = bytes(1024)  # two empty blocks end a tar archive
OWN_SHARD = re.compile(rf"(?:(?:{'|'.join(SPLITS)})-)?\d+\.tar")

# In place of the fragment, a record names the file that a reader opens. Until a run ends, that is the first shard.
READ_FROM: dict[Format, str] = {
    "coco": "coco.json",
    "geojson": "masks.geojson",
    "gpkg": "masks.gpkg",
    "parquet": "manifest.parquet",
    "labelstudio": "labelstudio/tasks.json",
    "cvat": "cvat/annotations.xml",
    "webdataset": "webdataset/000000.tar",
    "annotations": "annotations/instances_{part}.json",
    "imagefolder": "{part}/metadata.jsonl",
}

Fragments = Sequence[tuple[str, str]]  # (key of the image, path relative to the output folder), sorted


@dataclass(frozen=True, slots=True)
class DataSet:
    """What else the files of a data set depend on."""

    inputs: Sequence[str] = ()  # of the run, as typed
    splits: Mapping[str, str] = field(default_factory=dict)  # the part of each image, by its key; empty: not split

    def parts(self, fragments: Fragments) -> dict[str, Fragments]:
        """Returns the fragments of each part: train and val even if they are empty; all as train without a split."""
        parts: dict[str, list[tuple[str, str]]] = {name: [] for name in (SPLITS[:2] if self.splits else SPLITS[:1])}
        for image, path in fragments:
            parts.setdefault(self.splits.get(image, SPLITS[0]), []).append((image, path))
        return {name: parts[name] for name in SPLITS if name in parts}

    def root(self, fragments: Fragments) -> ImageRoot:
        """Returns the folder that the names of these images are relative to."""
        return ImageRoot.of((image.partition("\0")[0] for image, _ in fragments), self.inputs)


def read_from(form: Format, path: str, part: str) -> str:
    """Returns the path that a record gives for a file of an image in this part of a data set: what readers open."""
    if form == "webdataset" and part:
        return f"webdataset/{part}-000000.tar"
    return READ_FROM[form].replace("{part}", part or SPLITS[0]) if form in READ_FROM else path


def coco(out: AnyPath, fragments: Fragments, labels: Sequence[str], fsync: bool, about: DataSet) -> None:
    """Writes coco.json: images, annotations and categories, numbered from 1. With a split, also a file of each part."""
    root = about.root(fragments)
    parts = about.parts(fragments) if about.splits else {}
    for name, chosen in {"coco.json": fragments, **{f"instances_{part}.json": parts[part] for part in parts}}.items():
        contents = partial(store.contents, out, [path for _, path in chosen])
        store.write(out / name, coco_json(contents, len(chosen), labels, root), fsync)


def coco_json(
    fragments: Callable[[], Iterable[bytes]], count: int, labels: Sequence[str], root: ImageRoot
) -> Iterator[bytes]:
    """Yields the pieces of a COCO file. `fragments` returns the fragments of `count` images; it is called twice.

    The names of images are relative to `root`, which `info` names as `image_root`. It has no date: two runs of one
    command have equal files, and run.json says when they were.
    """
    info = {"year": 0, "version": "1.0", "description": "masks by clipseg", "contributor": "", "url": ""}
    info |= {"date_created": "", "image_root": readable_name(str(root))}
    head = {"info": info, "licenses": [], "categories": _categories(labels)}
    yield json.dumps(head, ensure_ascii=False)[:-1].encode("utf-8", "backslashreplace") + b',\n"images": [\n'
    for number, fragment in enumerate(fragments(), 1):
        image = json.loads(fragment)["image"]
        yield _line({"id": number} | image | {"file_name": root.relative(image["file_name"])}, number == count)
    yield b'],\n"annotations": [\n'
    total, previous = 0, b""
    for number, fragment in enumerate(fragments(), 1):
        for annotation in json.loads(fragment)["annotations"]:
            total += 1
            yield previous
            previous = _line({"id": total, "image_id": number} | annotation, False)
    yield previous.removesuffix(b",\n") + (b"\n" if previous else b"") + b"]}\n"


def annotated(out: AnyPath, fragments: Fragments, labels: Sequence[str], fsync: bool, about: DataSet) -> None:
    """Writes annotations/instances_train.json and those of the other parts. Names of images are relative to images/."""
    for part, chosen in about.parts(fragments).items():
        contents = partial(store.contents, out, [path for _, path in chosen])
        data = coco_json(contents, len(chosen), labels, ImageRoot("", ("images",)))
        store.write(out / f"annotations/instances_{part}.json", data, fsync)


def imagefolder(out: AnyPath, fragments: Fragments, labels: Sequence[str], fsync: bool, about: DataSet) -> None:
    """Writes train/metadata.jsonl and those of the other parts. A part without images has none."""
    parts = about.parts(fragments)
    for part in SPLITS:
        path = out / f"{part}/metadata.jsonl"
        if chosen := parts.get(part, ()):
            store.write(path, store.contents(out, [fragment for _, fragment in chosen]), fsync)
        else:
            path.unlink(missing_ok=True)


def yolo(out: AnyPath, fragments: Fragments, labels: Sequence[str], fsync: bool, about: DataSet) -> None:
    """Writes yolo/data.yaml. Paths are relative to it. Without a split, `train` and `val` name the same folder."""
    store.write(out / "yolo/data.yaml", _data_yaml("images", fragments, labels, about), fsync)


def ultralytics(out: AnyPath, fragments: Fragments, labels: Sequence[str], fsync: bool, about: DataSet) -> None:
    """Writes data.yaml, as `yolo` does. Without a split, `val` names the images of `train`."""
    store.write(out / "data.yaml", _data_yaml("images/train", fragments, labels, about), fsync)


def semantic(out: AnyPath, fragments: Fragments, labels: Sequence[str], fsync: bool, about: DataSet) -> None:
    """Writes data.yaml, as `ultralytics` does, with the folder of the masks. Class 0 is the background."""
    data = _data_yaml("images/train", fragments, ("background", *labels), about)
    store.write(out / "data.yaml", b"masks_dir: masks\n" + data, fsync)


def _data_yaml(whole: str, fragments: Fragments, labels: Sequence[str], about: DataSet) -> bytes:
    """Returns data.yaml; `whole` is the folder of all images if they are not split.

    Ultralytics needs train and val, and refuses folders that are missing. So a part without images names those of
    another part, and a comment says so.
    """
    names = "".join(f"  {index}: {_quoted(label)}\n" for index, label in enumerate(labels))
    parts = about.parts(fragments)
    filled = [part for part, chosen in parts.items() if chosen] or SPLITS[:1]
    lines = []
    for part in dict.fromkeys((*SPLITS[:2], *parts)):
        own = part in filled or not about.splits
        folder = f"images/{part if own else filled[0]}" if about.splits else whole
        lines.append(f"{part}: {folder}{'' if own else f'  # {part} has no images of its own'}\n")
    return f"{''.join(lines)}names:\n{names}".encode()


def voc(out: AnyPath, fragments: Fragments, labels: Sequence[str], fsync: bool, about: DataSet) -> None:
    """Writes a list for each part, voc/ImageSets/Segmentation/train.txt, one image per line, classes.txt, labelmap.txt.

    The last two have the background first; labelmap.txt has the colour of each label in VOC's palette.
    """
    for part, chosen in about.parts(fragments).items():
        stems = (PurePosixPath(path).relative_to("voc/SegmentationClass").with_suffix("") for _, path in chosen)
        lines = "".join(f"{stem}\n" for stem in stems)
        store.write(out / f"voc/ImageSets/Segmentation/{part}.txt", lines.encode(), fsync)
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


def cvat(out: AnyPath, fragments: Fragments, labels: Sequence[str], fsync: bool, about: DataSet) -> None:
    """Writes cvat/annotations.xml: labels, and images numbered from 0."""
    contents = store.contents(out, [path for _, path in fragments])
    store.write(out / "cvat/annotations.xml", labelling.cvat_xml(contents, labels, about.root(fragments)), fsync)


def webdataset(out: AnyPath, fragments: Fragments, labels: Sequence[str], fsync: bool, about: DataSet) -> None:
    """Writes webdataset/000000.tar, 000001.tar, ...; with a split train-000000.tar, ... and so on for each part.

    A complete shard that is newer than its samples is kept. The records then name the shards of their images.
    """
    shards: dict[str, str] = {}
    for part, chosen in about.parts(fragments).items():
        for start in range(0, len(chosen), SHARD):
            samples = chosen[start : start + SHARD]
            name = f"{f'{part}-' if about.splits else ''}{start // SHARD:06}"
            shard, paths = f"webdataset/{name}.tar", [path for _, path in samples]
            if not _current(out, shard, paths):
                store.write(out / shard, chain(store.contents(out, paths), [TAR_END]), fsync)
            shards |= {image: shard for image, _ in samples}
    manifest.point(out, "webdataset", shards, fsync)
    made = {*shards.values()}
    for stale in (out / "webdataset").glob("*.tar"):
        if OWN_SHARD.fullmatch(stale.name) and f"webdataset/{stale.name}" not in made:
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


def assemble(
    out: AnyPath, formats: Sequence[Format], labels: Sequence[str], fsync: bool = False, inputs: Sequence[str] = ()
) -> None:
    """Writes every file of `formats` that covers the whole run, from the manifest of a finished run.

    `inputs` are those of the run, as typed.
    """
    about = DataSet(inputs, manifest.splits(out)) if DATA_SETS.keys() & formats else DataSet()
    for name in formats:
        if write := PER_RUN.get(name):
            write(out, sorted(_fragments(out, name)), labels, fsync)
        elif write_set := DATA_SETS.get(name):
            write_set(out, sorted(_fragments(out, name)), labels, fsync, about)


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
    "labelstudio": labelstudio,
    "geojson": map_layers.write_geojson,
    "gpkg": map_layers.write_gpkg,
    "parquet": parquet.table,
}
DATA_SETS: dict[Format, Callable[[AnyPath, Fragments, Sequence[str], bool, DataSet], None]] = {
    "coco": coco,
    "yolo": yolo,
    "voc": voc,
    "cvat": cvat,
    "webdataset": webdataset,
    "ultralytics": ultralytics,
    "semantic": semantic,
    "annotations": annotated,
    "imagefolder": imagefolder,
}
