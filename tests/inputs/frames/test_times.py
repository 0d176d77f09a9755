"""When the frames of a file are shown, and how many there are: read from its structure, held against Pillow."""

import io

import numpy as np
import PIL.Image
import pytest

from clipseg_cli.inputs.frames.times import frame_times

DELAYS = [100, 200, 50, 70, 90, 10]  # milliseconds
STARTS = [0.0, 0.1, 0.3, 0.35, 0.42, 0.51]  # seconds
KINDS = {"GIF": "GIF", "PNG": "PNG", "WEBP": "WEBP", "AVIF": "AVIF", "MPO": "JPEG"}  # Pillow's format: our kind


def animation(form: str, count: int = 6, **options: object) -> bytes:
    """Returns an animation of grey frames, each of another grey."""
    first, *others = [PIL.Image.fromarray(np.full((20, 30, 3), 30 * index, np.uint8)) for index in range(count)]
    file = io.BytesIO()
    first.save(file, form, save_all=True, append_images=others, **options)
    return file.getvalue()


@pytest.mark.parametrize("form", ["GIF", "PNG", "WEBP", "AVIF"])
def test_frames_are_shown_when_the_file_says(form: str) -> None:
    """The starts of the frames add up the delays that Pillow has written."""
    assert frame_times(form, io.BytesIO(animation(form, duration=DELAYS))) == STARTS


@pytest.mark.parametrize("form", KINDS)
def test_there_are_as_many_frames_as_pillow_counts(form: str) -> None:
    """The number of frames is Pillow's, for one frame and for several."""
    for count in (1, 2, 5):
        data = animation(form, count)
        with PIL.Image.open(io.BytesIO(data)) as image:
            assert len(frame_times(KINDS[form], io.BytesIO(data))) == getattr(image, "n_frames", 1) == count


def test_an_apng_may_begin_with_a_still_image() -> None:
    """A still image for viewers without animation is the first frame, shown at the same time as the next."""
    data = animation("PNG", duration=100, default_image=True)
    assert frame_times("PNG", io.BytesIO(data)) == [0.0, 0.0, 0.1, 0.2, 0.3, 0.4]


@pytest.mark.parametrize("form", KINDS)
def test_a_truncated_file_has_the_frames_that_are_there(form: str) -> None:
    """A file cut at any length lists the first frames, and never raises."""
    data = animation(form, duration=DELAYS)
    whole = frame_times(KINDS[form], io.BytesIO(data))
    for length in range(len(data)):
        times = frame_times(KINDS[form], io.BytesIO(data[:length]))
        assert times == whole[: len(times)]


@pytest.mark.parametrize("form", KINDS)
def test_damaged_files_end(form: str) -> None:
    """Flipped bytes never raise and never loop: the list ends."""
    data = animation(form, duration=DELAYS)
    random = np.random.default_rng(0)
    for _ in range(300):
        damaged = bytearray(data)
        for position in random.integers(0, len(data), 3):
            damaged[position] = random.integers(256)
        assert frame_times(KINDS[form], io.BytesIO(bytes(damaged)))


def test_other_kinds_hold_one_image() -> None:
    """A kind without frames is one image, shown at 0."""
    assert frame_times("BMP", io.BytesIO(b"BM")) == [0.0]
