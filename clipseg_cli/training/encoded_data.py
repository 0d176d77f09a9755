"""Training data as arrays on disk. Each view of a photo is encoded once, and a run that was stopped resumes there."""

import errno
import os
from collections import Counter
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
from clipseg_cli.training import augment

if TYPE_CHECKING:
    from clipseg_cli.model.segmenter import Segmenter

BATCH = 8  # images encoded at once
FEWEST, MOST = 4, 32  # exemplars of a prompt; each takes as long as an image
PER_PHOTO = 2  # as many are encoded in all, if that does not mean fewer than FEWEST of a prompt
ZEROS = 1 << 22  # bytes written at once
FEATURES, TARGETS, EXEMPLARS, DONE = "features.npy", "targets.npy", "exemplars.npy", "encoded"  # in .train


@dataclass(frozen=True, slots=True, eq=False)
class EncodedData:
    """E examples of N images and P prompts, as the decoder sees them.

    The images are photos, each followed by its views. So the examples are those of a photo, each followed by the same
    example in the views.
    """

    features: NDArray[np.float16]  # (N, layers, tokens, width): CLIP's activations, on disk
    targets: NDArray[np.uint8]  # (E, ceil(S * S / 8)): masks as packed bits, on disk
    exemplars: NDArray[np.float32]  # (E, dim): embedding of the masked object as a visual prompt; NaN if there is none
    image: NDArray[np.int64]  # (E,): index into `features`
    prompt: NDArray[np.int64]  # (E,): index into `texts`
    prompts: tuple[str, ...]  # P of them
    texts: NDArray[np.float32]  # (P, K, dim): embeddings of each prompt in K templates
    replay: NDArray[np.float32]  # (R, dim): embeddings of prompts whose masks should stay unchanged
    side: int  # pixels, S
    views: int = 1  # of a photo, itself included

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
    """Encodes the photos that the folder `work` lacks, and their views. Yields (photos done, photos in total).

    Raises UsageError for fewer than two photos, or for files that cannot be read.
    """
    photos = list(dict.fromkeys(each.image for each in examples))
    if len(photos) < 2:
        raise UsageError("training needs at least two images: one to learn from and one to check with")
    side, views = segmenter.side, augment.count(recipe.augment, len(photos))
    layers = segmenter.encode([training_data.pixels(photos[0])]).tensor.shape[1:]
    features = open_array(work / FEATURES, np.float16, (len(photos) * views, *layers))
    targets = open_array(work / TARGETS, np.uint8, (len(examples) * views, -(-side * side // 8)))
    exemplars = open_array(work / EXEMPLARS, np.float32, (len(examples) * views, segmenter.dim))
    done = int((work / DONE).read_text()) if (work / DONE).exists() else 0
    examples_of: dict[Path, list[int]] = {photo: [] for photo in photos}
    shown: Counter[str] = Counter()
    most = max(FEWEST, min(MOST, PER_PHOTO * len(photos) // len({each.prompt for each in examples})))
    visual: set[int] = set()  # the examples that are exemplars
    for index, example in enumerate(examples):
        examples_of[example.image].append(index)
        shown[example.prompt] += 1
        if recipe.blend and shown[example.prompt] <= most:
            visual.add(index)
    step = max(BATCH // views, 1)  # photos
    for start in range(done, len(photos), step):
        images = []
        for number in range(start, min(start + step, len(photos))):
            indices = examples_of[photos[number]]
            photo = training_data.pixels(photos[number])
            masks = [examples[index].mask(photo.shape[:2]) for index in indices]
            mirror = not any(augment.names_side(examples[index].prompt) for index in indices)
            key = (recipe.seed, 2, number)
            for view, (image, parts) in enumerate(augment.views(photo, masks, views, side, mirror, key)):
                images.append(segmenter.resize(image))
                for index, mask in zip(indices, parts, strict=True):
                    row = index * views + view
                    small = cv2.resize(mask.view(np.uint8), (side, side), interpolation=cv2.INTER_NEAREST)
                    targets[row], exemplars[row] = np.packbits(small), np.nan
                    if index in visual and not view and mask.any():
                        lit = highlight.highlight(photo, mask, "crop-blur-dim", side).transpose(2, 0, 1)
                        exemplars[row] = segmenter.embed_images(np.ascontiguousarray(lit)[None]).values[0]
        features[start * views :][: len(images)] = segmenter.encode(images).tensor.cpu().numpy()
        for array in (features, targets, exemplars):
            array.flush()
        store.write(work / DONE, str(start + len(images) // views).encode())
        yield start + len(images) // views, len(photos)


def load_encoded(
    segmenter: "Segmenter", examples: Sequence[Example], work: Path, replay: Sequence[str], templates: Sequence[str]
) -> EncodedData:
    """Returns the data that `encode_images` stored in `work`, with embeddings of all prompts in all templates."""
    photo_numbers: dict[Path, int] = {}
    prompt_numbers: dict[str, int] = {}
    photo = [photo_numbers.setdefault(each.image, len(photo_numbers)) for each in examples]
    prompt = [prompt_numbers.setdefault(each.prompt, len(prompt_numbers)) for each in examples]
    texts = segmenter.embed([template.replace("{}", each) for each in prompt_numbers for template in templates]).values
    features = np.lib.format.open_memmap(work / FEATURES, "r")
    views = len(features) // len(photo_numbers)
    return EncodedData(
        features,
        np.lib.format.open_memmap(work / TARGETS, "r"),
        np.load(work / EXEMPLARS),
        np.add.outer(np.multiply(photo, views), np.arange(views)).ravel(),
        np.repeat(prompt, views),
        tuple(prompt_numbers),
        texts.reshape(len(prompt_numbers), len(templates), -1),
        segmenter.embed(list(replay)).values if replay else np.zeros((0, segmenter.dim), np.float32),
        segmenter.side,
        views,
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
    """Returns the indices of the examples held out for checks, and of those for training. No photo is in both.

    Checks use the photos themselves, training also their views. The same share is held out of photos with an object
    and of photos without, because a check needs objects. Raises UsageError if fewer than two photos show an object.
    """
    photo, view = np.divmod(data.image, data.views)
    shows_object = np.zeros(len(data.features) // data.views, bool)
    shows_object[photo[data.nonempty()]] = True
    if shows_object.sum() < 2:
        raise UsageError("training needs at least two images with masks that are not empty: one is for the checks")
    order = np.random.default_rng([recipe.seed, 0]).permutation(len(shows_object))
    with_object, without = order[shows_object[order]], order[~shows_object[order]]
    count = min(len(with_object) - 1, max(1, round(recipe.hold * len(with_object))))
    held_out = np.isin(photo, [*with_object[:count], *without[: round(recipe.hold * len(without))]])
    return np.flatnonzero(held_out & (view == 0)), np.flatnonzero(~held_out)
