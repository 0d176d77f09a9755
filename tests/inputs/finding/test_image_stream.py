"""Images one after another: where each ends, and what a stream that breaks off, is damaged or is hostile gives."""

import io
import random
import subprocess
from collections.abc import Callable

import imageio_ffmpeg
import numpy as np
import PIL.Image
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clipseg_cli.errors import ImageError
from clipseg_cli.inputs.finding import image_ends
from clipseg_cli.inputs.finding.image_ends import ENDS
from clipseg_cli.inputs.finding.image_stream import images
from clipseg_cli.inputs.kinds import sniff
from image_files import VALID, overwritten, saved

PIXELS = np.random.default_rng(0).integers(0, 255, (23, 31, 3), dtype=np.uint8)
PHOTO, GREY = PIL.Image.fromarray(PIXELS), PIL.Image.fromarray(PIXELS[..., 0])
SMALL = saved(PIXELS[:8, :8], "JPEG")
VIDEO = b"\0\0\0\x18ftypmp42" + b"\xff\xd8\xff\xd9" * 30


def segment(marker: int, content: bytes, jpeg: bytes = SMALL) -> bytes:
    """Returns a JPEG with one more segment."""
    return jpeg[:2] + bytes((0xFF, marker)) + (len(content) + 2).to_bytes(2, "big") + content + jpeg[2:]


def xmp(items: str) -> bytes:
    """Returns a JPEG whose XMP has this text."""
    return segment(0xE1, image_ends.XMP + f"<x:xmpmeta><rdf:li {items}/></x:xmpmeta>".encode())


def views(*more: np.ndarray) -> bytes:
    """Returns a multi-picture file."""
    return saved(PHOTO, "MPO", save_all=True, append_images=[PIL.Image.fromarray(each) for each in more])


def several(form: str) -> bytes:
    """Returns an animation of three frames."""
    return saved(PHOTO, form, save_all=True, append_images=[PIL.Image.fromarray(255 - PIXELS), GREY.convert("RGB")])


FILES = {name: saved(PHOTO, name.strip(), **options) for name, options in VALID.items() if name.strip() in ENDS}
FILES |= {
    "grey JPEG": saved(GREY, "JPEG"), "CMYK JPEG": saved(PHOTO.convert("CMYK"), "JPEG"),
    "JPEG with a thumbnail": segment(0xE1, b"Exif\0\0" + saved(PIXELS, "JPEG")),
    "MPO": views(PIXELS[:9], PIXELS[:, :9]), "Ultra HDR": segment(0xE1, b"Exif\0\0", views(PIXELS[:9])),
    "motion photo": xmp(f'Item:Length="0" Item:Padding="0"/><rdf:li Item:Length="{len(VIDEO)}"') + VIDEO,
    "motion photo with a gain map":
        xmp(f'Item:Length="{len(SMALL)}"/><rdf:li Item:Length="{len(VIDEO)}"') + SMALL + VIDEO,
    "older motion photo": xmp(f'GCamera:MicroVideoOffset="{len(VIDEO)}"') + VIDEO,
    "APNG": several("PNG"), "animated GIF": several("GIF"), "animated WebP": several("WEBP"),
    "RGBA PNG": saved(PHOTO.convert("RGBA"), "PNG"), "1-bit PNG": saved(GREY.convert("1"), "PNG"),
    "RGBA WebP": saved(PHOTO.convert("RGBA"), "WEBP"),
    **{f"{mode} BMP": saved(PHOTO.convert(mode), "BMP") for mode in ("1", "L", "P", "RGBA")},
    "BMP without a size": overwritten(saved(PHOTO, "BMP"), 2, bytes(4)),
    "PBM": saved(GREY.convert("1"), "PPM"), "PGM": saved(GREY, "PPM"),
    "16-bit PGM": saved(PIL.Image.fromarray(PIXELS[..., 0].astype(np.uint16)), "PPM"),
    "PFM": saved(PIL.Image.fromarray(PIXELS[..., 0].astype(np.float32)), "PPM"), "PPM with comments":
        b"P6 # 9 9 255\n#\n2\t1 # two\n255\nabc\n\n#",
    "plain PBM": b"P1\n# 1 1\n3 2\n101 # 0 1\n0 10", "plain PGM": b"P2 2 2 15\n1 2\n#3 4\n3 15",
    "plain PPM": b"P3\n2 1\n255\n1 2 3 400 5 16",
}  # fmt: skip
PLAIN = [name for name in FILES if name.startswith("plain")]  # the end of a number is known by what follows


class Pieces(io.RawIOBase):
    """A stream that gives a few bytes at a time, as `size` says."""

    def __init__(self, data: bytes, size: Callable[[], int], open_ended: bool = False) -> None:
        self.data, self.size, self.open_ended = data, size, open_ended

    def read(self, size: int = -1) -> bytes:
        """Returns the next bytes. Where a pipe would wait, fails if the stream is open-ended."""
        assert self.data or not self.open_ended
        piece = self.data[: min(size, self.size())]
        self.data = self.data[len(piece) :]
        return piece


def split(data: bytes, size: Callable[[], int] = lambda: 1 << 16, max_pixels: int = 10**6) -> list[bytes | str]:
    """Returns the images of a stream, and the error class of what is none."""
    found = images(Pieces(data, size), b"", max_pixels)
    return [each.kind if isinstance(each, ImageError) else each for each in found]


@pytest.mark.parametrize("name", FILES)
def test_a_file_is_one_image_and_is_handed_on_at_once(name: str) -> None:
    """However small the pieces in which it comes, and with nothing read behind its last byte."""
    data = FILES[name]
    assert sniff(data) in ENDS
    arriving = data + b"\n" if name in PLAIN else data
    assert next(images(Pieces(arriving, lambda: 1, open_ended=True), b"", 10**6)) == data
    assert split(data) == [data]


@pytest.mark.parametrize("seed", range(20))
def test_mixed_images_are_all_found(seed: int) -> None:
    """In order, whole, in pieces of any size, with or without line ends and zeros between them."""
    rng = random.Random(seed)
    chosen = rng.choices(list(FILES), k=15)
    between = [
        "\n" if name in PLAIN else rng.choice(("", "", "\n", "\r\n\r\n", "\0" * rng.randrange(99))) for name in chosen
    ]
    data = b"".join(FILES[name] + padding.encode() for name, padding in zip(chosen, between, strict=True))
    assert split(data, lambda: rng.choice((1, 2, 7, 100, 5000))) == [FILES[name] for name in chosen]


@pytest.mark.parametrize("codec", ["mjpeg", "png", "ppm", "pgm", "pbm", "bmp", "libwebp"])
def test_a_pipe_of_ffmpeg_has_as_many_images_as_frames(codec: str) -> None:
    """And each of them opens in Pillow."""
    made = ["-v", "error", "-f", "lavfi", "-i", "testsrc=s=64x48:r=5:d=2", "-f", "image2pipe", "-c:v"]
    done = subprocess.run([imageio_ffmpeg.get_ffmpeg_exe(), *made, codec, "-"], capture_output=True, check=True)
    found = [each for each in images(io.BytesIO(done.stdout), b"", 10**6) if isinstance(each, bytes)]
    assert len(found) == 10 and {PIL.Image.open(io.BytesIO(each)).size for each in found} == {(64, 48)}


@pytest.mark.parametrize("name", ["JPEG", "MPO", "PNG", "GIF", "WEBP", "BMP", "PPM", "plain PGM", "motion photo"])
def test_a_stream_cut_at_any_length_keeps_what_came_before(name: str) -> None:
    """The rest is handed on for the decoder to refuse, or is no image. No byte of an image is lost or added."""
    data = FILES[name] + b"\n"
    for length in range(len(data)):
        first, *rest = split(FILES["PNG"] + data[:length])
        assert first == FILES["PNG"]
        if name not in ("MPO", "motion photo") and length < len(FILES[name]):
            assert rest in ([], ["corrupt"], [data[:length]]) and (rest or not length)
    assert split(FILES["PNG"] + data) == [FILES["PNG"], FILES[name]]


def test_a_jpeg_that_is_cut_short_does_not_take_the_next_one() -> None:
    """Its scan ends where an image begins."""
    data = FILES["JPEG"]
    assert split(data[:-50] + SMALL + FILES["PNG"]) == [data[:-50], SMALL, FILES["PNG"]]


def test_an_index_of_another_file_is_not_believed() -> None:
    """Programs that edit photos copy the index of an MPO and the XMP of a motion photo. The next image is not lost."""
    mpo = FILES["MPO"]
    at = mpo.index(b"MPF\0")
    copied = segment(0xE2, mpo[at : at - 2 + int.from_bytes(mpo[at - 2 : at], "big")])
    for stale in (copied, xmp('Item:Length="500"'), xmp('GCamera:MicroVideoOffset="99999"')):
        assert split(stale + SMALL + FILES["BMP"]) == [stale, SMALL, FILES["BMP"]]


@pytest.mark.parametrize("form", ["TIFF", "AVIF", "JPEG2000"])
def test_the_rest_is_one_image_if_its_end_cannot_be_found(form: str) -> None:
    """Whatever it contains."""
    data = saved(PHOTO, form) + SMALL
    assert split(SMALL + data) == [SMALL, data]


@pytest.mark.parametrize("garbage", [b"hello", b"\0\0\1", b"x" * 99, b"BM", b"\n\n<html>" + SMALL])
def test_what_is_no_image_ends_the_stream(garbage: bytes) -> None:
    """With one failure, which names the image before it."""
    assert split(SMALL + garbage) == [SMALL, "corrupt"]
    *_, error = images(io.BytesIO(SMALL * 3 + garbage), b"", 10**6)
    assert "image 3" in str(error)


class Endless(io.RawIOBase):
    """A stream that repeats its bytes forever, after a start."""

    def __init__(self, start: bytes, repeated: bytes) -> None:
        self.start, self.repeated, self.given = start, repeated * ((1 << 16) // len(repeated)), 0

    def read(self, size: int = -1) -> bytes:
        """Returns some bytes."""
        piece, self.start = self.start or self.repeated, b""
        self.given += len(piece)
        return piece


ENDLESS = {
    "scan": (FILES["JPEG"][:-2], b"\1"), "restarts": (FILES["JPEG"][:-2], b"\xff\xd0"),
    "segments": (b"\xff\xd8\xff", b"\xe1\0\x02\xff"), "fill bytes": (b"\xff\xd8\xff", b"\xff"),
    "chunks": (FILES["PNG"][:-12], b"\0\0\0\0tEXt\0\0\0\0"), "animation": (FILES["GIF"][:-1], b"!\xfe\1x\0"),
    "no blocks": (FILES["GIF"][:-1], b"\0"), "size": (b"RIFF\xff\xff\xff\xffWEBP", b"\0"),
    "pixels": (b"P6 99999999 99999999 255\n", b"\0"), "numbers": (b"P3 9999 9999 255\n", b"1 "),
    "TIFF": (saved(PHOTO, "TIFF"), b"\0"),
}  # fmt: skip


@pytest.mark.parametrize("name", ENDLESS)
def test_an_image_that_never_ends_is_too_large(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once it has more bytes than an image of --max-pixels can have. Nothing more is read."""
    monkeypatch.setattr("clipseg_cli.inputs.finding.image_stream.LARGEST", 300_000)
    stream = Endless(*ENDLESS[name])
    (error,) = images(stream, b"", 1000)
    assert isinstance(error, ImageError) and error.kind == "too_large" and stream.given < 500_000


@pytest.mark.parametrize(
    "data", [b"P6 #" + b"x" * (1 << 18), b"P3 9 9 255\n#" + b"1" * (1 << 18), b"P2 x 9 9 ", b"P5 1 9e9 255 ",
             FILES["PNG"][:8] + b"\0\0\0\0\0\0\0\0\0\0\0\0"]
)  # fmt: skip
def test_a_broken_structure_is_corrupt(data: bytes) -> None:
    """A header that does not end, has no size or no names."""
    assert [*images(io.BytesIO(data), b"P6 #" if data[:4] == b"P6 #" else b"", 1000)][-1].kind == "corrupt"  # type: ignore[union-attr]


def test_padding_takes_no_memory() -> None:
    """Ten megabytes of zeros between two images are skipped as they come."""
    window = image_ends.Window(io.BytesIO(), b"", 0)
    assert split(SMALL + bytes(10_000_000) + SMALL) == [SMALL, SMALL] and not window.data


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.one_of(st.binary(max_size=40), st.sampled_from([data[:400] for data in FILES.values()])), max_size=6)
)
def test_any_bytes_come_to_an_end(pieces: list[bytes]) -> None:
    """Nothing else is raised, images are not empty, and together they are no longer than the stream."""
    data = SMALL + b"".join(pieces)
    found = split(data)
    assert found[0] == SMALL and all(found) and sum(len(each) for each in found if isinstance(each, bytes)) <= len(data)
