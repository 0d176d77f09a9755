"""Requests of the live page for masks: parsed from its JSON, and written as command-line options."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, get_args

from clipseg_cli.errors import UsageError
from clipseg_cli.masks.refine import REFINEMENTS
from clipseg_cli.prompts.text import Prompt, distinct, parse
from clipseg_cli.prompts.thresholds import probability
from clipseg_cli.settings.flag import spelled
from clipseg_cli.settings.masks import CleanUp, Refine


@dataclass(frozen=True, slots=True)
class PagePrompt:
    """One prompt of the page: a text prompt, or an exemplar, which is a box on one of the images."""

    label: str
    threshold: float | None  # probability; None: the model's default
    text: str | None = None
    image: int | None = None  # index of the exemplar's image
    box: tuple[int, int, int, int] | None = None  # x, y, width, height in pixels of the full-size image


@dataclass(frozen=True, slots=True)
class MaskRequest:
    """The prompts to segment, and how to clean up their masks. Lengths are in pixels of the full-size image."""

    prompts: tuple[PagePrompt, ...] = ()
    clean: CleanUp = field(default_factory=CleanUp)

    def options(self, path: Callable[[int], str]) -> list[str]:
        """Returns the options of `clipseg segment` that give the same masks. `path` maps an image's index to its path.

        Text prompts come first, then exemplars, thresholds and clean-up.
        """
        words = []
        for prompt in self.prompts:
            if prompt.text is not None:
                words += ["-p", prompt.text if prompt.label == prompt.text else f"{prompt.label}={prompt.text}"]
        for prompt in self.prompts:
            if prompt.image is not None and prompt.box is not None:
                words += ["--support", f"{prompt.label}={path(prompt.image)}"]
                words += ["--support-box", ",".join(map(str, prompt.box))]
        for prompt in self.prompts:
            if prompt.threshold is not None:
                words += ["-t", f"{prompt.label}={prompt.threshold:g}"]
        return words + spelled(self.clean)


def parse_request(document: dict[str, Any], images: int) -> MaskRequest:
    """Returns the request of the page's JSON; `images` is the number of images. Raises UsageError if it is invalid."""
    try:
        prompts = tuple(_prompt(row, images) for row in document["prompts"])
        clean = _clean_up(document.get("clean", {}))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UsageError(f"the page sent an invalid request ({error}): reload it") from error
    if prompts:
        distinct(Prompt(prompt.label, prompt.text or "exemplar") for prompt in prompts)
    return MaskRequest(prompts, clean)


def _prompt(row: dict[str, Any], images: int) -> PagePrompt:
    threshold = None if row.get("threshold") is None else probability(str(row["threshold"]), "threshold")
    if "box" not in row:
        prompt = parse(str(row["text"]))
        return PagePrompt(prompt.label, threshold, prompt.text)
    x, y, width, height = (int(value) for value in row["box"])
    image = int(row["image"])
    if not (0 <= image < images and width > 0 and height > 0):
        raise UsageError("an exemplar needs a box on one of the images: draw it again")
    return PagePrompt(str(row["label"]), threshold, None, image, (x, y, width, height))


def _clean_up(values: dict[str, Any]) -> CleanUp:
    names = ("open", "close", "min_area", "keep_largest", "grow")
    opening, closing, min_area, keep_largest, grow = (int(values.get(name) or 0) for name in names)
    if min(opening, closing, min_area, keep_largest) < 0:
        raise UsageError("only grow may be negative")
    refine: Refine = values.get("refine") or "none"
    if refine not in get_args(Refine):
        raise UsageError(f"there is no refinement {refine!r}: choose one of {', '.join(get_args(Refine))}")
    REFINEMENTS[refine].check()
    return CleanUp(
        refine,
        open=opening,
        close=closing,
        fill_holes="all" if values.get("fill_holes") else 0,
        min_area=min_area,
        keep_largest=keep_largest,
        grow=grow,
    )
