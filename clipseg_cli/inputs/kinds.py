"""Kinds of image and video files: how each is recognised, and which decoder reads it. `KINDS` is the only list."""

import functools
import importlib.util
import re
from dataclasses import dataclass

SNIFF = 64  # bytes that decide a file's kind: enough for a PNM header with a comment


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of file."""

    magic: bytes  # a regular expression of the first bytes
    extensions: tuple[str, ...] = ()  # that a walk takes
    decoder: str = ""  # a module of `decoders`; "": files of this kind are refused, and the error names the kind
    extra: str = ""  # the extra of this program that the decoder needs
    packages: tuple[str, ...] = ()  # the modules that this extra installs
    video: bool = False
    document: bool = False  # pages of text and drawings: a walk counts them

    @property
    def installed(self) -> bool:
        """Whether the packages of the decoder can be imported."""
        return all(importlib.util.find_spec(name) is not None for name in self.packages)


_video = functools.partial(Kind, decoder="video", extra="video", packages=("av",), video=True)
# Extensions of camera raw files.
RAW = (
    ".dng", ".nef", ".nrw", ".cr2", ".cr3", ".crw", ".arw", ".sr2", ".srf", ".raf", ".orf", ".rw2", ".rwl", ".pef",
    ".srw", ".3fr", ".fff", ".iiq", ".erf", ".kdc", ".dcr", ".mef", ".mos", ".mrw", ".x3f",
)  # fmt: skip
# The first kind whose magic matches wins.
KINDS = {
    "JPEG": Kind(rb"\xff\xd8\xff", (".jpg", ".jpeg", ".jpe", ".jfif", ".mpo"), "jpeg"),
    "PNG": Kind(rb"\x89PNG\r\n\x1a\n", (".png", ".apng"), "png"),
    "GIF": Kind(rb"GIF8[79]a", (".gif",), "pillow"),
    "WEBP": Kind(rb"RIFF.{4}WEBP", (".webp",), "pillow"),
    # with the size of its header: a folder may be called "BMW"
    "BMP": Kind(rb"BM.{12}[\x0c\x10\x28\x34\x38\x40\x6c\x7c]\0\0\0", (".bmp",), "pillow"),
    # many camera raw files are TIFFs too: `decoders.tiff` passes them on
    "TIFF": Kind(rb"II[*+]\0(?!\x10\0\0\0CR)|MM\0[*+]", (".tif", ".tiff"), "tiff"),
    "AVIF": Kind(rb".{4}ftyp(?:avi[fs]|m[is]f1.{4}(?:.{4})*?avi[fs])", (".avif", ".avifs"), "pillow"),
    "JPEG2000": Kind(
        rb"\0\0\0\x0cjP  \r\n\x87\n|\xff\x4f\xff\x51", (".jp2", ".j2k", ".jpf", ".jpx", ".j2c", ".jpc"), "jpeg2000"
    ),
    "PPM": Kind(rb"P[1-6]\s(?:#|\s*\d+\s+\d+\s)|Pf\s+\d+\s+\d+\s", (".pbm", ".pgm", ".ppm", ".pnm", ".pfm"), "pnm"),
    "HEIC": Kind(rb".{4}ftyp(?:hei[cmsx]|hev[cmsx]|m[is]f1)", (".heic", ".heif", ".hif"), "heic", "heic", ("pi_heif",)),
    "RAW": Kind(
        rb"II\*\0\x10\0\0\0CR|II\x1a\0\0\0HEAPCCDR|.{4}ftypcrx |FUJIFILMCCD-RAW|IIR[OS]|MMOR|IIU\0|FOVb|\0MRM",
        RAW,
        "raw",
        "raw",
        ("rawpy",),
    ),
    "JPEG XL": Kind(rb"\xff\x0a|\0\0\0\x0cJXL ", (".jxl",), "jxl", "jxl", ("pillow_jxl",)),
    "PSD": Kind(rb"8BPS\0", (".psd", ".psb"), "psd"),
    "ICO": Kind(rb"\0\0\x01\0[^\0]\0.{3}[\0\xff][\0\x01]\0", (".ico",), "ico"),
    "DDS": Kind(rb"DDS \x7c\0\0\0", (".dds",), "dds"),
    "QOI": Kind(rb"qoif\0", (".qoi",), "qoi"),
    # by its first bytes alone: maps and medical images have text files named .hdr
    "HDR": Kind(rb"#\?(?:RADIANCE|RGBE)", decoder="hdr"),
    "PFM": Kind(rb"PF\s+\d+\s+\d+\s", (".pfm",), "pfm"),  # colour; PPM has the grey one
    "EXR": Kind(rb"\x76\x2f\x31\x01", (".exr",), "exr", "exr", ("OpenEXR",)),
    "MP4": _video(
        # a size of less than 16 MiB: text may begin with "The free"
        rb".{4}(?:ftyp(?:iso|mp4|avc1|qt  |M4V|3g[p2]|dash|f4v |MSNV|XAVC|mmp4)|mdat)|\0.{3}(?:moov|wide|free|skip)",
        (".mp4", ".m4v", ".mov", ".3gp"),
    ),
    "Matroska": _video(rb"\x1aE\xdf\xa3", (".mkv", ".webm")),
    "AVI": _video(rb"RIFF.{4}AVI ", (".avi",)),
    "MPEG": _video(rb"\0\0\x01[\xba\xb3]|(?:.{4})?G@[\0\x11][\x10-\x1f]", (".mpg", ".mpeg", ".mts", ".m2ts")),
    "PDF": Kind(rb"%PDF-", document=True),
    "EPS": Kind(rb"%!PS|\xc5\xd0\xd3\xc6", document=True),
    "BLP": Kind(rb"BLP[12]", (".blp",)),
    "FITS": Kind(rb"SIMPLE  =", (".fits", ".fts")),
    "XCF": Kind(rb"gimp xcf ", (".xcf",)),
    # the last one, since it has no magic bytes: an image type with its bits per pixel, sides above 0, zeros
    "TGA": Kind(
        rb"""(?x) .
        (?: \x01 [\x01\x09] .. (?!\0\0).. [\x0f\x10\x18\x20] .{4} (?!\0\0).. (?!\0\0).. \x08
          | \0 (?: [\x02\x0a] \0{5} .{4} (?!\0\0).. (?!\0\0).. [\x10\x18\x20]
               | [\x03\x0b] \0{5} .{4} (?!\0\0).. (?!\0\0).. [\x08\x10] ) )
        [\x00\x01\x08\x10\x11\x18\x20\x21\x28\x30\x31\x38]""",
        (".tga",),
        "tga",
    ),
}
DECODABLE = tuple(name for name, kind in KINDS.items() if kind.decoder)
EXTENSIONS = frozenset(extension for kind in KINDS.values() for extension in kind.extensions)
# Of images that can be read, for folders of ground truth and of exemplars.
STILL = frozenset(ending for kind in KINDS.values() if kind.decoder and not kind.video for ending in kind.extensions)
_PATTERNS = [(name, re.compile(kind.magic, re.DOTALL)) for name, kind in KINDS.items()]


def sniff(head: bytes) -> str | None:
    """Returns the kind of a file, a key of KINDS, from its first `SNIFF` bytes; None if it is no known kind."""
    return next((name for name, pattern in _PATTERNS if pattern.match(head)), None)


def pip_line(extra: str) -> str:
    """Returns the command that installs an extra of this program."""
    return f"pip install 'clipseg-cli[{extra}]'"
