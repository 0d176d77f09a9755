"""The stacks of a run: the masks of a microscope's stack as one file with the same axes.

A run writes a file for each plane, which its record names. At its end, if all planes of a stack have a record, these
files are joined: masks/cell/stack/000000.png and so on become masks/cell/stack.tif too. The mask of a plane that failed
is empty.
"""

import contextlib
import os
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from clipseg_cli.errors import ImageError
from clipseg_cli.inputs import decode
from clipseg_cli.inputs.frames import stacks, tiff_pages
from clipseg_cli.inputs.frames.stacks import Stack
from clipseg_cli.inputs.frames.tiff_pages import Field
from clipseg_cli.inputs.source import Source
from clipseg_cli.outputs import manifest
from clipseg_cli.outputs.record import PER_LABEL, image_name, readable_name
from clipseg_cli.outputs.writers import paged_tiff, raster
from clipseg_cli.outputs.writers.paged_tiff import Page
from clipseg_cli.settings.outputs import Format
from clipseg_cli.storage import paths, store
from clipseg_cli.storage.store import AnyPath

# The formats that are joined, with the bytes of a pixel.
STACKED: dict[Format, int] = {"mask": 1, "soft": 1, "soft16": 2, "labels": 1, "instances": 2, "joined": 1}

Planes = dict[int, dict[str, Any]]  # the records of a file, by the number of the plane


@dataclass(frozen=True, slots=True)
class Part:
    """The files of one label, or of all labels, that become one stack."""

    form: Format
    name: str  # of the label, or of the format
    paths: tuple[str, ...]  # one per plane; "" where there is none


@dataclass(frozen=True, slots=True)
class Plan:
    """Which stacks a run writes."""

    out: AnyPath
    formats: Sequence[Format]
    named: Collection[Format] = field(default_factory=tuple)  # by --name: their planes stay single files
    directory: str = ""  # in which the names of images are relative
    fsync: bool = False


def assemble(plan: Plan, images: Collection[str]) -> list[str]:
    """Writes the stacks of these images of a finished run. One that is newer than the manifest is kept.

    Returns what to tell the user. Raises OutputError.
    """
    forms = [form for form in STACKED if form in plan.formats and form not in plan.named]
    if not images or not forms:
        return []
    told = []
    for name, planes in _files(plan.out, images).items():
        try:
            stack = _stack(plan, name)
        except ImageError as error:
            told.append(f"no stack of masks for {readable_name(name)}: {error}")
            continue
        size, *others = {(each["height"], each["width"]) for each in planes.values() if each["status"] == "ok"}
        alike = not others and stack is not None and sorted(planes) == list(range(stack.planes))
        for part in _parts(planes, forms):
            folder, *elsewhere = {os.path.dirname(path) for path in part.paths if path}
            if stack is not None and alike and not elsewhere:
                _write(plan, f"{folder}.tif", stack, part, size)
            elif f"{folder}.tif" not in part.paths:
                with contextlib.suppress(OSError):  # it may be of another file that had this name
                    (plan.out / f"{folder}.tif").unlink(missing_ok=True)
    return told


def _files(out: AnyPath, images: Collection[str]) -> dict[str, Planes]:
    """Returns the records of these images that are TIFFs of several pages."""
    found: dict[str, Planes] = {}
    for document in manifest.documents(out / manifest.MANIFEST):
        if (name := image_name(document)) in images:
            found.setdefault(name, {})[document["frame"]] = document
    return {name: planes for name, planes in found.items() if any(each["format"] == "TIFF" for each in planes.values())}


def _stack(plan: Plan, name: str) -> Stack | None:
    """Returns what the header of an image says; None if it is no stack. Raises ImageError if it cannot be read."""
    if name == "-":  # standard input cannot be read again
        return None
    path = name if paths.is_url(name) else os.path.join(plan.directory, name)
    with decode.opened(Source(path, name, "")) as file:
        return stacks.read(file)


def _parts(planes: Planes, forms: Sequence[Format]) -> Iterator[Part]:
    """Yields what becomes a stack. A label without any file, because of --empty skip, has none."""
    records = [planes[number] for number in sorted(planes)]
    labels: list[dict[str, Any]] = next((each["masks"] for each in records if each["masks"]), [])
    for form in forms:
        if form not in PER_LABEL:
            part = Part(form, form, tuple(each["files"].get(form, "") for each in records))
            yield from [part] if any(part.paths) else []
            continue
        for index, mask in enumerate(labels):
            key = PER_LABEL[form]
            files = (each["masks"][index][key] if each["masks"] else "" for each in records)
            part = Part(form, mask["label"], tuple(files))
            yield from [part] if any(part.paths) else []


def _write(plan: Plan, path: str, stack: Stack, part: Part, size: tuple[int, int]) -> None:
    """Writes a stack whose planes have this height and width."""
    itemsize = STACKED[part.form]
    if _current(plan.out, path):
        return
    blank = np.zeros(size, np.uint16 if itemsize == 2 else np.uint8)
    contents = store.contents(plan.out, [each for each in part.paths if each])
    header = stack.header(part.name, itemsize)
    first = (Field(tiff_pages.DESCRIPTION, tiff_pages.TEXT, len(header) + 1, header + b"\0"), *stack.resolution)

    def pages() -> Iterator[Page]:
        for number, each in enumerate(part.paths):
            yield Page(raster.levels(next(contents)) if each else blank, first if number == 0 else ())

    pieces = paged_tiff.pieces(pages(), len(part.paths), len(part.paths) * blank.nbytes)
    store.write(plan.out / path, pieces, plan.fsync)


def _current(out: AnyPath, path: str) -> bool:
    """Returns whether a stack is there and nothing was recorded since."""
    if not isinstance(out, Path):
        return False
    try:
        return (out / path).stat().st_mtime_ns >= (out / manifest.MANIFEST).stat().st_mtime_ns
    except FileNotFoundError:
        return False
