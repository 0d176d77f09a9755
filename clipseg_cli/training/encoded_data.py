"""Training data as arrays on disk. Each image is encoded once, and a run that was stopped resumes there."""

import errno
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import cv2
import numpy as np
from numpy.typing import NDArray

from clipseg_cli.datasets import training_data
from clipseg_cli.datasets.training_data import Example
from clipseg_cli.errors import UsageError
from clipseg_cli.prompts import highlight
from clipseg_cli.settings.training import Recipe
from clipseg_cli.storage import store

if TYPE_CHECKING:
    from clipseg_cli.model.segmenter import Segmenter

BATCH = 8  # images encoded at once
ZEROS = 1 << 22  # bytes written at once
FEATURES, TARGETS, EXEMPLARS, DONE = "features.npy", "targets.npy", "exemplars.npy", "encoded"  # in .train


@dataclass(frozen=True, slots=True, eq=False)
class EncodedData:
    """E examples of N images and P prompts, as the decoder sees them."""

    features: NDArray[np.float16]  # (N, layers, tokens, width): CLIP's activations, on disk
    targets: NDArray[np.uint8]  # (E, ceil(S * S / 8)): masks as packed bits, on disk
    exemplars: NDArray[np.float32]  # (E, dim): embedding of the masked object as a visual prompt; NaN if there is none
    image: NDArray[np.int64]  # (E,): index into `features`
    prompt: NDArray[np.int64]  # (E,): index into `texts`
    texts: NDArray[np.float32]  # (P, K, dim): embeddings of each prompt in K templates
    replay: NDArray[np.float32]  # (R, dim): embeddings of prompts whose masks should stay unchanged
    side: int  # pixels, S

    def target(self, example: int) -> NDArray[np.bool_]:
        """Returns the mask of an example, bool (S, S)."""
        bits = np.unpackbits(self.targets[example], count=self.side**2)
        return bits.reshape(self.side, self.side).astype(bool)

    def nonempty(self) -> NDArray[np.bool_]:
        """Returns bool (E,): whether the example's mask has any pixel."""
        return np.array([row.any() for row in self.targets])


def encode_images(
    segmenter: "Segmenter", examples: Sequence[Example], work: Path, recipe: Recipe
) -> Iterator[tuple[int, int]]:
    """Encodes the images that the folder `work` lacks. Yields (images done, images in total).

    Raises UsageError for fewer than two images, or for files that cannot be read.
    """
    images = list(dict.fromkeys(each.image for each in examples))
    if len(images) < 2:
        raise UsageError("training needs at least two images: one to learn from and one to check with")
    side = segmenter.side
    layers = segmenter.encode([training_data.pixels(images[0])]).tensor.shape[1:]
    features = open_array(work / FEATURES, np.float16, (len(images), *layers))
    targets = open_array(work / TARGETS, np.uint8, (len(examples), -(-side * side // 8)))
    exemplars = open_array(work / EXEMPLARS, np.float32, (len(examples), segmenter.dim))
    done = int((work / DONE).read_text()) if (work / DONE).exists() else 0
    examples_of: dict[Path, list[int]] = {image: [] for image in images}
    for index, example in enumerate(examples):
        examples_of[example.image].append(index)
    for start in range(done, len(images), BATCH):
        batch = images[start : start + BATCH]
        photos = [training_data.pixels(image) for image in batch]
        features[start : start + len(batch)] = segmenter.encode(photos).tensor.cpu().numpy()
        for image, photo in zip(batch, photos, strict=True):
            for index in examples_of[image]:
                mask = examples[index].mask(photo.shape[:2])
                small = cv2.resize(mask.view(np.uint8), (side, side), interpolation=cv2.INTER_NEAREST)
                targets[index] = np.packbits(small)
                exemplars[index] = np.nan
                if recipe.blend and mask.any():
                    visual = highlight.highlight(photo, mask, "crop-blur-dim", side).transpose(2, 0, 1)
                    exemplars[index] = segmenter.embed_images(np.ascontiguousarray(visual)[None]).values[0]
        for array in (features, targets, exemplars):
            array.flush()
        store.write(work / DONE, str(start + len(batch)).encode())
        yield start + len(batch), len(images)


def load_encoded(
    segmenter: "Segmenter", examples: Sequence[Example], work: Path, replay: Sequence[str], templates: Sequence[str]
) -> EncodedData:
    """Returns the data that `encode_images` stored in `work`, with embeddings of all prompts in all templates."""
    image_numbers: dict[Path, int] = {}
    prompt_numbers: dict[str, int] = {}
    image = [image_numbers.setdefault(each.image, len(image_numbers)) for each in examples]
    prompt = [prompt_numbers.setdefault(each.prompt, len(prompt_numbers)) for each in examples]
    texts = segmenter.embed([template.replace("{}", each) for each in prompt_numbers for template in templates]).values
    return EncodedData(
        np.lib.format.open_memmap(work / FEATURES, "r"),
        np.lib.format.open_memmap(work / TARGETS, "r"),
        np.load(work / EXEMPLARS),
        np.array(image),
        np.array(prompt),
        texts.reshape(len(prompt_numbers), len(templates), -1),
        segmenter.embed(list(replay)).values if replay else np.zeros((0, segmenter.dim), np.float32),
        segmenter.side,
    )


def open_array(path: Path, dtype: Any, shape: tuple[int, ...]) -> Any:
    """Opens a memory-mapped array, and creates it first if it does not exist. Raises OutputError.

    Takes the space of the whole file at once: a disk that fills up under a memory map kills the process.
    """
    if not path.exists():
        part = path.with_suffix(".part")
        try:
            with store.failing(path):
                begin = np.lib.format.open_memmap(part, "w+", dtype, shape).offset
                with part.open("r+b") as file:
                    _reserve(file, begin, part.stat().st_size)
                os.replace(part, path)
        finally:
            part.unlink(missing_ok=True)
    return np.lib.format.open_memmap(path, "r+")


def _reserve(file: BinaryIO, begin: int, size: int) -> None:
    """Takes the disk space of a file of this many bytes, which are zero from `begin`. Raises OSError.

    Writes the zeros if the system or the file system cannot reserve space.
    """
    allocate = getattr(os, "posix_fallocate", None)  # neither Windows nor macOS has it
    try:
        if allocate is None:
            raise OSError(errno.ENOSYS, "no posix_fallocate")
        allocate(file.fileno(), 0, size)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP):
            raise
        file.seek(begin)
        for at in range(begin, size, ZEROS):
            file.write(bytes(min(ZEROS, size - at)))
        file.flush()
        os.fsync(file.fileno())


def split(data: EncodedData, recipe: Recipe) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Returns the indices of the examples held out for checks, and of those for training. No image is in both.

    The same share is held out of images with an object and of images without, because a check needs objects. Raises
    UsageError if fewer than two images show an object.
    """
    shows_object = np.zeros(len(data.features), bool)
    shows_object[data.image[data.nonempty()]] = True
    if shows_object.sum() < 2:
        raise UsageError("training needs at least two images with masks that are not empty: one is for the checks")
    order = np.random.default_rng([recipe.seed, 0]).permutation(len(shows_object))
    with_object, without = order[shows_object[order]], order[~shows_object[order]]
    count = min(len(with_object) - 1, max(1, round(recipe.hold * len(with_object))))
    held_out = np.isin(data.image, [*with_object[:count], *without[: round(recipe.hold * len(without))]])
    return np.flatnonzero(held_out), np.flatnonzero(~held_out)
