"""What one file is: by its name, by its first bytes, and by the system's refusal of it. Standard library only.

And what JPEG, PNG and JPEG 2000 say of themselves that decoders do not hear: that they are not whole.
"""

import errno
import hashlib
import itertools
import os
import re
import struct
import zlib
from collections.abc import Callable, Iterable, Iterator

from clipseg_cli.errors import ImageError, Stage

URL = re.compile(r"[a-z][a-z0-9+.-]+://")  # two letters at least: one is a drive
PIECE = 65_536  # bytes that are inflated at once
SNIFF = 64  # bytes that decide what a file is: enough for a PNM header with a comment

# Extensions a walk takes. HEIC is not read, but it is what telephones write: a failed record beats silence.
# fmt: off
EXTENSIONS = frozenset((
    ".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".apng", ".gif", ".webp", ".bmp", ".tif", ".tiff",
    ".avif", ".avifs", ".heic", ".heif", ".hif", ".jp2", ".j2k", ".jpf", ".jpx", ".j2c", ".jpc",
    ".pbm", ".pgm", ".ppm", ".pnm", ".pfm",
))
# fmt: on

# First bytes of the containers that `images.load` reads, then of those it only knows by name.
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
    "BigTIFF of big-endian order": rb"MM\0\+",  # Pillow takes it for the other
    "PFM in colour": rb"PF\s+\d+\s+\d+\s",
}
_PATTERNS = [(name, re.compile(magic, re.DOTALL)) for name, magic in {**MAGIC, **FOREIGN_MAGIC}.items()]


def is_url(path: str) -> bool:
    """Whether a path names something that is no file of this machine, like s3://bucket/a.jpg."""
    return URL.match(path) is not None


def local(path: str) -> str:
    """The path that a file:// URL names; any other path as it is."""
    return path.removeprefix("file://")


def sniff(head: bytes) -> str | None:
    """Names the container of a file's first `SNIFF` bytes ("JPEG", "HEIC"); None where they begin no known image."""
    return next((name for name, pattern in _PATTERNS if pattern.match(head)), None)


def stem(name: str) -> str:
    """The file name without a recognised extension; a name without one is its own stem."""
    root, extension = os.path.splitext(name)
    return root if extension.lower() in EXTENSIONS else name


def output_names(names: Iterable[str]) -> dict[str, str]:
    """Gives every file name of one directory an output name, and no two the same.

    It is the stem, or the full name where another file has the same stem or has that stem as its full output name.
    """
    names = list(names)
    whole = keeps_extension(names)
    return {name: name if name in whole else stem(name) for name in names}


def keeps_extension(names: Iterable[str]) -> frozenset[str]:
    """The names that keep their extension in `output_names`."""
    names = sorted(set(names), key=len)
    stems = sorted(stem(name) for name in names)  # equal ones meet; a list is half the size of a set
    shared = {one for one, other in itertools.pairwise(stems) if one == other}
    whole: set[str] = set()
    for name in names:  # shortest first: a stem that is another's full output name is shorter than its own name
        if stem(name) in shared or stem(name) in whole:
            whole.add(name)
    return frozenset(whole)


def apart(output: str, name: str) -> str:
    """Another output path for the image of this name, where an earlier image of the run has the path."""
    return f"{output}~{hashlib.sha256(os.fsencode(name)).hexdigest()[:8]}"


def fault(error: OSError | ValueError, stage: Stage) -> ImageError:
    """Says what the operating system's refusal of a path means for its record."""
    code = getattr(error, "errno", None)
    if not isinstance(error, OSError):  # open() and stat() refuse a NUL byte so
        return ImageError("vanished", stage, f"not a path ({error}); for a NUL-separated list use --null")
    if isinstance(error, (FileNotFoundError, NotADirectoryError)):
        return ImageError("vanished", stage, "no such file: deleted since it was listed, mistyped, or a dangling link")
    if code == errno.ELOOP:
        return ImageError("vanished", stage, "a symbolic link that leads to itself")
    if isinstance(error, IsADirectoryError) or code in (errno.ENXIO, errno.ENODEV):
        return not_a_file(stage)
    if code == errno.ENAMETOOLONG:
        return ImageError("permission", stage, "path too long for this system; run from a folder nearer to it")
    if code == errno.EIO:
        return ImageError("permission", stage, f"could not be read ({error.strerror}); the next run tries it again")
    return ImageError("permission", stage, f"may not be read ({error.strerror}); see its mode or policy")


def not_a_file(stage: Stage) -> ImageError:
    """The record of a folder, FIFO, socket or device where a file was named."""
    return ImageError("not_a_file", stage, "not a regular file (a folder, FIFO, socket or device); it was not opened")


def identity(path: str, checksum: bool = False) -> list[int | str]:
    """What tells one state of a file from another: size and mtime in nanoseconds, or size and sha256 of the content.

    Raises OSError or ValueError where the file cannot be read.
    """
    info = os.stat(path)
    if not checksum:
        return [info.st_size, info.st_mtime_ns]
    with open(path, "rb") as file:
        return [info.st_size, hashlib.file_digest(file, "sha256").hexdigest()]


def part(output: str) -> int:
    """A number that depends on an output path alone: the same on every machine, in every run, in every order."""
    return int.from_bytes(hashlib.sha256(os.fsencode(output)).digest()[:8], "big")


def unread(form: str, data: bytes) -> str:
    """The kind of a JPEG or PNG that no decoder here reads, or ""."""
    if form == "PNG":
        return "Apple's CgBI" if data[12:16] == b"CgBI" else ""
    for marker in _markers(data) if form == "JPEG" else ():
        if marker == 0xF7:
            return "JPEG-LS"
        if marker in _FRAMES or marker == 0xDA:  # SOS
            return "JPEG without loss or in layers" if marker in _FRAMES - _READ else ""
    return ""


def _torn_jpeg(data: bytes, pixels: int) -> str:
    """libjpeg fills gaps with grey and says nothing."""
    scanned, huffman = False, True
    for marker in _markers(data):
        if marker == 0xD9:  # EOI
            # A block of 8 x 8 pixels takes one bit at least: the Huffman code of its first coefficient.
            return "too few bytes for its size" if huffman and pixels > len(data) * 8 * 64 else ""
        if scanned and marker not in _BETWEEN_SCANS:
            return f"marker ff{marker:02x} in the midst of its pixels"
        scanned = scanned or marker == 0xDA
        huffman = huffman and marker not in (0xC9, 0xCA)  # SOF of arithmetic coding
    return "cut short: it has no end marker"


def _markers(data: bytes) -> Iterator[int]:
    """The second bytes of a JPEG's markers, to that of its end."""
    position, marker = 2, 0
    while marker != 0xD9 and (found := _MARKER.search(data, position)):
        marker, position = data[found.end() - 1], found.end()
        if marker not in (0x01, 0xD8):  # TEM and SOI have no length
            position += int.from_bytes(data[position : position + 2], "big")
        yield marker


# In a scan ff00 is a data byte, ffd0-ffd7 restart it and ffff pads; all else is a marker.
_MARKER = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # SOF
_READ = frozenset((0xC0, 0xC1, 0xC2, 0xC9, 0xCA))  # in one layer, with loss
# DHT, DAC, SOS, DQT, DNL, DRI, APPn, COM
_BETWEEN_SCANS = frozenset((0xC4, 0xCC, 0xDA, 0xDB, 0xDC, 0xDD, *range(0xE0, 0xF0), 0xFE))


def _torn_png(data: bytes, _: int) -> str:
    """Pillow does not look at the checksums of pixels, and makes a palette up where there is none."""
    indexed = data[25:26] == b"\3"
    for name, start, end in _chunks(data):
        if name == b"IDAT" and not _sound(data, start, end):
            return "damaged: a checksum does not match"
        if name == b"IDAT" and indexed:
            return "it has no palette"
        indexed = indexed and name != b"PLTE"
    return ""


def bare_png(data: bytes) -> tuple[bytes, int]:
    """A PNG without what does not change its pixels, and the number of its frames, of which one remains.

    A text or a profile may be huge or damaged, and Pillow would refuse a picture that viewers show."""
    view, end = memoryview(data), 8
    kept: list[bytes | memoryview] = [data[:8]]
    frames, apart, moves, pixels = 0, False, False, False
    for name, start, end in _chunks(data):
        if name == b"eXIf" and not _sound(data, start, end):
            kept.append(BROKEN_EXIF)
        elif not name.isalpha() or name[:1].isupper() or name in (b"tRNS", b"eXIf"):
            kept.append(view[start:end])
        frames += name == b"fcTL"
        moves |= name == b"acTL" and not pixels
        apart |= name == b"IDAT" and frames == 0  # a picture for those that show no animation
        pixels |= name == b"IDAT"
    return b"".join((*kept, view[end:])), frames + apart if moves else 1


def short_png(data: bytes) -> bool:
    """Whether a PNG has fewer pixels than its header says. Where a row is missing, Pillow leaves it black."""
    width, height, depth, kind, _, _, interlaced = struct.unpack(">IIBBBBB", data[16:29])
    bits = depth * {2: 3, 4: 2, 6: 4}.get(kind, 1)
    lacking = 0  # bytes
    for x, y, across, down in _ADAM7 if interlaced else ((0, 0, 1, 1),):
        columns, rows = -(-(width - x) // across), -(-(height - y) // down)
        lacking += rows * (1 + (columns * bits + 7) // 8) if columns > 0 else 0
    stream = zlib.decompressobj()
    for name, start, end in _chunks(data):
        for at in range(start + 8, end - 4, PIECE) if name == b"IDAT" else ():
            more = data[at : min(at + PIECE, end - 4)]
            while more and lacking > 0 and not stream.eof:
                lacking -= len(stream.decompress(more, PIECE))
                more = stream.unconsumed_tail
    return lacking > 0


BROKEN_EXIF = b"\0\0\0\0eXIf" + zlib.crc32(b"eXIf").to_bytes(4, "big")  # in place of a damaged one: a whole chunk
_ADAM7 = (
    (0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2),
)  # fmt: skip


def _chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """The whole chunks of a PNG: name, and from where to where, length and checksum included."""
    position = 8
    while position + 12 <= len(data):
        end = position + 12 + int.from_bytes(data[position : position + 4], "big")
        if end > len(data):  # Pillow notices
            return
        yield data[position + 4 : position + 8], position, end
        position = end


def _sound(data: bytes, start: int, end: int) -> bool:
    """Whether a chunk's checksum is its own."""
    return zlib.crc32(data[start + 4 : end - 4]) == int.from_bytes(data[end - 4 : end], "big")


def _torn_jpeg2000(data: bytes, _: int) -> str:
    """OpenJPEG leaves what is missing black."""
    start = data.find(b"\xff\x4f\xff\x51")  # SOC, SIZ
    return "" if data.find(b"\xff\xd9", start) > start >= 0 else "cut short: it has no end marker"


# What a decoder lets pass in silence: (file, pixels it claims) -> what is wrong, or "".
TORN: dict[str, Callable[[bytes, int], str]] = {"JPEG": _torn_jpeg, "PNG": _torn_png, "JPEG2000": _torn_jpeg2000}
