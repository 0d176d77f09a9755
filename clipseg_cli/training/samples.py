"""Contact sheets of held-out images: the ground truth beside the masks of the decoder as it is now."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from clipseg_cli.datasets import training_data
from clipseg_cli.datasets.training_data import Example
from clipseg_cli.outputs import drawing
from clipseg_cli.outputs.writers import raster
from clipseg_cli.storage import store

if TYPE_CHECKING:
    from clipseg_cli.training.fit import Fit

FOLDER = "samples"
PRESENT, ABSENT = 6, 2  # examples on a sheet with and without an object, at most
CELL, CAPTION, GAP = 256, 22, 6  # pixels: longer side of an image, height of the text above, space around
TINT = (255, 60, 140)  # of the masks: pink, which is rare in photos
COLUMNS = 2  # pairs of images beside each other


class Samples:
    """Some held-out examples and their photos, which are read once. They depend only on the data and the seed."""

    def __init__(self, fit: "Fit", examples: Sequence[Example]) -> None:
        self.fit, data = fit, fit.data
        order = np.random.default_rng([fit.recipe.seed, 3]).permutation(fit.held_out)
        shown = data.nonempty()[order]
        self.rows = np.concatenate([order[shown][:PRESENT], order[~shown][:ABSENT]])
        chosen = [examples[row // data.views] for row in self.rows]
        self.prompts = [" ".join(each.prompt.split()) for each in chosen]
        self.photos = [drawing.fitted(training_data.pixels(each.image), CELL) for each in chosen]

    def write(self, path: Path, threshold: float) -> None:
        """Writes a sheet as JPEG. `threshold`: of the masks, a probability. Raises OutputError."""
        pairs = []
        for row, prompt, photo, soft in zip(
            self.rows, self.prompts, self.photos, self.fit.maps(self.rows), strict=True
        ):
            target = self.fit.data.target(int(row))
            found = soft > threshold
            union, size = (target | found).sum(), photo.shape[1::-1]
            iou = f"IoU {(target & found).sum() / union:.2f}" if target.any() else f"absent, {found.mean():.1%} found"
            masks = [
                cv2.resize(target.view(np.uint8), size, interpolation=cv2.INTER_NEAREST) > 0,
                cv2.resize(soft, size) > threshold,
            ]
            pairs.append(np.hstack([_cell(photo, mask, text) for mask, text in zip(masks, (prompt, iou), strict=True)]))
        pairs += [np.zeros_like(pairs[0])] * (-len(pairs) % COLUMNS)
        sheet = np.vstack([np.hstack(pairs[at : at + COLUMNS]) for at in range(0, len(pairs), COLUMNS)])
        store.write(path, raster.jpeg(sheet, raster.DATASET_QUALITY))


def due(check: int) -> bool:
    """Returns whether check number `check`, counted from 0, gets a sheet: 0, 1, 2, 4, 8 and so on do."""
    return check & (check - 1) == 0


def _cell(photo: NDArray[np.uint8], mask: NDArray[np.bool_], text: str) -> NDArray[np.uint8]:
    """Returns a photo with a mask, below a line of text, on black: uint8 (H, W, 3), always of the same size."""
    side = CELL + 2 * GAP
    image = Image.new("RGB", (side, side + CAPTION))
    drawn = drawing.overlay(photo, [mask.astype(np.uint8) * 255], [""], [TINT])
    image.paste(Image.fromarray(drawn), (GAP, GAP + CAPTION))
    ImageDraw.Draw(image).text((GAP, GAP), text, fill=(255, 255, 255), font=ImageFont.load_default(15))
    return np.asarray(image)
