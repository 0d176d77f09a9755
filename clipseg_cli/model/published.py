"""The values that Hugging Face publishes for the released weights, and their comparison with this program's.

They come from transformers' own test of CLIPSeg (tests/models/clipseg/test_modeling_clipseg.py): the first numbers of
the results for the prompt "a cat" and a photo of COCO, in float32.
"""

import hashlib
import http.client
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from clipseg_cli.errors import ModelError
from clipseg_cli.model.segmenter import Segmenter

TIMEOUT = 10  # seconds without a byte
LARGEST = 10_000_000  # bytes of a photo


@dataclass(frozen=True, slots=True)
class Photo:
    """The photo for which values are published."""

    url: str
    sha256: str  # of the file
    width: int  # pixels
    height: int  # pixels


@dataclass(frozen=True, slots=True)
class PublishedValues:
    """The first numbers of the results for one prompt and one photo. They belong to one model."""

    model: str  # alias
    prompt: str
    photo: Photo
    embedding: tuple[float, ...]  # of the prompt
    image_embedding: tuple[float, ...]  # of the photo
    logits: tuple[tuple[float, ...], ...]  # of prompt and photo: the upper left corner
    tolerance: float  # largest difference of numbers that count as equal


RELEASED = PublishedValues(
    model="rd64-refined",
    prompt="a cat",
    photo=Photo(
        url="http://images.cocodataset.org/val2017/000000039769.jpg",
        sha256="dea9e7ef97386345f7cff32f9055da4982da5471c48d575146c796ab4563b04e",
        width=640,
        height=480,
    ),
    embedding=(0.5601, -0.0314, 0.1980),
    image_embedding=(0.5036, -0.2681, -0.2644),
    logits=((-7.4613, -7.4785, -7.3628), (-7.3268, -7.0899, -7.1333), (-6.9838, -6.7900, -6.8913)),
    tolerance=1e-3,
)


@dataclass(frozen=True, slots=True)
class Comparison:
    """How far one result is from the published one."""

    what: str  # "embedding of ..."
    difference: float  # the largest of the absolute differences
    equal: bool  # not for NaN


def compare_embedding(segmenter: Segmenter, values: PublishedValues) -> Comparison:
    """Compares the embedding of the prompt. Needs no image."""
    embedding = segmenter.embed([values.prompt]).values[0]
    return _compare(f'the embedding of "{values.prompt}"', embedding, values.embedding, values.tolerance)


def compare_photo(segmenter: Segmenter, values: PublishedValues, photo: NDArray[np.uint8]) -> tuple[Comparison, ...]:
    """Compares the image embedding and the logits of the photo, uint8 (H, W, 3).

    The photo is resized by Pillow, as the published values require. `Segmenter.resize` differs by one grey level in a
    few pixels, and that can move a logit by more than the tolerance.
    """
    size = segmenter.side, segmenter.side
    resized = np.asarray(Image.fromarray(photo).resize(size, Image.Resampling.BILINEAR))
    features = segmenter.encode([resized], pooled=True)
    assert features.pooled is not None
    logits = segmenter.logits(features, segmenter.embed([values.prompt]))[0, 0]
    return (
        _compare("the embedding of the test photo", features.pooled[0], values.image_embedding, values.tolerance),
        _compare(f'the logits of "{values.prompt}" in the test photo', logits, values.logits, values.tolerance),
    )


def _compare(what: str, found: NDArray[np.float32], published: Sequence[Any], tolerance: float) -> Comparison:
    """Compares the first numbers of `found` along each axis, as many as are published."""
    expected = np.array(published)
    start = found[tuple(slice(length) for length in expected.shape)]
    difference = float(np.abs(start - expected).max()) if start.shape == expected.shape else float("inf")
    return Comparison(what, difference, difference <= tolerance)


def is_published(photo: Photo, data: bytes) -> bool:
    """Returns whether a file is the published photo, byte for byte."""
    return hashlib.sha256(data).hexdigest() == photo.sha256


def fetch(photo: Photo) -> bytes:
    """Downloads the file of the photo. Raises ModelError without a network, or if another file comes."""
    try:
        with urllib.request.urlopen(photo.url, timeout=TIMEOUT) as response:
            data: bytes = response.read(LARGEST)
    except (OSError, http.client.HTTPException) as error:
        raise ModelError(f"the test photo could not be downloaded ({error})") from error
    if not is_published(photo, data):
        raise ModelError(f"{photo.url} sent another file than the test photo")
    return data
