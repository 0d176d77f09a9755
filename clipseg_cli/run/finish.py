"""The end of the spine: maps of one image in, files and a record out. `segment` and `post` share it to the byte.

map -> refine -> cut at its threshold -> peak -> labels compete -> clean -> write -> record
"""

from collections.abc import Callable, Iterable
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from clipseg_cli.errors import ClipsegError, ImageError, lacks_memory
from clipseg_cli.masks import cleanup, matting, refine, soft_maps
from clipseg_cli.outputs.manifest import Mask, Record
from clipseg_cli.outputs.writers import WRITERS
from clipseg_cli.outputs.writers.result import Result
from clipseg_cli.prompts.slugs import unique_slugs
from clipseg_cli.prompts.thresholds import Threshold
from clipseg_cli.settings import CleanUp, ExportOptions, Format, MaskOptions
from clipseg_cli.storage import store

Write = Callable[[str, bytes], None]  # puts bytes at a path under the output; raises OutputError or ImageError
OWN = ("mask", "soft", "overlay")  # formats whose paths have names of their own in a record
Photo = Callable[[], NDArray[np.uint8]]  # the picture, uint8 (H, W, 3) RGB; raises ImageError


def finish(
    blank: Record,
    output: str,
    photo: Photo,
    maps: Iterable[soft_maps.Scored],
    options: MaskOptions,
    formats: tuple[Format, ...],
    export: ExportOptions,
    write: Write,
) -> Record:
    """Writes the files of one image and completes its record, or gives its record with the error.

    `blank` is the record without masks, `output` the image's output path, `maps` one a label, taken one at a time.
    The photo is asked for only by what needs it. Raises OutputError.
    """
    paths: dict[tuple[Format, int | None], str] = {}
    outputs: list[tuple[str, int]] = []
    try:
        result, records = _masks(blank.image, photo, maps, options, formats, export)
        stem = store.portable(output)
        for form in formats:
            for path, index, data in WRITERS[form](stem, result):
                write(path, data)
                paths.setdefault((form, index), path)
                outputs.append((path, len(data)))
    except ImageError as error:
        return Record(blank.image, error=error)
    except ClipsegError:
        raise
    except Exception as error:  # a defect here must cost one image, not the night's run
        if lacks_memory(error):
            return Record(blank.image, error=ImageError("out_of_memory", "mask", "not enough memory for its masks"))
        return Record(blank.image, error=ImageError("internal", "mask", f"{type(error).__name__}: {error}"))

    def others(of: int | None) -> tuple[tuple[str, str], ...]:
        return tuple((form, path) for (form, index), path in paths.items() if index == of and form not in OWN)

    located = tuple(
        replace(record, path=paths.get(("mask", index)), soft=paths.get(("soft", index)), files=others(index))
        for index, record in enumerate(records)
    )
    overlay = paths.get(("overlay", None))
    return replace(blank, masks=located, overlay=overlay, files=others(None), output=stem, outputs=tuple(outputs))


def _masks(
    name: str,
    photo: Photo,
    maps: Iterable[soft_maps.Scored],
    options: MaskOptions,
    formats: tuple[Format, ...],
    export: ExportOptions,
) -> tuple[Result, list[Mask]]:
    labels = tuple(prompt.label for prompt in options.prompts)
    compete = options.mode == "labels" or "labels" in formats
    cuts, softs, fines, alphas, blanks, index = [], [], [], [], [], None
    for one, prompt, wanted in zip(maps, options.prompts, options.thresholds, strict=True):
        mask, threshold, opacity = cut(one.map, photo, wanted, options.clean, one.presence >= options.min_presence)
        cuts.append(mask)
        alphas += [] if opacity is None else [(opacity, mask)]
        if compete or {"soft", "npz"} & set(formats):
            softs.append(one.map.soft())
        if "soft16" in formats:
            fines.append(one.map.soft16())
        blank = Mask(prompt.label, prompt.text, threshold, one.score, one.mean, 0, 0.0, None, one.presence)
        blanks.append(replace(blank, similarity=one.similarity))
    if options.mode == "labels":
        cuts = _apart(soft_maps.compete(softs, cuts, options.background), len(cuts))
    cuts = [cleanup.clean(mask, options.clean) for mask in cuts]
    if compete:
        index = soft_maps.compete(softs, cuts)
    if index is not None and options.mode == "labels":  # what grew must not overlap either
        cuts = _apart(index, len(cuts))
    areas = [int(np.count_nonzero(mask)) for mask in cuts]
    records = [
        replace(blank, area=area, area_frac=area / mask.size, bbox=soft_maps.bbox(mask))
        for blank, mask, area in zip(blanks, cuts, areas, strict=True)
    ]
    skip = tuple(options.empty == "skip" and not record.area for record in records)
    result = Result(
        name,
        photo,
        labels,
        unique_slugs(labels),
        tuple(cuts),
        tuple(record.score for record in records),
        tuple(record.threshold for record in records),
        tuple(softs),
        tuple(fines),
        tuple(matting.limited(*pair, mask) for pair, mask in zip(alphas, cuts, strict=True)) if alphas else (),
        index,
        skip,
        options.clean.feather,
        export,
    )
    return result, records


def cut(
    one: soft_maps.Map, photo: Photo, wanted: Threshold, clean: CleanUp, present: bool = True
) -> tuple[NDArray[np.uint8], float, NDArray[np.uint8] | None]:
    """The mask of a map before it is cleaned, uint8 (H, W), 0 and 255; the probability that it was cut at; and by
    `--refine matting` its opacity, uint8 (H, W)."""
    sharp = one if clean.refine != "guided" else soft_maps.from_probabilities(refine.guided(photo(), one.soft()))
    threshold = chosen(wanted, sharp)
    mask, opacity = sharp.cut(threshold if present else 1.0), None
    if clean.refine == "grabcut":
        mask = refine.grabcut(photo(), one.soft(), mask)
    if clean.refine == "matting":
        opacity = matting.alpha(photo(), one.soft(), mask)
        mask = np.where(opacity > 127, np.uint8(255), np.uint8(0))
    if clean.peak is not None:
        mask = cleanup.reaching(mask, one.cut(clean.peak))
    return mask, threshold, opacity


def _apart(index: NDArray[np.uint8], count: int) -> list[NDArray[np.uint8]]:
    """The masks of an index picture, 0 and 255, one a label."""
    return [np.where(index == number, np.uint8(255), np.uint8(0)) for number in range(1, count + 1)]


def chosen(threshold: Threshold, one: soft_maps.Map) -> float:
    """The probability that a threshold means for one map: a number is itself, to the bit."""
    if not isinstance(threshold, str):
        return threshold
    histogram = np.bincount(one.soft().ravel(), minlength=soft_maps.LEVELS + 1)
    otsu = threshold == "otsu"
    level = cleanup.otsu(histogram) if otsu else cleanup.percentile(histogram, float(threshold[1:]))
    return level / soft_maps.LEVELS
