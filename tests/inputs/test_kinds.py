"""Kinds of files: each is recognised by its first bytes."""

import importlib
import io
from pathlib import Path

import numpy as np
from PIL import Image

from clipseg_cli.inputs import decoders
from clipseg_cli.inputs.decoders.pillow import PLUGINS
from clipseg_cli.inputs.kinds import DECODABLE, EXTENSIONS, KINDS, sniff
from image_files import VALID, saved


def test_every_kind_is_recognised_by_its_first_bytes() -> None:
    """Real files of each kind are recognised, and text never is."""
    for form in ("JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF", "PPM", "AVIF", "JPEG2000"):
        file = io.BytesIO()
        Image.new("RGB", (3, 2)).save(file, form)
        assert sniff(file.getvalue()[:64]) == form
    assert sniff(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic") == "HEIC"
    assert sniff(b"\0\0\0\x1cftypmif1\0\0\0\0mif1avifmiaf") == "AVIF"
    for form in ("TGA", "ICO", "DDS", "QOI"):
        assert sniff(saved(Image.new("RGB", (20, 20)), form)[:64]) == form
    for head in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        assert sniff(head + bytes(12)) == "TIFF"
    for head in (b"II*\0\x10\0\0\0CR\2\0", b"II\x1a\0\0\0HEAPCCDR", b"FUJIFILMCCD-RAW", b"\0\0\0\x18ftypcrx "):
        assert sniff(head) == "RAW"
    words = (b"", b"hello", b"/home/me/a.jpg\n", b"P6 day/a.jpg", b"GIFs/a.gif", b"MM", b"BM" + b"a" * 60, b"The free")
    for text in words:
        assert sniff(text) is None
    assert all(name == name.lower() and name[0] == "." for name in EXTENSIONS)


def test_every_decoder_in_the_table_exists() -> None:
    """Each kind that can be decoded names a module with a `decode`; Pillow's plug-ins are those of such kinds."""
    for kind in DECODABLE:
        assert callable(importlib.import_module(f"{decoders.__name__}.{KINDS[kind].decoder}").decode)
    assert set(PLUGINS) <= set(DECODABLE)


def test_no_other_file_is_taken_for_a_tga() -> None:
    """TGA has no magic bytes. Files of every other kind, Python's own binaries and zeros do not look like one."""
    for form in VALID:
        if form.strip() != "TGA":
            assert sniff(saved(np.zeros((48, 64, 3), np.uint8), form.strip(), **VALID[form])[:64]) == form.strip()
    cursor = b"\0\0\2\0\1\0\x20\x20\0\0\0\0\0\0" + bytes(50)
    assert sniff(cursor) is None
    assert not any(sniff(bytes(count)) for count in range(65))
    others = [
        path for path in Path(np.__file__).parent.rglob("*") if path.suffix in (".py", ".pyc", ".so", ".npy", ".npz")
    ]
    assert len(others) > 100
    for path in others:
        assert sniff(path.read_bytes()[:64]) is None, path
