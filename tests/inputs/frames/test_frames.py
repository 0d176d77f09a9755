"""Frames of a file: which are selected, how their outputs are named, and that each is decoded right and once."""

import io
import os
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from clipseg_cli.errors import ImageError, UsageError
from clipseg_cli.inputs import decode
from clipseg_cli.inputs.finding.discovery import discover
from clipseg_cli.inputs.frames.reader import FrameReader
from clipseg_cli.inputs.source import Source, key, readable
from clipseg_cli.settings.inputs import InputOptions, selected

FORMS = {"GIF": {}, "PNG": {}, "WEBP": {"lossless": True}, "AVIF": {"quality": 90}, "MPO": {"quality": 95}}
COUNT = 3


def save(path: Path, form: str, count: int = COUNT) -> Path:
    """Saves an animation of noise, of which every frame differs from the others in a part."""
    random = np.random.default_rng(0)
    frames = [random.integers(0, 256, (40, 60, 3), dtype=np.uint8)]
    for index in range(1, count):
        frames.append(frames[-1].copy())
        frames[-1][5 * index : 5 * index + 20, 10:30] = random.integers(0, 256, (20, 20, 3))
    first, *others = map(PIL.Image.fromarray, frames)
    path.parent.mkdir(parents=True, exist_ok=True)
    options = FORMS[form] if form == "MPO" else FORMS[form] | {"duration": 100}
    first.save(path, form, save_all=True, append_images=others, **options)
    return path


def found(*inputs: Path, **options: object) -> list[Source]:
    """Returns the sources that discovery finds."""
    return list(discover(InputOptions(tuple(map(str, inputs)), **options), None))


def expected(path: Path, index: int) -> np.ndarray:
    """Returns a frame as Pillow shows it, uint8 RGB (H, W, 3)."""
    with PIL.Image.open(path) as image:
        image.seek(index)
        return np.array(image.convert("RGB"))


@pytest.mark.parametrize("form", FORMS)
def test_every_frame_has_the_pixels_that_pillow_shows(tmp_path: Path, form: str) -> None:
    """In rising order, in falling order and alone, a frame has the same pixels: Pillow's."""
    sources = found(save(tmp_path / f"a.{form.lower()}", form), frames="all")
    assert [source.frame for source in sources] == list(range(COUNT))
    with FrameReader() as reader:
        for source in [*sources, *reversed(sources)]:
            truth = expected(Path(source.path), source.frame or 0)
            for image in (reader.load(source), decode.load(source)):
                assert np.array_equal(image.pixels, truth) and image.frames == 1


@pytest.mark.parametrize(
    ("text", "count", "numbers"),
    [
        ("first", 5, [0]), ("first", 0, []), ("all", 3, [0, 1, 2]), ("1:3", 5, [1, 2]), ("::2", 5, [0, 2, 4]),
        ("-2:", 5, [3, 4]), ("10:", 5, []), ("2", 5, [2]), ("-1", 5, [4]), ("1:100:3", 8, [1, 4, 7]),
    ],
)  # fmt: skip
def test_frames_are_selected_like_a_slice(text: str, count: int, numbers: list[int]) -> None:
    """A:B:STEP selects as in Python, a single number that frame, `first` and `all` what they say."""
    assert [*selected(text, count)] == numbers


@pytest.mark.parametrize("text", ["", "some", "1:2:3:4", "::0", "1.5", ":x"])
def test_a_selection_that_makes_no_sense_is_a_usage_error(text: str) -> None:
    """The error shows how a selection is written."""
    with pytest.raises(UsageError, match="A:B:STEP"):
        selected(text, 1)


def test_only_files_with_several_frames_are_expanded(tmp_path: Path) -> None:
    """Images stay as they are, whatever --frames says; without it, so do animations."""
    save(tmp_path / "i/a.gif", "GIF")
    save(tmp_path / "i/one.gif", "GIF", 1)
    PIL.Image.new("RGB", (4, 4)).save(tmp_path / "i/b.jpg")
    (tmp_path / "i/broken.gif").write_bytes(b"GIF89a")
    for chosen in (None, "first"):
        assert [each.output for each in found(tmp_path / "i", frames=chosen)] == ["a", "b", "broken", "one"]
    sources = found(tmp_path / "i", frames="1:")
    assert [each.output for each in sources] == ["a/000001", "a/000002", "b", "broken", "one"]
    assert [(each.frame, each.time) for each in sources[:3]] == [(1, 0.1), (2, 0.2), (None, 0.0)]
    assert len({each.key for each in sources}) == 5


def test_frames_never_share_an_output_with_images_of_a_folder(tmp_path: Path) -> None:
    """If a folder has the name that the frames' outputs would get, they carry the file's full name."""
    save(tmp_path / "i/a.gif", "GIF")
    (tmp_path / "i/a").mkdir()
    PIL.Image.new("RGB", (4, 4)).save(tmp_path / "i/a/000001.png")
    outputs = [each.output for each in found(tmp_path / "i", frames="all")]
    assert sorted(outputs) == ["a.gif/000000", "a.gif/000001", "a.gif/000002", "a/000001"]


def test_a_file_that_is_replaced_is_read_anew(tmp_path: Path) -> None:
    """The reader keeps a file open, but notices that another file has taken its place."""
    path = save(tmp_path / "a.gif", "GIF")
    first, second, _ = found(path, frames="all")
    with FrameReader() as reader:
        reader.load(first)
        new = save(tmp_path / "new.gif", "GIF", 2)
        os.utime(new, ns=(1, 1))
        new.replace(path)
        assert np.array_equal(reader.load(second).pixels, expected(path, 1))
        path.unlink()
        with pytest.raises(ImageError, match="no such file"):
            reader.load(second)


def test_the_frames_before_a_damaged_one_are_read(tmp_path: Path) -> None:
    """In an APNG with a damaged frame, the frames before it are right, and it is `corrupt`."""
    path = save(tmp_path / "a.png", "PNG")
    data = bytearray(path.read_bytes())
    data[data.rindex(b"fdAT") + 20] ^= 0xFF
    path.write_bytes(data)
    sources = found(path, frames="all")
    with FrameReader() as reader:
        for source in sources[:2]:
            assert np.array_equal(reader.load(source).pixels, expected(path, source.frame or 0))
        with pytest.raises(ImageError) as caught:
            reader.load(sources[2])
    assert caught.value.kind == "corrupt"


def test_frames_beyond_max_pixels_are_refused(tmp_path: Path) -> None:
    """The limit holds for frames as for images."""
    from clipseg_cli.settings.inputs import DecodeOptions

    source = found(save(tmp_path / "a.gif", "GIF"), frames="all")[1]
    with FrameReader() as reader, pytest.raises(ImageError, match="--max-pixels"):
        reader.load(source, DecodeOptions(max_pixels=100))


def test_neighbouring_frames_are_in_one_shard(tmp_path: Path) -> None:
    """Every frame is in exactly one shard, and a shard has runs of neighbours, which it decodes in one go."""
    path = tmp_path / "a.gif"
    frames = [PIL.Image.new("L", (2, 2), index % 256) for index in range(600)]
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=[10, 20] * 300)
    shards = [[each.frame for each in found(path, frames="all", shard=(index, 3))] for index in range(3)]
    assert sorted(frame for shard in shards for frame in shard if frame is not None) == list(range(600))
    blocks = [{(frame or 0) // 256 for frame in shard} for shard in shards]
    assert sum(map(len, blocks)) == 3


def test_keys_sort_by_name_and_number_and_are_shown_with_a_hash_sign() -> None:
    """The key of a frame sorts numerically, and no file's name can be equal to it."""
    keys = [key("b", None), key("a", 10), key("a", 9), key("a", None)]
    assert [readable(each) for each in sorted(keys)] == ["a", "a#9", "a#10", "b"]


def test_an_animation_from_memory_is_read_by_frames() -> None:
    """Frames of bytes that came through stdin are decoded like those of a file."""
    file = io.BytesIO()
    first, second = (PIL.Image.new("RGB", (8, 8), color) for color in ("red", "blue"))
    first.save(file, "PNG", save_all=True, append_images=[second])
    with FrameReader() as reader:
        pixels = [
            reader.load(Source("-", "-", "stdin", data=file.getvalue(), frame=index)).pixels[0, 0].tolist()
            for index in (0, 1)
        ]
    assert pixels == [[255, 0, 0], [0, 0, 255]]
