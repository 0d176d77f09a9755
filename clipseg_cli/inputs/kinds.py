"""Kinds of image files: their extensions, and the first bytes by which a file is recognised."""

import re

SNIFF = 64  # bytes that decide a file's kind: enough for a PNM header with a comment

# Extensions that a walk takes. HEIC cannot be decoded, but phones write it: a failed record is better than silence.
# fmt: off
EXTENSIONS = frozenset((
    ".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".apng", ".gif", ".webp", ".bmp", ".tif", ".tiff",
    ".avif", ".avifs", ".heic", ".heif", ".hif", ".jp2", ".j2k", ".jpf", ".jpx", ".j2c", ".jpc",
    ".pbm", ".pgm", ".ppm", ".pnm", ".pfm",
))
# fmt: on

# First bytes of the kinds that have a decoder in `decoders.DECODERS`.
MAGIC = {
    "JPEG": rb"\xff\xd8\xff",
    "PNG": rb"\x89PNG\r\n\x1a\n",
    "GIF": rb"GIF8[79]a",
    "WEBP": rb"RIFF.{4}WEBP",
    "BMP": rb"BM.{12}[\x0c\x10\x28\x34\x38\x40\x6c\x7c]\0\0\0",  # with its header size: a folder may be called "BMW"
    "TIFF": rb"II[*+]\0(?!\x10\0\0\0CR)|MM\0\*",
    "AVIF": rb".{4}ftyp(?:avi[fs]|m[is]f1.{4}(?:.{4})*?avi[fs])",
    "JPEG2000": rb"\0\0\0\x0cjP  \r\n\x87\n|\xff\x4f\xff\x51",
    "PPM": rb"P[1-6]\s(?:#|\s*\d+\s+\d+\s)|Pf\s+\d+\s+\d+\s",
}
# First bytes of kinds that have none; they are recognised so that an error can name them.
FOREIGN_MAGIC = {
    "HEIC": rb".{4}ftyp(?:hei[cmsx]|hev[cmsx]|m[is]f1)",
    "JPEG XL": rb"\xff\x0a|\0\0\0\x0cJXL ",
    "PSD": rb"8BPS",
    "PDF": rb"%PDF-",
    "EPS": rb"%!PS|\xc5\xd0\xd3\xc6",
    "ICO": rb"\0\0\x01\0",
    "DDS": rb"DDS ",
    "QOI": rb"qoif",
    "BLP": rb"BLP[12]",
    "FITS": rb"SIMPLE  =",
    "CR2": rb"II\*\0\x10\0\0\0CR",
    "BigTIFF of big-endian order": rb"MM\0\+",  # Pillow reads it as little-endian
    "PFM in colour": rb"PF\s+\d+\s+\d+\s",
}
_PATTERNS = [(name, re.compile(magic, re.DOTALL)) for name, magic in {**MAGIC, **FOREIGN_MAGIC}.items()]


def sniff(head: bytes) -> str | None:
    """Returns the kind of a file, such as "JPEG" or "HEIC", from its first `SNIFF` bytes; None if it is no image."""
    return next((name for name, pattern in _PATTERNS if pattern.match(head)), None)
