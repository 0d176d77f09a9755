"""Kinds of image files: how each is recognised, and which decoder reads it. `KINDS` is the only list of them."""

import re
from dataclasses import dataclass

SNIFF = 64  # bytes that decide a file's kind: enough for a PNM header with a comment


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of image file."""

    magic: bytes  # a regular expression of the first bytes
    extensions: tuple[str, ...] = ()  # that a walk takes
    decoder: str = ""  # a module of `decoders`; "": files of this kind are refused, and the error names the kind


# The first kind whose magic matches wins. HEIC has extensions without a decoder, since phones write it: a failed
# record is better than silence.
KINDS = {
    "JPEG": Kind(rb"\xff\xd8\xff", (".jpg", ".jpeg", ".jpe", ".jfif", ".mpo"), "jpeg"),
    "PNG": Kind(rb"\x89PNG\r\n\x1a\n", (".png", ".apng"), "png"),
    "GIF": Kind(rb"GIF8[79]a", (".gif",), "pillow"),
    "WEBP": Kind(rb"RIFF.{4}WEBP", (".webp",), "pillow"),
    # with the size of its header: a folder may be called "BMW"
    "BMP": Kind(rb"BM.{12}[\x0c\x10\x28\x34\x38\x40\x6c\x7c]\0\0\0", (".bmp",), "pillow"),
    "TIFF": Kind(rb"II[*+]\0(?!\x10\0\0\0CR)|MM\0\*", (".tif", ".tiff"), "tiff"),
    "AVIF": Kind(rb".{4}ftyp(?:avi[fs]|m[is]f1.{4}(?:.{4})*?avi[fs])", (".avif", ".avifs"), "pillow"),
    "JPEG2000": Kind(
        rb"\0\0\0\x0cjP  \r\n\x87\n|\xff\x4f\xff\x51", (".jp2", ".j2k", ".jpf", ".jpx", ".j2c", ".jpc"), "jpeg2000"
    ),
    "PPM": Kind(rb"P[1-6]\s(?:#|\s*\d+\s+\d+\s)|Pf\s+\d+\s+\d+\s", (".pbm", ".pgm", ".ppm", ".pnm", ".pfm"), "pillow"),
    "HEIC": Kind(rb".{4}ftyp(?:hei[cmsx]|hev[cmsx]|m[is]f1)", (".heic", ".heif", ".hif")),
    "JPEG XL": Kind(rb"\xff\x0a|\0\0\0\x0cJXL "),
    "PSD": Kind(rb"8BPS"),
    "PDF": Kind(rb"%PDF-"),
    "EPS": Kind(rb"%!PS|\xc5\xd0\xd3\xc6"),
    "ICO": Kind(rb"\0\0\x01\0"),
    "DDS": Kind(rb"DDS "),
    "QOI": Kind(rb"qoif"),
    "BLP": Kind(rb"BLP[12]"),
    "FITS": Kind(rb"SIMPLE  ="),
    "CR2": Kind(rb"II\*\0\x10\0\0\0CR"),
    "big-endian BigTIFF": Kind(rb"MM\0\+"),  # Pillow reads it as little-endian
    "colour PFM": Kind(rb"PF\s+\d+\s+\d+\s"),
}
DECODABLE = tuple(name for name, kind in KINDS.items() if kind.decoder)
EXTENSIONS = frozenset(extension for kind in KINDS.values() for extension in kind.extensions)
_PATTERNS = [(name, re.compile(kind.magic, re.DOTALL)) for name, kind in KINDS.items()]


def sniff(head: bytes) -> str | None:
    """Returns the kind of a file, a key of KINDS, from its first `SNIFF` bytes; None if it is no known image."""
    return next((name for name, pattern in _PATTERNS if pattern.match(head)), None)
