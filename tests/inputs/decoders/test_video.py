"""Videos: their frames are those of ffmpeg, in number, time and pixels, in any order; damage stays where it is."""

import io
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from clipseg_cli.errors import ImageError
from clipseg_cli.inputs.decode import load
from clipseg_cli.inputs.decoders import video
from clipseg_cli.inputs.kinds import sniff
from clipseg_cli.inputs.source import Source
from clipseg_cli.settings.inputs import DecodeOptions
from video_files import COUNT, FILES, HEIGHT, WIDTH, X264, encoded, ffmpeg, number, picture, shown

slow = pytest.mark.slow


def opened(data: bytes | Path, max_pixels: int = 10**8) -> video.Video:
    """Opens a video."""
    data = data if isinstance(data, bytes) else data.read_bytes()
    return video.sequence(sniff(data[:64]) or "", io.BytesIO(data), DecodeOptions(max_pixels=max_pixels))


def check(path: Path) -> None:
    """Asserts that a video has ffmpeg's frames at ffmpeg's times, and that each is the same however it is reached."""
    frames, times = opened(path), shown(path)
    assert len(frames.times) == len(times)
    assert np.allclose(np.diff(frames.times), np.diff(times), atol=0.0011)
    whole = [frames.decode(index) for index in range(len(times))]
    numbers = [number(decoded.pixels) for decoded in whole]
    assert numbers == sorted(set(numbers))
    order = [*range(len(times))]
    random.Random(0).shuffle(order)
    for index in [*order, *reversed(range(len(times)))]:
        again = frames.decode(index)
        assert np.array_equal(again.pixels, whole[index].pixels) and again.notes == whole[index].notes


@pytest.mark.parametrize("name", ["h264.mp4", "mjpeg.avi"])
def test_frames_are_those_of_ffmpeg(tmp_path: Path, name: str) -> None:
    """All frames are listed, in the order and at the times in which ffmpeg shows them, and none is missed by a seek."""
    check(encoded(tmp_path / name, *FILES[name]))


@slow
@pytest.mark.parametrize("name", FILES)
def test_frames_of_every_codec_and_container(tmp_path: Path, name: str) -> None:
    """The same holds for B-frames, open GOPs, interlaced and variable-rate video, and containers without times."""
    check(encoded(tmp_path / name, *FILES[name]))


@slow
@pytest.mark.parametrize("name", ["h264.mp4", "one_gop.mp4", "open_gop.mkv", "hevc.mp4", "mpeg2.mpg", "vp9.webm"])
def test_frames_of_videos_that_were_cut(tmp_path: Path, name: str) -> None:
    """The same holds after cuts without encoding, which leave frames that no player shows."""
    path = encoded(tmp_path / name, *FILES[name])
    cuts = (("-ss", "1.1", "-i", path), ("-i", path, "-ss", "0.5"), ("-i", path, "-t", "1.3"))
    for turn, cut in enumerate(cuts):
        part = tmp_path / f"{turn}{path.suffix}"
        ffmpeg(*cut, "-c", "copy", part)
        if b"Video:" in ffmpeg("-i", part, "-f", "null", "-", tells=True):  # a cut may leave no frame
            check(part)


@pytest.mark.parametrize("turn", ["90", "180", "-90"])
def test_a_frame_is_turned_as_a_player_turns_it(tmp_path: Path, turn: str) -> None:
    """A display matrix is applied: size and pixels are those that ffmpeg shows."""
    plain, path = encoded(tmp_path / "a.mp4", *X264, count=5), tmp_path / "b.mp4"
    ffmpeg("-display_rotation", turn, "-i", plain, "-c", "copy", path)
    pixels = opened(path).decode(3).pixels
    assert pixels.shape == ((HEIGHT, WIDTH, 3) if turn == "180" else (WIDTH, HEIGHT, 3))
    assert np.abs(pixels.astype(int) - picture(path, 3, pixels.shape[1], pixels.shape[0])).mean() < 2


def test_pixels_that_are_not_square_are_stretched(tmp_path: Path) -> None:
    """A video of pixels 4:3 becomes wider, one of pixels 3:4 higher; mirrored ones are mirrored."""
    for aspect, size in (("4/3", (256, 128)), ("3/4", (192, 171))):
        path = encoded(tmp_path / "a.mp4", *X264, "-vf", f"setsar={aspect}", count=3)
        assert opened(path).decode(1).pixels.shape[1::-1] == size
    plain, path = encoded(tmp_path / "a.mp4", *X264, count=3), tmp_path / "b.mp4"
    ffmpeg("-display_hflip", "-i", plain, "-c", "copy", path)
    assert np.array_equal(opened(path).decode(1).pixels, opened(plain).decode(1).pixels[:, ::-1])


@pytest.mark.parametrize("matrix", ["bt709", "bt470bg", "bt2020nc"])
@pytest.mark.parametrize("levels", ["tv", "pc"])
def test_colours_are_those_of_the_named_matrix_and_range(tmp_path: Path, matrix: str, levels: str) -> None:
    """BT.601, BT.709 and BT.2020, limited and full range, give the colours that were encoded, within 3 levels."""
    out = {"bt709": "bt709", "bt470bg": "bt601", "bt2020nc": "bt2020"}[matrix]
    path = encoded(
        tmp_path / "a.mkv",
        *("-vf", f"scale=out_color_matrix={out}:out_range={levels}", "-pix_fmt", "yuv444p", "-c:v", "ffv1"),
        *("-colorspace", matrix, "-color_range", levels),
        count=2,
    )
    whole = encoded(tmp_path / "b.mkv", "-c:v", "ffv1", "-pix_fmt", "bgr0", count=2)
    assert np.abs(opened(path).decode(1).pixels.astype(int) - opened(whole).decode(1).pixels).max() <= 3


def test_notes_say_what_a_player_would_do(tmp_path: Path) -> None:
    """HDR, transparency and interlacing are noted; transparent pixels are white."""
    hdr = encoded(tmp_path / "a.mp4", *X264, "-vf", "setparams=color_trc=smpte2084", count=2)
    assert "tone mapping" in " ".join(opened(hdr).decode(0).notes)
    weave = encoded(tmp_path / "c.mp4", *FILES["interlaced.mp4"], count=2)
    assert "interlaced" in " ".join(opened(weave).decode(0).notes)
    fading = ("-vf", "format=yuva444p10le,colorchannelmixer=aa=0", "-c:v", "prores_ks", "-profile:v", "4")
    clear = opened(encoded(tmp_path / "b.mov", *fading, count=2)).decode(0)
    assert "white" in " ".join(clear.notes) and clear.pixels.min() == 255


def test_a_video_as_one_image_is_its_first_frame(tmp_path: Path) -> None:
    """Without a frame number the first frame is decoded, and a note says of how many."""
    path = encoded(tmp_path / "a.mp4", *X264, count=7)
    image = load(Source(str(path), "a.mp4", "a"))
    assert number(image.pixels) == 0 and image.notes == ("first of 7 frames",)


def test_too_large_frames_are_refused_before_they_are_decoded(tmp_path: Path) -> None:
    """--max-pixels holds for the size that is shown."""
    path = encoded(tmp_path / "a.mp4", *X264, "-vf", "setsar=2/1", count=3)
    assert opened(path, 2 * WIDTH * HEIGHT).decode(0).pixels.shape == (HEIGHT, 2 * WIDTH, 3)
    for limit in (WIDTH * HEIGHT - 1, 2 * WIDTH * HEIGHT - 1):
        with pytest.raises(ImageError) as caught:
            opened(path, limit).decode(0)
        assert caught.value.kind == "too_large"


def test_a_broken_frame_fails_alone(tmp_path: Path) -> None:
    """Of a damaged video, frames before the damage and after the next keyframe are whole; it itself is `corrupt`.

    Frames between carry a note. In any order the same frames fail.
    """
    path = encoded(tmp_path / "a.mp4", *X264, "-g", "10", "-bf", "0", "-an", "-x264-params", "scenecut=0")
    whole, data = opened(path), bytearray(path.read_bytes())
    import av

    with av.open(str(path)) as container:
        at = [packet.pos for packet in container.demux(video=0) if packet.size][24]
    data[at + 4 : at + 60] = bytes(56)
    broken = opened(bytes(data))
    good, failed, noted = [], [], []
    for index in range(COUNT):
        try:
            decoded = broken.decode(index)
        except ImageError as error:
            assert error.kind == "corrupt" and str(index) in str(error)
            failed.append(index)
        else:
            (noted if decoded.notes else good).append(index)
            assert decoded.notes or np.array_equal(decoded.pixels, whole.decode(index).pixels)
    assert failed[0] == 24 and {*range(24), *range(30, COUNT)} <= {*good} and {*noted} <= {*range(25, 30)}
    for index in (24, 3, 50, 24):
        if index in failed:
            with pytest.raises(ImageError):
                broken.decode(index)
        else:
            assert np.array_equal(broken.decode(index).pixels, whole.decode(index).pixels)


@slow
def test_memory_does_not_grow_with_the_frames(tmp_path: Path) -> None:
    """Decoding 150 frames of 1080p takes at most two frames of memory more than decoding 30."""
    program = (
        "import resource, sys; from clipseg_cli.inputs.decoders import video; "
        "from clipseg_cli.settings.inputs import DecodeOptions\n"
        "frames = video.sequence('MP4', open(sys.argv[1], 'rb'), DecodeOptions())\n"
        "for index in range(int(sys.argv[2])): frames.decode(index)\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
    )
    path = encoded(tmp_path / "a.mp4", *X264, "-vf", "loop=-1:60,scale=1920:1080", "-frames:v", "160")
    command = [sys.executable, "-c", program, str(path)]
    few, many = (int(subprocess.check_output([*command, str(count)])) for count in (30, 150))  # kilobytes
    assert many - few < 2 * 1920 * 1080 * 4.5 / 1024


@slow
def test_hostile_videos_raise_only_image_errors(tmp_path: Path) -> None:
    """Bytes flipped, cut off and doubled anywhere in videos of all kinds: frames, or an ImageError."""
    rng = random.Random(1)
    for name in ("h264.mp4", "open_gop.mkv", "mjpeg.avi", "camera.m2ts", "mpeg2.mpg", "vp9.webm", "hevc.mp4"):
        data = encoded(tmp_path / name, *FILES[name], count=12).read_bytes()
        for _ in range(40):
            hostile = bytearray(data)
            for _ in range(rng.choice((1, 5, 50))):
                hostile[rng.randrange(16, len(data))] = rng.randrange(256)
            part = bytes(hostile[: rng.choice((len(data), rng.randrange(len(data))))])
            try:
                frames = opened(part + part[: rng.choice((0, 4096))])
            except (ImageError, KeyError):  # KeyError: its first bytes are those of no kind
                continue
            for index in range(min(3, len(frames.times))):
                try:
                    assert frames.decode(index).pixels.dtype == np.uint8
                except ImageError as error:
                    assert error.kind in ("corrupt", "too_large", "unsupported")
