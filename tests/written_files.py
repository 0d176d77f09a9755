"""Image files of kinds that Pillow does not write: by their own libraries, or by hand."""

import io
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path

import imagecodecs
import numpy as np
import OpenEXR

FILES = Path(__file__).parent / "inputs" / "files"  # its README says how they were made


def scene(height: int = 48, width: int = 64) -> np.ndarray:
    """Returns the image, uint8 (H, W, 3), that the files in `FILES` show."""
    y, x = np.mgrid[:height, :width]
    return np.stack([x * 4, y * 5, 255 - x * 2 - y], axis=2).astype(np.uint8)


def heic(pixels: np.ndarray) -> bytes:
    """Returns a lossless HEIC of `scene`, whatever the pixels: of 8 x 8 if they are that many, otherwise of 64 x 64."""
    return (FILES / ("tiny.heic" if pixels.shape[0] == 8 else "plain.heic")).read_bytes()


def box(name: bytes, *parts: bytes) -> bytes:
    """Returns a box of an HEIF file."""
    body = b"".join(parts)
    return struct.pack(">I4s", 8 + len(body), name) + body


def heif(count: int, size: tuple[int, int], *turns: bytes, claimed: tuple[int, int] | None = None) -> bytes:
    """Returns a HEIC of plain.heic, `count` times side by side in a grid, with further properties of the whole.

    `size` is its width and height, and `claimed` what the grid says.
    """
    plain = heic(np.empty((64, 64)))
    start = plain.index(b"hvcC") - 4
    codec = plain[start : start + int.from_bytes(plain[start : start + 4], "big")]
    coded = plain[plain.index(b"mdat") + 4 :]
    grid = struct.pack(">BBBBHH", 0, 0, 0, count - 1, *(claimed or size))
    whole = count + 1  # the number of the item
    names = [(number, b"hvc1") for number in range(1, whole)] + [(whole, b"grid")]
    entries = [
        box(b"infe", struct.pack(">IHH4sx", 2 << 24 | (name == b"hvc1"), number, 0, name)) for number, name in names
    ]
    properties = [codec, *(box(b"ispe", struct.pack(">III", 0, *sides)) for sides in ((64, 64), size)), *turns]
    of_whole = bytes([3, *(0x80 | 4 + index for index in range(len(turns)))])
    associations = [struct.pack(">HBBB", number, 2, 0x81, 2) for number in range(1, whole)]
    associations.append(struct.pack(">HB", whole, len(of_whole)) + of_whole)

    def meta(at: int) -> bytes:
        places = [(number, at, len(coded)) for number in range(1, whole)] + [(whole, at + len(coded), len(grid))]
        items = b"".join(struct.pack(">HHHII", number, 0, 1, place, length) for number, place, length in places)
        return box(
            b"meta", bytes(4),
            box(b"hdlr", bytes(8), b"pict", bytes(13)),
            box(b"pitm", struct.pack(">IH", 0, whole)),
            box(b"iinf", struct.pack(">IH", 0, len(names)), *entries),
            box(b"iloc", struct.pack(">IHH", 0, 0x4400, len(names)), items),
            box(b"iref", bytes(4), box(b"dimg", struct.pack(f">HH{count}H", whole, count, *range(1, whole)))),
            box(b"iprp", box(b"ipco", *properties), box(b"ipma", struct.pack(">II", 0, len(names)), *associations)),
        )  # fmt: skip

    head = box(b"ftyp", b"heic", bytes(4), b"mif1heic")
    return head + meta(len(head) + len(meta(0)) + 8) + box(b"mdat", coded, grid)


def jxl(pixels: np.ndarray, **options: object) -> bytes:
    """Returns a JPEG XL; lossless, if no options say otherwise."""
    return bytes(imagecodecs.jpegxl_encode(pixels, **options or {"lossless": True}))


def jxl_of_jpeg(jpeg: bytes) -> bytes:
    """Returns a JPEG XL that holds a JPEG."""
    return bytes(imagecodecs.jpegxl_encode_jpeg(jpeg))


def exr(channels: dict[str, np.ndarray], **header: object) -> bytes:
    """Returns an EXR with these channels."""
    file = io.BytesIO()
    head = {"compression": OpenEXR.ZIP_COMPRESSION, "type": OpenEXR.scanlineimage, **header}
    OpenEXR.File(head, channels).write(file)
    return file.getvalue()


def light(pixels: np.ndarray) -> np.ndarray:
    """Returns the linear light, float64, of 8-bit sRGB."""
    value = pixels / 255
    return np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)


def hdr(pixels: np.ndarray) -> bytes:
    """Returns a Radiance HDR with flat lines, of 8-bit sRGB."""
    return bytes(imagecodecs.rgbe_encode(light(pixels).astype(np.float32), header=True, rle=False))


def pfm(pixels: np.ndarray) -> bytes:
    """Returns a colour PFM of 8-bit sRGB."""
    return b"PF\n%d %d\n-1.0\n" % pixels.shape[1::-1] + light(pixels)[::-1].astype("<f4").tobytes()


def psd(
    planes: Sequence[np.ndarray],
    mode: int = 3,
    *,
    version: int = 1,
    compression: int = 0,
    palette: bytes = b"",
    resources: Sequence[tuple[int, bytes]] = (),
    layers: int | None = None,
) -> bytes:
    """Returns a PSD or PSB of these planes, (H, W) of 8, 16 or 32 bits, or bool. `layers` says how many it has."""
    bits = 1 if planes[0].dtype == bool else planes[0].itemsize * 8
    wide = 8 if version == 2 else 4
    rows = [[bytes(row) for row in _rows(plane)] for plane in planes]
    if compression == 0:
        body = b"".join(row for plane in rows for row in plane)
    elif compression == 2:
        body = zlib.compress(b"".join(row for plane in rows for row in plane))
    else:
        packed = [_packed(row) for plane in rows for row in plane]
        body = b"".join(len(row).to_bytes(wide // 2, "big") for row in packed) + b"".join(packed)
    named = b"".join(
        b"8BIM" + struct.pack(">HHI", number, 0, len(data)) + data + b"\0" * (len(data) % 2)
        for number, data in resources
    )
    info = b"" if layers is None else (4).to_bytes(wide, "big") + struct.pack(">hH", layers, 0)
    height, width = planes[0].shape
    head = struct.pack(">4sH6xHIIHH", b"8BPS", version, len(planes), height, width, bits, mode)
    sections = b"".join(
        len(data).to_bytes(size, "big") + data for data, size in ((palette, 4), (named, 4), (info, wide))
    )
    return head + sections + compression.to_bytes(2, "big") + body


def _rows(plane: np.ndarray) -> np.ndarray:
    if plane.dtype == bool:
        return np.packbits(plane, axis=1)
    return plane.astype(plane.dtype.newbyteorder(">")).view(np.uint8).reshape(len(plane), -1)


def _packed(row: bytes) -> bytes:
    """Returns a row as PackBits: runs where a byte comes twice, else single bytes."""
    packed, at = bytearray(), 0
    while at < len(row):
        count = 1
        while count < 128 and row[at : at + 1] == row[at + count : at + count + 1]:
            count += 1
        packed += bytes((257 - count if count > 1 else 0, row[at]))
        at += count
    return bytes(packed)
