"""The pipeline: a batch that is too large for the memory, and the similarity of image and prompt."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from clipseg_cli.errors import ImageError
from clipseg_cli.inputs.source import Source
from clipseg_cli.model.segmenter import Segmenter
from clipseg_cli.prompts.text import Prompt
from clipseg_cli.run import network, pipeline
from clipseg_cli.run.finish import MaskPlan
from clipseg_cli.run.job import Job
from clipseg_cli.settings.masks import MaskOptions
from pictures import SAMPLES, Program, picture, save


class SmallSegmenter:
    """A segmenter whose device has memory for `room` images at once, and for no grey one."""

    side, batch = 8, 1

    def __init__(self, room: int, error: Exception) -> None:
        self.room, self.error, self.tried = room, error, list[int]()

    def resize(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Returns the colour of the image's corner."""
        return np.broadcast_to(image[:1, :1], (8, 8, 3))

    def encode(self, images: Sequence[NDArray[np.uint8]], *, pooled: bool) -> SimpleNamespace:
        """Returns the images, or raises the device's error."""
        self.tried.append(len(images))
        if len(images) > self.room or any(image.max() == image.min() for image in images):
            raise self.error
        return SimpleNamespace(images=images, pooled=None)

    def logits(self, features: SimpleNamespace, embeddings: object) -> NDArray[np.float32]:
        """Returns float32 (N, 1, 8, 8): above 0 where the corner is redder than 35."""
        return np.stack([image[None, :, :, 0].astype(np.float32) - 35 for image in features.images])


@pytest.mark.parametrize(
    "error",
    [MemoryError(), RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"),
     RuntimeError("DefaultCPUAllocator: can't allocate memory"), RuntimeError("std::bad_alloc")],
    ids=lambda error: str(error)[:12],
)  # fmt: skip
def test_a_batch_too_big_for_the_memory_is_halved(tmp_path: Path, error: Exception) -> None:
    """Eight images where three fit are tried as 8, 4, 2, 2, 4, 2, 2. One that never fits fails as `out_of_memory`, and
    the others get their own masks. Another error is not taken for a lack of memory."""
    sources = []
    for index in range(8):
        image = np.full((8, 8, 3), (10 * index, 0, 200), np.uint8) if index != 5 else np.full((8, 8, 3), 7, np.uint8)
        path = save(tmp_path / f"{index}.png", image)
        sources.append(Source(str(path), path.name, path.stem))
    plan = MaskPlan((Prompt("x", "x"),), (0.5,), MaskOptions(), ())
    job = Job(plan, (0,), ("x",), 8)
    small = SmallSegmenter(3, error)
    found = list(pipeline.run(sources, job, lambda: (small, None), lambda path, data: None))  # type: ignore[arg-type]
    assert small.tried == [8, 4, 2, 2, 4, 2, 1, 1, 2]
    assert [record.error.kind for record in found if isinstance(record.error, ImageError)] == ["out_of_memory"]
    assert not found[5].ok and [record.masks[0].area for record in found if record.ok] == [0] * 4 + [64] * 3
    small.error = RuntimeError("an illegal memory access was encountered")
    with pytest.raises(RuntimeError, match="illegal"):
        list(pipeline.run(sources, job, lambda: (small, None), lambda path, data: None))  # type: ignore[arg-type]


@dataclass(frozen=True)
class PassingSegmenter:
    """A segmenter whose passes have `batch` images, where the memory holds three."""

    tried: list[int]
    batch: int = 8

    def resize(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Returns the image."""
        return image

    def encode(self, images: Sequence[NDArray[np.uint8]], *, pooled: bool) -> SimpleNamespace:
        """Returns the images, or runs out of memory."""
        self.tried.append(self.batch)
        if self.batch > 3:
            raise RuntimeError("CUDA out of memory. Tried to allocate 2 GiB")
        return SimpleNamespace(images=images, pooled=None)

    def logits(self, features: SimpleNamespace, embeddings: object) -> NDArray[np.float32]:
        """Returns float32 (N, 1, 8, 8): the brightness of red."""
        return np.stack([image[None, :, :, 0].astype(np.float32) - 35 for image in features.images])


@pytest.mark.parametrize("in_flight", [1, 3])
def test_passes_get_smaller_until_the_memory_holds_them(tmp_path: Path, in_flight: int) -> None:
    """Passes of eight images become passes of two, which they stay. Every image has its mask, in order, however many
    batches are in work at once."""
    sources = []
    for index in range(11):
        path = save(tmp_path / f"{index}.png", np.full((8, 8, 3), 10 * index, np.uint8))
        sources.append(Source(str(path), path.name, path.stem))
    passing, plan = PassingSegmenter([]), MaskPlan((Prompt("x", "x"),), (0.5,), MaskOptions(), ())
    job = Job(plan, (0,), ("x",), 4, in_flight=in_flight)
    found = list(pipeline.run(sources, job, lambda: (passing, None), lambda path, data: None))  # type: ignore[arg-type]
    assert [record.image for record in found] == [source.name for source in sources]
    assert [record.masks[0].area for record in found] == [0] * 4 + [64] * 7
    assert passing.tried.count(2) == 3 and passing.tried[-1] == 2
    assert in_flight > 1 or passing.tried == [8, 4, 2, 2, 2]


def test_a_run_as_on_a_gpu_gives_an_image_the_same_bytes_in_any_order(segmenter: Segmenter) -> None:
    """Passes of three images, two batches in work: the files and records of five images, backwards and in other
    batches too, and of one of them alone."""
    passing = replace(segmenter, batch=3)
    sources = [Source(str(path), path.name, path.stem) for path in sorted((SAMPLES / "images").iterdir())[:5]]
    labels = ("a red circle", "a blue square")
    plan = MaskPlan(tuple(Prompt(each, each) for each in labels), (0.5, 0.3), MaskOptions(), ("mask", "soft"))

    def outcome(*chosen: Source, batch_size: int) -> dict[str, object]:
        written: dict[str, object] = {}
        job = pipeline.Job(plan, (0, 1), labels, batch_size, in_flight=2)
        for record in pipeline.run(chosen, job, lambda: (passing, passing.embed(labels)), written.__setitem__):
            assert record.ok
            written[record.image] = record
        return written

    whole = outcome(*sources, batch_size=3)
    assert len(whole) == 5 * (1 + 2 * len(labels))
    assert sum(each.masks[0].area > 0 for each in whole.values() if isinstance(each, pipeline.Record)) >= 2
    assert outcome(*sources[::-1], batch_size=2) == whole
    assert outcome(sources[3], batch_size=3).items() <= whole.items()


def test_a_pause_gives_the_records_before_it(tmp_path: Path) -> None:
    """Each batch ends there, and no later source is asked for. Without pauses, batches are full."""
    path = save(tmp_path / "a.png", picture(8, 8))
    source = Source(str(path), path.name, path.stem)
    job = Job(MaskPlan((Prompt("x", "x"),), (0.5,), MaskOptions(), ()), (0,), ("x",), 4)
    small, found = SmallSegmenter(8, ValueError()), list[pipeline.Record]()

    def sources() -> Iterator[Source | None]:
        for count in (1, 6, 0, 2):
            yield from [source] * count
            before = len(found)
            yield None
            assert len(found) == before + count

    for in_flight in (1, 3):
        small.tried.clear()
        found.clear()
        working = replace(job, in_flight=in_flight)
        for record in pipeline.run(sources(), working, lambda: (small, None), lambda path, data: None):  # type: ignore[arg-type]
            found.append(record)
        assert sorted(small.tried) == [1, 2, 2, 4] and len(found) == 9 and all(record.ok for record in found)


def test_a_cosine_is_that_of_each_row() -> None:
    """Lengths do not count. A row of zeros has the similarity 0."""
    rows = np.array([[3, 0], [0, 5], [1, 1], [0, 0]], np.float32)
    found = network.cosines(rows, np.array([2, 0], np.float32))
    np.testing.assert_allclose(found, [1, 0, 0.5**0.5, 0], atol=1e-6)


def test_the_similarity_is_that_of_clip(clipseg: Program, segmenter: Segmenter, tmp_path: Path) -> None:
    """`--similarity` adds the cosine of image and prompt embeddings to each record. Expressions have none."""
    path = save(tmp_path / "a.png", picture())
    line = clipseg("clipseg segment a.png -p circle --expr 'red AND circle' --similarity --dtype fp32 --json").stdout
    text, expression = json.loads(line)["masks"]
    image, prompt = (
        segmenter.embed_images([np.asarray(Image.open(path))]).values[0],
        segmenter.embed(["circle"]).values[0],
    )
    cosine = image @ prompt / np.linalg.norm(image) / np.linalg.norm(prompt)
    assert text["similarity"] == pytest.approx(float(cosine), abs=2e-4) and expression["similarity"] == 0
