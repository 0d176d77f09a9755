"""The result of one image: the input of every writer."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clipseg_cli.inputs import orientation
from clipseg_cli.inputs.decoders.result import Native
from clipseg_cli.inputs.georeference import NOWHERE, Georeference
from clipseg_cli.masks.instances import Instance
from clipseg_cli.outputs import colours
from clipseg_cli.settings.outputs import ExportOptions
from clipseg_cli.storage.store import Content

File = tuple[str, int | None, Content]  # path relative to the output folder, label index or None, content


@dataclass(frozen=True, slots=True)
class Result:
    """The finished masks of one image. Tuples have one entry per label; arrays have the image's own size (H, W)."""

    name: str  # of the image, as in its record
    photo: Callable[[], NDArray[np.uint8]]  # returns RGB (H, W, 3); read only if a format needs it
    labels: tuple[str, ...]
    slugs: tuple[str, ...]  # folder names
    masks: tuple[NDArray[np.uint8], ...]  # 0 or 255
    scores: tuple[float, ...]  # the soft map's maximum, in [0, 1]
    thresholds: tuple[float, ...]
    softs: tuple[NDArray[np.uint8], ...]  # soft maps, probability x 255; empty if no format needs them
    fines: tuple[NDArray[np.uint16], ...]  # soft maps, probability x 65535; empty if no format needs them
    alphas: tuple[NDArray[np.uint8], ...]  # opacity x 255; empty without --refine matting
    index: NDArray[np.uint8] | None  # 0 for background, i + 1 for label i; None if no format needs it
    skip: tuple[bool, ...]  # whether a label gets no file: its mask is empty, and --empty skip is given
    feather: float  # pixels: blur radius of the edge in mask files and cutouts
    export: ExportOptions
    converted: bool = False  # the photo was converted to sRGB by an ICC profile: colour files say that they are sRGB
    kind: str = ""  # of the file, a key of KINDS
    original: Callable[[], Content] | None = None  # returns the file itself; None for a frame, which has none
    native: Callable[[], Native] | None = None  # returns the photo in its file's own colours, upright; None: as shown
    orientation: int = 1  # the EXIF orientation of the file
    uncommon: bool = False  # the file is of a kind of pixels that many readers mistake: see `conversion.is_uncommon`
    frame: int | None = None  # the number of the frame in its file
    georeference: Georeference = NOWHERE  # of the image
    turn: int = 1  # the EXIF orientation between the file's own pixels, which the georeference is of, and these arrays
    presences: tuple[float, ...] = ()  # presence scores, in [0, 1]
    instances: tuple[tuple[Instance, ...], ...] | None = None  # of each label; None without --instances
    split: str = ""  # the part of a data set: train, val or test; "" without --split

    def stored(self, turn: int) -> "Result":
        """Returns the upright result in the pixel frame of a file with this EXIF orientation."""

        def turned(upright: NDArray[Any]) -> NDArray[Any]:
            return np.ascontiguousarray(orientation.stored(upright, turn))

        return replace(
            self,
            photo=lambda: turned(self.photo()),
            masks=tuple(map(turned, self.masks)),
            softs=tuple(map(turned, self.softs)),
            fines=tuple(map(turned, self.fines)),
            alphas=tuple(map(turned, self.alphas)),
            index=None if self.index is None else turned(self.index),
            instances=None
            if self.instances is None
            else tuple(
                tuple(each.moved(turned(each.whole(mask.shape))) for each in group)
                for group, mask in zip(self.instances, self.masks, strict=True)
            ),
            turn=1,
        )

    def colour(self, index: int) -> tuple[int, int, int]:
        """Returns the RGB colour of a label, the same for all images."""
        return colours.colour(index)
