"""TIFF layouts beyond Pillow's: each is written by tifffile, and numpy says which pixels it must give."""

import io
import itertools
import struct
import tracemalloc
import zlib

import imagecodecs
import numpy as np
import PIL.Image
import pytest
import tifffile
from skimage import color

from clipseg_cli.inputs.colour.conversion import BACKGROUND, RARE_LAYOUT
from clipseg_cli.inputs.decoders import tiff_codecs
from image_files import as_rgb, overwritten, read, refused, tiff

TYPES = ("u1", "i1", "u2", "i2", "u4", "i4", "f2", "f4", "f8")
BANDS = (1, 2, 3, 4, 5, 20)


def written(values: np.ndarray, **options: object) -> bytes:
    """Returns a TIFF of an array (H, W), (H, W, B), or (B, H, W) with planarconfig="separate"."""
    file = io.BytesIO()
    options = {"photometric": "minisblack", "metadata": None} | options
    if values.ndim == 3:
        options.setdefault("planarconfig", "contig")
    tifffile.imwrite(file, np.ascontiguousarray(values), **options)
    return file.getvalue()


def bands(photo: np.ndarray, count: int, dtype: str) -> np.ndarray:
    """Returns (90, 130, count) of a type; the first three bands are the photo's colours."""
    shifted = [np.roll(photo[:, :, band % 3], band // 3, axis=0) for band in range(count)]
    values, kind = np.stack(shifted, axis=2), np.dtype(dtype)
    if kind.kind == "f":
        return (values / 255).astype(kind)
    if kind.itemsize == 1:
        return (values.astype(int) - (128 if dtype == "i1" else 0)).astype(kind)
    return values.astype(kind) * kind.type({"u2": 257, "i2": 100}.get(dtype, 8_000_000))


def expected(values: np.ndarray) -> np.ndarray:
    """Returns uint8 (H, W, 3) of the first three bands, or of the first as grey, by the rule of the documentation."""
    shown = values[:, :, : 3 if values.shape[2] >= 3 else 1].astype(np.float64)
    low, high = {"u1": (0, 255), "u2": (0, 65535)}.get(values.dtype.str[1:], (shown.min(), shown.max()))
    if values.dtype.kind == "f":
        low, high = 0, 1
    eight = np.floor((shown - low) * 255 / (high - low) + 0.5).astype(np.uint8)
    return np.repeat(eight, 3, axis=2) if eight.shape[2] == 1 else eight


def layouts(dtype: str, count: int) -> list[dict[str, object]]:
    """Returns tifffile's options for all ways to store bands of a type."""
    packings = [{}, {"compression": "zlib"}, {"compression": "lzw", "predictor": True}]
    packings += [{"compression": name} for name in ("packbits", "lzma", "zstd")]
    places = [{"tile": (32, 48)}, {"rowsperstrip": 16}]
    orders = [{"byteorder": order, "bigtiff": big} for order in "<>" for big in (False, True)]
    colours = [{"photometric": "minisblack"}] + [{"photometric": "rgb", "extrasamples": (0,) * (count - 3)}] * (
        count >= 3
    )
    planes = [{"planarconfig": "contig"}, {"planarconfig": "separate"}] if count > 1 else [{}]
    every = itertools.product(packings, places, orders, colours, planes)
    return [{key: value for part in parts for key, value in part.items()} for parts in every]


def check(photo: np.ndarray, dtype: str, count: int, options: dict[str, object]) -> None:
    """Writes bands of the photo in a layout and compares what is read, within a level of rounding."""
    values = bands(photo, count, dtype)
    stored = values.astype(values.dtype.newbyteorder(str(options["byteorder"])))
    stored = (
        stored[:, :, 0]
        if count == 1
        else np.moveaxis(stored, 2, 0)
        if options["planarconfig"] == "separate"
        else stored
    )
    image = read(written(stored, **options))
    assert np.abs(image.pixels.astype(int) - expected(values)).max() <= (dtype == "u2"), options
    assert (image.format, image.frames) == ("TIFF", 1)


@pytest.mark.parametrize("dtype", TYPES)
def test_bands_of_every_type_are_read(photo: np.ndarray, dtype: str) -> None:
    """Integers and floats of 8 to 64 bits, 1 to 20 bands, in a few layouts each."""
    for count in BANDS:
        every = layouts(dtype, count)
        for options in every[count :: len(every) // 3]:
            check(photo, dtype, count, options)


@pytest.mark.slow
@pytest.mark.parametrize("count", BANDS)
@pytest.mark.parametrize("dtype", TYPES)
def test_every_layout_is_read(photo: np.ndarray, dtype: str, count: int) -> None:
    """All compressions, strips and tiles, planes, predictors, byte orders, BigTIFF."""
    for options in layouts(dtype, count):
        check(photo, dtype, count, options)


@pytest.mark.parametrize("bits", [1, 2, 3, 4, 7, 10, 12, 14])
def test_packed_bits_are_read(photo: np.ndarray, bits: int) -> None:
    """The highest value becomes 255. Rows whose bits do not fill a byte, one and five bands."""
    white = (1 << bits) - 1
    for count in (1, 5):
        values = np.round(bands(photo, count, "u1")[:40, :129] * (white / 255)).astype(
            np.uint16 if bits > 8 else np.uint8
        )
        rows = values.reshape(40, -1)
        stream = np.unpackbits(rows.astype(">u2").view(np.uint8).reshape(40, -1, 2), axis=2)[:, :, 16 - bits :]
        packed = np.packbits(stream.reshape(40, -1), axis=1)
        tags = {"width": 129, "bits": bits, "samples": count, "format": 1}
        wanted = np.floor(values[:, :, : 3 if count > 2 else 1] * (255 / white) + 0.5).astype(np.uint8)
        image = read(tiff(packed, **tags))
        assert np.abs(image.pixels.astype(int) - wanted).max() <= 1
        if count > 1:
            assert image.notes == (RARE_LAYOUT, *((f"{bits}-bit colour scaled to 8 bits",) if bits > 8 else ()))


STRIPS, TILES, PLANES = {"rowsperstrip": 16}, {"tile": (32, 48)}, {"planarconfig": "separate"}


@pytest.mark.parametrize(
    ("codec", "count", "dtype", "places"),
    [
        ("jpeg", 2, "u1", (STRIPS, TILES)), ("jpeg", 5, "u1", (PLANES, PLANES | TILES)),
        ("jpeg2000", 5, "u2", (STRIPS, TILES, PLANES)), ("jpegxl", 5, "u2", (STRIPS, TILES, PLANES)),
        ("webp", 3, "u1", (STRIPS, TILES)),
        ("lerc", 1, "f8", (STRIPS, TILES)), ("lerc", 5, "f4", (STRIPS, TILES, PLANES)),
    ],
)  # fmt: skip
def test_strips_that_are_image_files_are_read(
    photo: np.ndarray, codec: str, count: int, dtype: str, places: tuple[dict[str, object], ...]
) -> None:
    """JPEG, JPEG 2000, JPEG XL, WebP and LERC, in strips, tiles and planes, with the bands that each can hold."""
    lossless = {"jpegxl": {"lossless": True}, "webp": {"lossless": True}}.get(codec)
    values = bands(photo, count, dtype)
    for place in places:
        stored = np.moveaxis(values, 2, 0) if "planarconfig" in place else values[:, :, 0] if count == 1 else values
        image = read(written(stored, compression=codec, compressionargs=lossless, **place))
        off = np.abs(image.pixels.astype(int) - expected(values))
        assert off.max() <= (60 if codec == "jpeg" else 1) and off.mean() < 2, place


def test_lerc_may_be_compressed_again(photo: np.ndarray) -> None:
    """With Deflate or ZSTD around it."""
    values = bands(photo, 3, "f4")
    for inner in ("deflate", "zstd"):
        data = written(values, photometric="rgb", compression="lerc", compressionargs={"compression": inner})
        assert np.array_equal(read(data).pixels, photo)


def test_jpeg_colours_are_converted_once(photo: np.ndarray) -> None:
    """YCbCr with and without subsampling inside JPEG; three bands without conversion; grey JPEG of 12 bits."""
    for options in ({"quality": 95}, {"quality": 95, "subsampling": 0}):
        file = io.BytesIO()
        PIL.Image.fromarray(photo).save(file, "TIFF", compression="jpeg", **options)
        assert np.abs(read(file.getvalue()).pixels.astype(int) - photo).mean() < 4
    strip = imagecodecs.jpeg8_encode(photo, 95, colorspace="RGB", outcolorspace="RGB")
    file = io.BytesIO()
    tifffile.imwrite(
        file, iter([strip]), shape=photo.shape, dtype=np.uint8, photometric="minisblack", planarconfig="contig",
        compression="jpeg", rowsperstrip=90, metadata=None,
    )  # fmt: skip
    assert np.abs(read(file.getvalue()).pixels.astype(int) - photo).mean() < 4
    high = bands(photo, 1, "u1")[:, :, 0].astype(np.uint16) * 16
    image = read(written(high, compression="jpeg"))
    assert np.abs(image.pixels[:, :, 0].astype(int) - high // 16).mean() < 3
    assert image.notes == ("12-bit grey scaled to 8 bits",)


def test_transparency_is_composited_on_white(photo: np.ndarray) -> None:
    """Of floats and 16 bits, straight and premultiplied, in planes and not, wherever the file names the band."""
    alpha = np.linspace(0, 1, 130, dtype=np.float32)[None].repeat(90, 0)
    wanted = photo * alpha[:, :, None] + np.array(BACKGROUND) * (1 - alpha[:, :, None])
    colours = photo / np.float32(255)
    for kind, values in ((2, colours), (1, colours * alpha[:, :, None])):
        for whole in (False, True):
            four = np.dstack([values, alpha])
            four = np.rint(four * 65535).astype(np.uint16) if whole else four
            planes = np.moveaxis(four, 2, 0)
            for stored, order in ((four, "contig"), (planes, "separate")):
                image = read(written(stored, photometric="rgb", planarconfig=order, extrasamples=(kind,)))
                off = np.abs(image.pixels.astype(int) - wanted)
                # dividing by a small alpha makes steps of 8 bits larger
                assert off.max() <= (4 if kind == 1 else 1.5), (kind, whole, order)
                assert image.notes[-1] == "transparency composited on white"
    five = np.dstack([colours, np.zeros((90, 130), np.float32), alpha])
    image = read(written(five, photometric="rgb", extrasamples=(0, 2)))
    assert np.abs(image.pixels.astype(int) - wanted).max() <= 1.5
    pair = np.dstack([colours[:, :, 0], alpha])
    image = read(written(pair, extrasamples=(2,)))
    assert np.abs(image.pixels[:, :, 1].astype(int) - wanted[:, :, 0]).max() <= 1.5


def test_white_is_zero(photo: np.ndarray) -> None:
    """Of floats, planes and bands."""
    unit = bands(photo, 1, "f8")[:, :, 0]
    assert np.array_equal(read(written(1 - unit, photometric="miniswhite")).pixels, as_rgb(photo[:, :, 0]))
    data = written(255 - np.moveaxis(photo[:, :, :2], 2, 0), photometric="miniswhite", planarconfig="separate")
    assert np.array_equal(read(data).pixels, as_rgb(photo[:, :, 0]))


def test_cmyk_and_lab_of_16_bits_and_in_planes(photo: np.ndarray) -> None:
    """CMYK equals that of 8 bits; LAB is within the rounding of its steps, with signed or shifted a and b."""
    inks = np.array(PIL.Image.fromarray(photo).convert("CMYK"))
    plain = read(written(inks, photometric="separated")).pixels
    for stored, order in ((inks.astype(np.uint16) * 257, "contig"), (np.moveaxis(inks, 2, 0), "separate")):
        image = read(written(stored, photometric="separated", planarconfig=order))
        assert np.abs(image.pixels.astype(int) - plain).max() <= 1
        assert "CMYK converted without an ICC profile" in image.notes
    profiled = written(inks.astype(np.uint16) * 257, photometric="separated", iccprofile=b"no profile")
    assert "broken ICC profile ignored" in read(profiled).notes  # so it is handed on
    lab = color.rgb2lab(photo)
    signed = (lab * [655.35, 256, 256]).round().clip(-32768, 65535).astype(np.int32).astype(np.uint16)
    for codes, photometric in ((signed, "cielab"), (signed ^ np.array([0, 32768, 32768], np.uint16), "icclab")):
        image = read(written(codes, photometric=photometric))
        assert np.abs(image.pixels.astype(int) - photo).mean() < 4
        assert "LAB converted to sRGB" in image.notes


def test_a_palette_of_16_bits(photo: np.ndarray) -> None:
    """The high byte of each colour."""
    table = np.random.default_rng(0).integers(0, 65536, (3, 65536)).astype(np.uint16)
    index = bands(photo, 1, "u2")[:, :, 0]
    image = read(written(index, photometric="palette", colormap=table))
    assert np.array_equal(image.pixels, (table >> 8).astype(np.uint8).T[index])


def test_orientations_1_to_8(photo: np.ndarray) -> None:
    """A float TIFF of each orientation is turned like the same TIFF of 8 bits, which Pillow reads; 9 counts as 1."""
    unit = bands(photo, 3, "f4")
    for turn in range(1, 10):
        tag = [(274, "H", 1, turn, True)]
        exact, image = (read(written(each, photometric="rgb", extratags=tag)) for each in (photo, unit))
        assert np.array_equal(exact.pixels, image.pixels)
        assert ("orientation outside 1-8 ignored" in image.notes) == (turn == 9)


def test_a_fill_order_of_2_reverses_the_bits(photo: np.ndarray) -> None:
    """Uncompressed and with LZW, of five bands."""
    five = bands(photo, 5, "u1")
    turned = np.array([int(f"{byte:08b}"[::-1], 2) for byte in range(256)], np.uint8)[five]
    tags = {"width": 130, "height": 90, "rows": 90, "samples": 5, "bits": 8}
    assert np.array_equal(read(tiff(turned.reshape(90, -1), {266: 2}, **tags)).pixels, photo)


def test_what_pillow_misreads_is_read_right(photo: np.ndarray) -> None:
    """Compressed big-endian floats and signed integers; signed bytes; two grey planes."""
    grey = photo[:, :, 0]
    for dtype in ("f4", "i2", "i4"):
        values = bands(photo, 1, dtype)
        data = written(values[:, :, 0].astype(f">{dtype}"), byteorder=">", compression="zlib")
        assert np.array_equal(read(data).pixels, expected(values))
    assert np.array_equal(read(written(bands(photo, 1, "i1")[:, :, 0])).pixels, expected(bands(photo, 1, "i1")))
    assert np.array_equal(read(written(np.stack([grey, 255 - grey]), planarconfig="separate")).pixels, as_rgb(grey))


def test_without_the_extra_the_error_names_it(photo: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    """Layouts that need imagecodecs are `unsupported`; those without compression, or with Deflate or LZMA, are read."""
    monkeypatch.setattr(tiff_codecs.importlib.util, "find_spec", lambda name: None)
    five = bands(photo, 5, "f4")
    for codec in ("lzw", "zstd", "packbits", "lerc", "jpegxl"):
        kind, message = refused(written(five, compression=codec))
        assert kind == "unsupported"
        assert message.endswith("pip install 'clipseg-cli[tiff]'")
    for codec in (None, "zlib", "lzma"):
        assert np.array_equal(read(written(five, compression=codec)).pixels, photo)


CODECS = (None, "zlib", "lzw", "packbits", "lzma", "zstd", "lerc", "jpeg", "jpeg2000", "jpegxl", "webp")


def cuttable(photo: np.ndarray, codec: str | None) -> bytes:
    """Returns a TIFF in a layout that Pillow cannot read, its directory before its pixels."""
    count, dtype = {"jpeg": (2, "u1"), "webp": (3, "u1"), "jpeg2000": (5, "u1"), "jpegxl": (5, "u1")}.get(
        str(codec), (5, "f4")
    )
    noise = np.random.default_rng(0).integers(0, 30, (90, 130, count))
    values = (bands(photo, count, "u1") // 2 + noise).astype(np.uint8)
    values = values if dtype == "u1" else (values / 255).astype(np.float32)
    return written(values, compression=codec, rowsperstrip=16)


@pytest.mark.parametrize("codec", CODECS)
def test_truncated_files_are_corrupt(photo: np.ndarray, codec: str | None) -> None:
    """Whatever the compression, cut at 30 places: never zeros in place of pixels."""
    data = cuttable(photo, codec)
    read(data)
    for end in range(len(data) // 30, len(data) - 1, len(data) // 30):
        assert refused(data[:end])[0] == "corrupt"


@pytest.mark.parametrize("codec", CODECS)
def test_a_short_strip_is_corrupt(photo: np.ndarray, codec: str | None) -> None:
    """A strip of which half the bytes count, of 0 bytes, at position 0, or that is missing."""
    data = cuttable(photo, codec)
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        counts, offsets = file.pages[0].tags[279], file.pages[0].tags[273]
        size = counts.value[2]
        form = "<I" if counts.dtype == 4 else "<H"
        at = counts.valueoffset + 2 * struct.calcsize(form)
        second, number = offsets.valueoffset + 4, offsets.offset + 4
    for broken in (
        overwritten(data, at, struct.pack(form, size // 2)),
        overwritten(data, at, struct.pack(form, 0)),
        overwritten(data, second, bytes(4)),
        overwritten(data, number, struct.pack("<I", 2)),
    ):
        assert refused(broken)[0] == "corrupt"


def test_noise_in_a_strip_is_an_error_or_pixels(photo: np.ndarray, capfd: pytest.CaptureFixture[str]) -> None:
    """Of each compression; nothing is printed."""
    random = np.random.default_rng(1)
    for codec in CODECS:
        data = cuttable(photo, codec)
        for _ in range(20):
            at = int(random.integers(300, len(data) - 40))
            broken = overwritten(data, at, random.bytes(40))
            try:
                read(broken)
            except Exception as error:
                assert type(error).__name__ == "ImageError", (codec, error)
    assert capfd.readouterr() == ("", "")


def bomb(codec: int, strip: bytes, width: int = 600, bands: int = 5) -> bytes:
    """Returns a TIFF of five bands of floats in one strip with these bytes."""
    tags = {
        "width": width,
        "height": width,
        "rows": width,
        "compression": codec,
        "bits": 32,
        "samples": bands,
        "format": 3,
    }
    return tiff(np.frombuffer(strip, np.uint8)[None], **tags)


@pytest.mark.slow
def test_a_bomb_takes_no_more_memory_than_its_strip() -> None:
    """256 MB of zeros in a strip of 7 MB, by each compression of bytes."""
    zeros = bytes(1 << 20)
    packer = zlib.compressobj(9)
    deflated = b"".join(packer.compress(zeros) for _ in range(256)) + packer.flush()
    packed = {
        8: deflated,
        50000: imagecodecs.zstd_encode(bytes(1 << 28)),
        34925: imagecodecs.lzma_encode(bytes(1 << 28)),
    }
    packed[5] = imagecodecs.lzw_encode(bytes(1 << 26)) if imagecodecs.LZW.available else b""
    packed[32773] = b"\x81\0" * (1 << 20)
    for codec, strip in packed.items():
        tracemalloc.start()
        try:
            read(bomb(codec, strip))
        except Exception as error:
            assert getattr(error, "kind", "") == "corrupt", codec
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 60_000_000 + 2 * len(strip), codec


def test_a_jpeg2000_of_many_tiles_is_refused(photo: np.ndarray) -> None:
    """OpenJPEG would take 400 MB for the 11,700 tiles of one pixel that a strip claims."""
    data = written(bands(photo, 5, "u1"), compression="jpeg2000", rowsperstrip=90)
    at = data.index(b"\xff\x4f\xff\x51") + 24
    kind, message = refused(overwritten(data, at, struct.pack(">II", 1, 1)))
    assert kind == "corrupt"
    assert "too many tiles" in message


def test_sizes_are_refused_before_memory_is_taken() -> None:
    """Pixels, bytes of a pixel, bytes of a strip, and tiles of claimed sizes."""
    small = np.zeros((1, 8), np.uint8)
    huge = {"bits": 64, "format": 3, "samples": 3}
    for tags, others in (
        ({"width": 20_000, "height": 20_000, "samples": 5}, {}),
        ({"width": 9_000, "height": 9_000, "rows": 9_000, **huge}, {}),
        ({"width": 4_000, "height": 4_000, "rows": 4_000, **huge, "samples": 60_000}, {}),
        ({"width": 8, "height": 1, "samples": 5}, {322: 20_000, 323: 20_000}),
    ):
        tracemalloc.start()
        kind, message = refused(tiff(small, others, **tags))
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert kind == "too_large"
        assert "--max-pixels" in message
        assert peak < 10_000_000
    data = tiff(small)
    one, many = (struct.pack("<HHII", 277, 4, 1, bands) for bands in (1, 0xFFFFFFFF))
    assert one in data and refused(data.replace(one, many))[0] == "corrupt"
