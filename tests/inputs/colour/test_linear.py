"""Scene-linear images: EXR, Radiance HDR and PFM become sRGB by the standard's formula, and only the shown part."""

import io

import imagecodecs
import numpy as np
import OpenEXR
import pytest

from clipseg_cli.inputs.colour import linear
from image_files import overwritten, read, refused
from written_files import FILES, exr, hdr, light, pfm

REC2020 = (0.708, 0.292, 0.170, 0.797, 0.131, 0.046, 0.3127, 0.3290)
# Rec. 2020 to Rec. 709, from ITU-R BT.2087
TO_REC709 = np.array([[1.6605, -0.5876, -0.0728], [-0.1246, 1.1329, -0.0083], [-0.0182, -0.1006, 1.1187]])


def shown(values: np.ndarray) -> np.ndarray:
    """Returns the 8-bit sRGB of light, in float64, as IEC 61966-2-1 says."""
    values = np.nan_to_num(values.astype(np.float64), nan=0, posinf=1, neginf=0).clip(0, 1)
    return np.where(values <= 0.0031308, values * 12.92, 1.055 * values ** (1 / 2.4) - 0.055) * 255


def off(pixels: np.ndarray, expected: np.ndarray) -> float:
    """Returns the largest difference, in levels."""
    return float(np.abs(pixels.astype(float) - expected).max())


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_light_is_shown_by_the_formula_of_srgb(dtype: type) -> None:
    """Within rounding, for light from 0 to 2. Negative light and NaN are black, infinite light is white."""
    ramp = np.linspace(0, 2, 3000).reshape(25, 40, 3).astype(dtype)
    ramp[0, :3] = [[-1, 0, 1], [np.nan, np.nan, 0.5], [np.inf, -np.inf, 5]]
    image = read(exr({"RGB": ramp}))
    assert off(image.pixels, shown(ramp)) <= 0.51
    assert image.pixels[0, :3].tolist() == [[0, 0, 255], [0, 0, 188], [255, 0, 255]]
    assert (image.format, image.frames, image.notes) == ("EXR", 1, ())


@pytest.mark.parametrize("name", ["NO", "RLE", "ZIPS", "ZIP", "PIZ", "PXR24", "B44", "DWAA"])
def test_every_compression_is_read(name: str, photo: np.ndarray) -> None:
    """Scan lines and tiles; lossy ones stay close."""
    for layout in ({"type": OpenEXR.scanlineimage}, {"type": OpenEXR.tiledimage, "tiles": OpenEXR.TileDescription()}):
        compression = getattr(OpenEXR, f"{name}_COMPRESSION")
        image = read(exr({"RGB": light(photo).astype(np.float16)}, compression=compression, **layout))
        assert np.abs(image.pixels.astype(int) - photo).mean() < (2 if name in ("B44", "DWAA") else 0.1)


def window(*sides: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns a window as OpenEXR takes it: left, top, right, bottom."""
    return np.array(sides[:2], np.int32), np.array(sides[2:], np.int32)


def test_the_display_window_is_shown(photo: np.ndarray) -> None:
    """It has the size that viewers show. Pixels outside are cut. What is not stored is black; with an alpha, white."""
    values = light(photo).astype(np.float32)
    windows = {"dataWindow": window(10, -20, 139, 69), "displayWindow": window(0, 0, 99, 99)}
    pixels = read(exr({"RGB": values}, **windows)).pixels
    assert pixels.shape == (100, 100, 3)
    assert off(pixels[:70, 10:], photo[20:, :90]) <= 1
    assert not pixels[70:].any() and not pixels[:, :10].any()
    values = np.dstack([values, np.ones((90, 130), np.float32)])
    image = read(exr({"RGBA": values}, **windows))
    assert off(image.pixels[:70, 10:], photo[20:, :90]) <= 1
    assert (image.pixels[70:] == 255).all()
    assert image.notes == ("transparency composited on white",)


def test_premultiplied_colour_is_composited_in_light() -> None:
    """Light of half a red over white; an alpha of 0 everywhere is ignored."""
    half = np.tile(np.float32([0.5, 0, 0, 0.5]), (4, 4, 1))
    assert off(read(exr({"RGBA": half})).pixels, shown(np.array([1, 0.5, 0.5]))) <= 1
    half[:, :, 3] = 0
    assert off(read(exr({"RGBA": half})).pixels, shown(np.array([0.5, 0, 0]))) <= 1


def test_the_channels_that_show_the_image_are_found(photo: np.ndarray) -> None:
    """Grey, the main layer or else the first, the first part; a depth alone is unsupported and named."""
    values = light(photo).astype(np.float32)
    red, green, blue = np.ascontiguousarray(np.moveaxis(values, 2, 0))
    grey = read(exr({"Y": green})).pixels
    assert off(grey, photo[:, :, 1:2]) <= 1
    layers = {"ao.R": blue, "ao.G": blue, "ao.B": blue, "view.Combined.R": red, "view.Combined.G": green}
    image = read(exr({**layers, "view.Combined.B": blue, "Z": red * 1000}))
    assert off(image.pixels, photo) <= 1
    assert image.notes == ("layer view.Combined",)
    assert read(exr({name: layers[name] for name in ("ao.R", "ao.G", "ao.B")})).notes == ("layer ao",)
    file = io.BytesIO()
    head = {"compression": OpenEXR.ZIP_COMPRESSION, "type": OpenEXR.scanlineimage}
    OpenEXR.File([OpenEXR.Part(dict(head), {"RGB": values}, "a"), OpenEXR.Part(dict(head), {"Z": red}, "b")]).write(
        file
    )
    assert off(read(file.getvalue()).pixels, photo) <= 1
    kind, message = refused(exr({"Z": red}))
    assert kind == "unsupported"
    assert "channels Z" in message


def test_luminance_and_chroma_are_read() -> None:
    """Y with RY and BY at half the size, as ImageMagick writes them, gives the colour that was written."""
    pixels = read((FILES / "chroma.exr").read_bytes()).pixels
    assert pixels.shape == (20, 30, 3)
    assert off(pixels, shown(np.array([0.6, 0.3, 0.1]))) < 1.5  # of half precision


def test_other_primaries_are_converted(photo: np.ndarray) -> None:
    """Rec. 2020 by the matrix of ITU-R BT.2087, in EXR and Radiance; primaries without meaning count as Rec. 709."""
    values = light(photo)
    expected = shown(values @ TO_REC709.T)
    image = read(exr({"RGB": values.astype(np.float32)}, chromaticities=REC2020))
    assert off(image.pixels, expected) <= 2
    assert image.notes == ("primaries converted to sRGB",)
    named = hdr(photo).replace(b"\nFORMAT", b"\nPRIMARIES= " + " ".join(map(str, REC2020)).encode() + b"\nFORMAT")
    assert np.abs(read(named).pixels - expected).mean() < 1
    zeros = hdr(photo).replace(b"\nFORMAT", b"\nPRIMARIES=0 0 0 0 0 0 0 0\nFORMAT")
    assert np.array_equal(read(zeros).pixels, read(hdr(photo)).pixels)
    for strange in ((0.0,) * 8, (np.nan,) * 8, (np.inf,) * 8, (0.3,) * 8):
        assert linear.to_rec709(strange) is None
        assert np.isfinite(linear.luminance(strange)).all()


def test_a_deep_or_hostile_exr_is_refused_from_its_header(photo: np.ndarray) -> None:
    """A deep image, an empty window, a huge tile, and channels that fill the memory."""
    data = exr({"RGB": light(photo).astype(np.float16)})
    assert refused(overwritten(data, 5, b"\x08"))[0] == "unsupported"
    at = data.index(b"dataWindow\0box2i\0") + 21
    assert refused(overwritten(data, at, np.array([5, 0, 4, 9], "<i4").tobytes()))[0] == "corrupt"
    layout = {"type": OpenEXR.tiledimage, "tiles": OpenEXR.TileDescription()}
    tiled = exr({"RGB": light(photo).astype(np.float16)}, **layout)
    at = tiled.index(b"tiledesc\0") + 13
    kind, message = refused(overwritten(tiled, at, np.array([1 << 20, 1 << 20], "<u4").tobytes()))
    assert kind == "too_large"
    assert "tile" in message


def coded(channel: np.ndarray) -> bytes:
    """Returns a channel of a scan line in runs of at most 127 and in literal bytes."""
    packed, at = b"", 0
    while at < len(channel):
        same = int(np.argmin(np.append(channel[at : at + 127] == channel[at], False)))
        packed += bytes((128 + same, channel[at])) if same > 2 else bytes((1, channel[at]))
        at += same if same > 2 else 1
    return packed


def radiance(pixels: np.ndarray, size: bytes, lines: bytes) -> bytes:
    """Returns a Radiance HDR with this line of its size."""
    return b"#?RADIANCE\n# made by hand\nFORMAT=32-bit_rle_rgbe\nEXPOSURE=2.0\n\n" + size + b"\n" + lines


def test_radiance_equals_another_decoder(photo: np.ndarray) -> None:
    """Flat lines, lines coded by channel, and pixels that are repeated give what imagecodecs decodes."""
    flat = hdr(photo)
    values = imagecodecs.rgbe_decode(flat)
    expected = shown(values)
    assert off(read(flat).pixels, expected) <= 0.51
    rgbe = rgbe_of(photo)
    by_channel = b"".join(bytes((2, 2, 0, 130)) + b"".join(coded(channel) for channel in line.T) for line in rgbe)
    image = read(radiance(photo, b"-Y 90 +X 130", by_channel))
    assert off(image.pixels, shown(decoded(rgbe))) <= 0.51
    assert (image.format, image.notes) == ("HDR", ())
    narrow = rgbe[:, :5]
    assert off(read(radiance(photo, b"-Y 90 +X 5", narrow.tobytes())).pixels, shown(decoded(narrow))) <= 0.51
    repeated = b"".join(line[0].tobytes() + b"\1\1\1\x7f" + line[0].tobytes() * 2 for line in rgbe)
    image = read(radiance(photo, b"-Y 90 +X 130", repeated))
    assert off(image.pixels, shown(decoded(np.repeat(rgbe[:, :1], 130, axis=1)))) <= 0.51


def rgbe_of(pixels: np.ndarray) -> np.ndarray:
    """Returns mantissas and exponents, uint8 (H, W, 4), of 8-bit sRGB."""
    values = light(pixels)
    exponent = np.frexp(values.max(axis=2))[1]
    mantissas = np.floor(values * np.exp2(8.0 - exponent)[:, :, None]).clip(0, 255)
    return np.dstack([mantissas, exponent + 128]).astype(np.uint8)


def decoded(rgbe: np.ndarray) -> np.ndarray:
    """Returns light, float64 (H, W, 3), of mantissas and exponents."""
    return rgbe[:, :, :3] * np.exp2(rgbe[:, :, 3:].astype(float) - 136)


@pytest.mark.parametrize("size", ["-Y +X", "-Y -X", "+Y +X", "+Y -X", "-X +Y", "-X -Y", "+X +Y", "+X -Y"])
def test_radiance_is_upright_in_each_orientation(size: str, photo: np.ndarray) -> None:
    """The first axis is that of the lines: -Y goes down, +X to the right."""
    first, second = size.split()
    lines = photo if first[1] == "Y" else photo.swapaxes(0, 1)
    lines = lines[::-1] if first in ("+Y", "-X") else lines
    lines = lines[:, ::-1] if second in ("+Y", "-X") else lines
    text = f"{first} {lines.shape[0]} {second} {lines.shape[1]}".encode()
    pixels = read(radiance(photo, text, rgbe_of(lines).tobytes())).pixels
    assert off(pixels, shown(decoded(rgbe_of(photo)))) <= 0.51


def test_radiance_in_xyz_is_converted(photo: np.ndarray) -> None:
    """The XYZ of sRGB gives sRGB, within the precision of the format."""
    to_xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    data = imagecodecs.rgbe_encode((light(photo) @ to_xyz.T).astype(np.float32), header=True, rle=False)
    image = read(bytes(data).replace(b"rle_rgbe", b"rle_xyze"))
    assert np.abs(image.pixels.astype(int) - photo).mean() < 2
    assert image.notes == ("XYZ converted to sRGB",)


def test_colour_pfm_is_read_in_both_byte_orders(photo: np.ndarray) -> None:
    """Rows come from the bottom to the top."""
    assert off(read(pfm(photo)).pixels, photo) <= 1
    values = light(photo)[::-1].astype(">f4").tobytes()
    assert off(read(b"PF\n130 90\n1.0\n" + values).pixels, photo) <= 1
    assert refused(b"PF\n130 90\n1.0\n" + values[:-1])[0] == "corrupt"
    assert refused(b"PF\n130 90\n1.0\n" + values, max_pixels=130 * 90 - 1)[0] == "too_large"
