"""The videos of `-f video`: joined at the end of a run from the masks of single frames, and from the source video.

This runs in a process of its own, since it decodes the users' files. A video has one frame for each record of its
source: of a frame that failed, the mask is empty, and the picture is that of the frame before.
"""

import contextlib
import json
import os
import pickle
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from clipseg_cli.errors import ClipsegError, ImageError, OutputError
from clipseg_cli.inputs.colour import conversion
from clipseg_cli.inputs.frames.reader import FrameReader
from clipseg_cli.inputs.source import Source
from clipseg_cli.masks import cleanup
from clipseg_cli.outputs import colours, drawing, manifest
from clipseg_cli.outputs.record import image_name, key_of, readable_name
from clipseg_cli.outputs.writers import raster, video
from clipseg_cli.settings.inputs import DecodeOptions
from clipseg_cli.settings.outputs import ExportOptions, Format
from clipseg_cli.storage import paths, store
from clipseg_cli.storage.store import AnyPath

if TYPE_CHECKING:
    from clipseg_cli.outputs.video_encoder import Encoder

START = "import sys; sys.path[:] = sys.argv[1:]; from clipseg_cli.outputs.films import serve; serve()"
PIECE = 1 << 20  # bytes that are copied at once


@dataclass(frozen=True, slots=True)
class Plan:
    """Which videos a run writes, and how."""

    out: AnyPath
    formats: tuple[Format, ...]
    labels: tuple[str, ...]
    slugs: tuple[str, ...]  # the labels' folders
    export: ExportOptions
    feather: float = 0.0  # pixels: see `Result`
    directory: str = ""  # in which the names of images are relative
    decoding: DecodeOptions = field(default_factory=DecodeOptions)
    fsync: bool = False


@dataclass(frozen=True, slots=True)
class Film:
    """One source video, as the manifest and the journal have it."""

    name: str  # of the source
    stem: str  # its output path
    frames: tuple[tuple[int, float, str], ...]  # number, seconds, output path ("" if the frame failed), rising


def assemble(plan: Plan) -> None:
    """Writes the videos of a finished run. One that is newer than its masks is kept.

    Raises OutputError, also if a source video is gone or the process that reads it crashes.
    """
    if "video" not in plan.formats:
        return
    for film in _films(plan.out):
        command = [sys.executable, "-c", START, *sys.path]
        done = subprocess.run(command, input=pickle.dumps((plan, film)), stdout=subprocess.PIPE, check=False)
        try:
            error = json.loads(done.stdout)
        except ValueError:
            error = f"its process ended with code {done.returncode}"
        if error:
            raise OutputError(
                f"the videos of {readable_name(film.name)} could not be written: {error}. All masks are kept: run the "
                "same command again"
            )


def serve() -> None:
    """Writes the videos that stdin names. Writes an error message, or an empty string, to stdout as JSON."""
    with os.fdopen(os.dup(0), "rb") as named:
        plan, film = pickle.load(named)
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # a library that prints must not write into the answer
    try:
        _write(plan, film)
        message = ""
    except Exception as error:
        message = str(error) if isinstance(error, ClipsegError) else f"{type(error).__name__}: {error}"
    with answers:
        json.dump(message, answers)


def _films(out: AnyPath) -> Iterator[Film]:
    """Yields the source videos of a run that have at least one finished frame."""
    stems = {}
    for document in manifest.documents(out / manifest.JOURNAL):
        if any(path.startswith(f"{video.PARTS}/") for path in document.get("outputs", ())):
            stems[key_of(document)] = document["output"]
    rows: dict[str, dict[int, tuple[int, float, str]]] = {}
    for document in manifest.documents(out / manifest.MANIFEST):
        if (number := document.get("frame")) is not None:
            stem = stems.get(key_of(document), "") if document["status"] == "ok" else ""
            rows.setdefault(image_name(document), {})[number] = number, document["time"], stem
    for name, frames in rows.items():
        if stem := next((stem for _, _, stem in frames.values() if stem), ""):
            yield Film(name, stem.rpartition("/")[0], tuple(frames[number] for number in sorted(frames)))


def _write(plan: Plan, film: Film) -> None:
    wanted = [
        (form, slug, video.path_of(form, slug, film.stem, plan.export))
        for form in plan.formats
        if form in video.FOLDERS
        for slug in ([""] if form == "overlay" else plan.slugs)
    ]
    wanted = [each for each in wanted if not _current(plan, film, each[2])]
    if not wanted:
        return
    from clipseg_cli.outputs.video_encoder import Encoder

    pictures = _pictures(plan, film) if any(form != "mask" for form, _, _ in wanted) else None
    with contextlib.ExitStack() as stack:
        files = {path: stack.enter_context(_unfinished(plan.out / path)) for _, _, path in wanted}
        with contextlib.ExitStack() as encoding:
            encoders: dict[str, Encoder] = {}
            for form, _, path in wanted:
                sound = encoding.enter_context(_sound(plan, film)) if form == "overlay" else None
                encoder = Encoder(files[path], video.codec_of(form, plan.export), _rate(film), sound)
                encoders[path] = encoding.enter_context(encoder)
            _encode(plan, film, wanted, encoders, pictures)
        for path, file in files.items():
            _publish(file, plan.out / path, plan.fsync)


@contextlib.contextmanager
def _unfinished(path: AnyPath) -> Iterator[Path]:
    """Yields the file in which a video is written, on the disk of the output. It is deleted unless it is renamed."""
    if isinstance(path, Path):
        with store.failing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
        file = store.unfinished(path)
    else:
        handle, name = tempfile.mkstemp()
        os.close(handle)
        file = Path(name)
    try:
        yield file
    finally:
        file.unlink(missing_ok=True)


def _publish(file: Path, path: AnyPath, fsync: bool) -> None:
    if not isinstance(path, Path):
        store.write(path, _pieces(file))
        return
    with store.failing(path):
        if fsync:
            with file.open("rb+") as opened:
                os.fsync(opened.fileno())
        os.replace(file, path)


def _current(plan: Plan, film: Film, path: str) -> bool:
    """Returns whether a video is there and newer than all its masks."""
    if not isinstance(plan.out, Path):
        return False
    try:
        made = (plan.out / path).stat().st_mtime_ns
        masks = [plan.out / _part(video.MASKS, plan.slugs[0], stem) for _, _, stem in film.frames if stem]
        return all(mask.stat().st_mtime_ns < made for mask in masks)
    except FileNotFoundError:
        return False


def _encode(
    plan: Plan,
    film: Film,
    wanted: Sequence[tuple[Format, str, str]],
    encoders: "dict[str, Encoder]",
    pictures: "Iterator[NDArray[np.uint8]] | None",
) -> None:
    """Writes all frames of all videos of one source."""
    slugs = plan.slugs
    tints = [colours.colour(index) for index in range(len(slugs))]
    size: tuple[int, int] | None = None
    held: list[float] = []  # times of frames that failed before the first one that did not, whose size is unknown
    for _, time, stem in film.frames:
        masks = {slug: _levels(plan.out, _part(video.MASKS, slug, stem)) for slug in slugs} if stem else {}
        picture = None if pictures is None else next(pictures)
        if size is None and not masks:
            held.append(time)
            continue
        size = size or next(iter(masks.values())).shape[:2]
        blank = np.zeros(size, np.uint8)
        masks = {slug: _fitted(masks.get(slug, blank), size) for slug in slugs}
        for form, slug, path in wanted:
            mask = blank if form == "overlay" else masks[slug]
            if form == "mask":
                frame = cleanup.feather(mask, plan.feather)
            elif form == "overlay":
                frame = drawing.overlay(_fitted(_known(picture), size), list(masks.values()), plan.labels, tints)
            else:
                alpha = _levels(plan.out, _part(video.ALPHA, slug, stem), missing=True) if stem else None
                frame = _cutout(plan, _fitted(_known(picture), size), mask, alpha)
            for earlier in held:
                encoders[path].write(np.zeros_like(frame), earlier)
            encoders[path].write(frame, time)
        held = []


def _cutout(
    plan: Plan, picture: NDArray[np.uint8], mask: NDArray[np.uint8], alpha: NDArray[np.uint8] | None
) -> NDArray[np.uint8]:
    edge = cleanup.feather(mask, plan.feather) if alpha is None else alpha
    rgba = drawing.cutout(picture, mask, edge, alpha is not None, plan.export.decontaminate)
    return rgba if plan.export.backdrop is None else conversion.composited(rgba, ground=plan.export.backdrop)


def _pictures(plan: Plan, film: Film) -> Iterator[NDArray[np.uint8]]:
    """Yields the image of each frame; for one that cannot be decoded, that of the frame before, or black."""
    source = _source(plan, film)
    picture: NDArray[np.uint8] | None = None
    with FrameReader() as reader:
        for number, _, _ in film.frames:
            try:
                picture = reader.load(replace(source, frame=number), plan.decoding).pixels
            except ImageError as error:
                if error.kind != "corrupt":
                    raise
            yield np.zeros((2, 2, 3), np.uint8) if picture is None else picture


@contextlib.contextmanager
def _sound(plan: Plan, film: Film) -> Iterator[Any]:
    """Yields the sound of the source video; None if it has none."""
    from clipseg_cli.inputs import decode
    from clipseg_cli.inputs.decoders import video_listing
    from clipseg_cli.outputs.video_encoder import Sound

    with decode.opened(_source(plan, film)) as file:
        kind, _ = decode.recognised(file)
        container, _ = video_listing.opened(kind, file)
        with container:
            yield Sound.of(file, container, [time for _, time, _ in film.frames], 1 / _rate(film))


def _source(plan: Plan, film: Film) -> Source:
    name = film.name if paths.is_url(film.name) else os.path.join(plan.directory, film.name)
    return Source(name, film.name, film.stem)


def _rate(film: Film) -> float:
    """Returns the mean number of frames per second."""
    span = film.frames[-1][1] - film.frames[0][1]
    return (len(film.frames) - 1) / span if span > 0 else 25.0


def _part(folder: str, slug: str, stem: str) -> str:
    return f"{video.PARTS}/{folder}/{slug}/{stem}.png"


def _levels(out: AnyPath, path: str, missing: bool = False) -> Any:
    """Returns a fragment, uint8 (H, W); None if `missing` allows that there is none."""
    try:
        return raster.levels(next(iter(store.contents(out, [path]))))
    except FileNotFoundError:
        if missing:
            return None
        raise


def _known(picture: NDArray[np.uint8] | None) -> NDArray[np.uint8]:
    assert picture is not None
    return picture


def _fitted(array: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """Returns an image of this height and width: the frames of a few videos change their size."""
    if array.shape[:2] == size:
        return array
    import cv2

    return np.asarray(cv2.resize(array, size[::-1], interpolation=cv2.INTER_NEAREST), np.uint8)


def _pieces(file: Path) -> Iterator[bytes]:
    with file.open("rb") as opened:
        while piece := opened.read(PIECE):
            yield piece
