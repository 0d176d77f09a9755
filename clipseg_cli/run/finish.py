"""Turns the soft maps of one image into its files and its record.

`segment` and `post` share these steps, so equal options give equal bytes.

soft map -> refine -> threshold -> peak -> compete for pixels -> clean up -> write -> record
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from functools import cache
from itertools import count

import numpy as np
from numpy.typing import NDArray

from clipseg_cli.errors import ClipsegError, ImageError, lacks_memory
from clipseg_cli.inputs.colour import conversion, profiles
from clipseg_cli.masks import answers, cleanup, instances, matting, soft_maps, threshold
from clipseg_cli.masks.answers import Photo
from clipseg_cli.outputs import splits
from clipseg_cli.outputs.names import Names, Place
from clipseg_cli.outputs.record import Mask, Numbered, Record
from clipseg_cli.outputs.writers import REFUSING, files, one_file, per_run, photos, video
from clipseg_cli.outputs.writers.one_file import OneFile
from clipseg_cli.outputs.writers.result import Result
from clipseg_cli.prompts.slugs import unique_slugs
from clipseg_cli.prompts.text import Prompt
from clipseg_cli.prompts.thresholds import Threshold
from clipseg_cli.settings.masks import MaskOptions
from clipseg_cli.settings.outputs import ExportOptions, Format
from clipseg_cli.storage import store

NOWHERE = (0, 0, 0, 0)  # the box of an empty mask
# Writes a file to a path in the output folder. Raises OutputError or ImageError.
Write = Callable[[str, store.Written], None]


@dataclass(frozen=True, slots=True)
class MaskPlan:
    """How the soft maps of every image become masks and files."""

    prompts: tuple[Prompt, ...]  # one per label
    thresholds: tuple[Threshold, ...]  # one per label
    masks: MaskOptions
    formats: tuple[Format, ...]
    export: ExportOptions = field(default_factory=ExportOptions)
    file: OneFile | None = None  # the only file that is written; None: the files of an output folder
    names: Names = field(default_factory=Names)


def finish(
    blank: Record,
    output: str,
    photo: Photo,
    maps: Iterable[soft_maps.Scored],
    plan: MaskPlan,
    write: Write,
    file: photos.Reread = photos.NOTHING,
    sam: answers.Sam | None = None,
) -> Record:
    """Writes the files of one image and returns its completed record, or a record of the error.

    `blank` is the record without masks, `output` the image's output path. `maps` yields one soft map per label,
    which is read before the next one. `photo` is called only if a step needs the image, and what `file` has only if an
    output is made of it. `sam` has seen the image, for `--refine sam`. Pixels
    without data are in no mask and no soft map. Raises OutputError.
    """
    paths: dict[tuple[Format, int | None], str] = {}
    outputs: list[tuple[str, int]] = []
    try:
        result, found = masks(blank, photo, maps, plan, sam)
        place = Place(output, blank.image, blank.frame)
        part = splits.split(place.stem, blank.frame is not None, plan.export.split)
        native = None if file.native is None else cache(file.native)
        result = replace(result, original=file.content, native=native, split=part)
        for form in sorted(video.written(plan.formats, blank), key=lambda form: form not in REFUSING):
            made = (
                one_file.write(plan.file, place.stem, result) if plan.file else files(form, place, result, plan.names)
            )
            for path, index, data in made:
                write(path, data)
                shown = video.shown(path, plan.formats, plan.export) if form == "video" else path
                paths.setdefault((form, index), per_run.read_from(form, shown, part))
                outputs.append((path, len(data)))
    except ImageError as error:
        return blank.failed(error)
    except ClipsegError:
        raise
    except Exception as error:  # a bug here must fail one image, not the whole run
        if lacks_memory(error):
            return blank.failed(ImageError("out_of_memory", "mask", "not enough memory for its masks"))
        return blank.failed(ImageError("internal", "mask", f"{type(error).__name__}: {error}"))

    def written(of: int | None) -> tuple[tuple[str, str], ...]:
        return tuple((form, path) for (form, index), path in paths.items() if index == of)

    located = tuple(replace(mask, files=written(index)) for index, mask in enumerate(found))
    height, width = result.masks[0].shape if result.masks else (blank.height, blank.width)
    kept = [photos.untouched(form, result) for form in plan.formats if form in photos.KEPT]
    counts = (sum(kept), len(kept) - sum(kept)) if plan.export.images != "none" else (0, 0)
    blank = replace(blank, width=width, height=height, split=part, photos=counts)
    return replace(blank, masks=located, files=written(None), output=place.stem, outputs=tuple(outputs))


def masks(
    of: Record, photo: Photo, maps: Iterable[soft_maps.Scored], plan: MaskPlan, sam: answers.Sam | None
) -> tuple[Result, list[Mask]]:
    """Returns what the writers need of one image, and the masks of its record."""
    options, formats = plan.masks, plan.formats
    labels = tuple(prompt.label for prompt in plan.prompts)
    compete = options.mode == "labels" or bool({"labels", "instances", "semantic"} & {*formats})
    masks, softs, fines, alphas, blanks, divisions, index, clear = [], [], [], [], [], [], None, None
    for scored, prompt, wanted in zip(maps, plan.prompts, plan.thresholds, strict=True):
        present = scored.presence >= options.min_presence
        soft_map, clear = scored.known, scored.clear
        cut = threshold.cut(soft_map, photo, wanted, options.clean, present, sam, options.divides)
        masks.append(cut.mask)
        divisions.append(cut.division)
        alphas += [] if cut.opacity is None else [(soft_maps.cleared(cut.opacity, clear), cut.mask)]
        if compete or options.instances or {"soft", "npz"} & set(formats):
            softs.append(soft_map.soft())
        if "soft16" in formats:
            fines.append(soft_map.soft16())
        scores = scored.score, scored.mean
        blank = Mask(prompt.label, prompt.text, cut.threshold, *scores, 0, 0.0, NOWHERE, scored.presence)
        blanks.append(replace(blank, similarity=scored.similarity, refined=cut.refined, held_back=cut.held_back))
    if options.mode == "labels":
        masks = _split(soft_maps.compete(softs, masks, options.background or None), len(masks))
    masks = [soft_maps.cleared(cleanup.clean(mask, options.clean), clear) for mask in masks]
    if compete:
        index = soft_maps.compete(softs, masks)
    if index is not None and options.mode == "labels":  # masks must not overlap after --grow either
        masks = _split(index, len(masks))
    result = Result(
        of.image,
        photo,
        labels,
        unique_slugs(labels),
        tuple(masks),
        tuple(blank.score for blank in blanks),
        tuple(blank.threshold for blank in blanks),
        tuple(softs),
        tuple(fines),
        tuple(matting.limited(*pair, mask) for pair, mask in zip(alphas, masks, strict=True)) if alphas else (),
        index,
        tuple(options.empty == "skip" and not mask.any() for mask in masks),
        options.clean.feather,
        plan.export,
        profiles.is_converted(of.notes),
        of.format,
        orientation=of.orientation,
        uncommon=conversion.is_uncommon(of.notes),
        frame=of.frame,
        georeference=of.georeference,
        turn=of.orientation,
        presences=tuple(blank.presence for blank in blanks),
        instances=tuple(map(instances.separate, masks, softs, divisions)) if options.instances else None,
    )
    if plan.export.orientation == "stored" and of.orientation != 1:
        result = result.stored(of.orientation)
    measured = [_measured(blank, mask) for blank, mask in zip(blanks, result.masks, strict=True)]
    return result, measured if result.instances is None else _with_instances(measured, result.instances)


def _measured(blank: Mask, mask: NDArray[np.uint8]) -> Mask:
    area = int(np.count_nonzero(mask))
    return replace(blank, area=area, area_frac=area / mask.size, bbox=soft_maps.bbox(mask) or NOWHERE)


def _with_instances(masks: Iterable[Mask], groups: Iterable[tuple[instances.Instance, ...]]) -> list[Mask]:
    """Returns the masks with their instances, which are numbered from 1 over all labels."""
    numbers = count(1)
    return [
        replace(mask, instances=tuple(Numbered(next(numbers), each.area, each.box, each.score) for each in group))
        for mask, group in zip(masks, groups, strict=True)
    ]


def _split(index: NDArray[np.uint8], count: int) -> list[NDArray[np.uint8]]:
    """Returns the mask of each label in an index image, uint8 (H, W), 0 or 255."""
    return [np.where(index == number, np.uint8(255), np.uint8(0)) for number in range(1, count + 1)]
