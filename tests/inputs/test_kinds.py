"""Kinds of files: each is recognised by its first bytes."""

import importlib
import io

from PIL import Image

from clipseg_cli.inputs import decoders
from clipseg_cli.inputs.decoders.pillow import PLUGINS
from clipseg_cli.inputs.kinds import DECODABLE, EXTENSIONS, KINDS, sniff


def test_every_kind_is_recognised_by_its_first_bytes() -> None:
    """Real files of each kind are recognised, and text never is."""
    for form in ("JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF", "PPM", "AVIF", "JPEG2000"):
        file = io.BytesIO()
        Image.new("RGB", (3, 2)).save(file, form)
        assert sniff(file.getvalue()[:64]) == form
    assert sniff(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic") == "HEIC"
    assert sniff(b"\0\0\0\x1cftypmif1\0\0\0\0mif1avifmiaf") == "AVIF"
    for text in (
        b"",
        b"hello",
        b"/home/me/a.jpg\n",
        b"P6 day/a.jpg",
        b"GIFs/a.gif",
        b"MM",
        b"BM" + b"a" * 60,
        b"The free",
    ):
        assert sniff(text) is None
    assert all(name == name.lower() and name[0] == "." for name in EXTENSIONS)


def test_every_decoder_in_the_table_exists() -> None:
    """Each kind that can be decoded names a module with a `decode`; Pillow's plug-ins are those of such kinds."""
    for kind in DECODABLE:
        assert callable(importlib.import_module(f"{decoders.__name__}.{KINDS[kind].decoder}").decode)
    assert set(PLUGINS) == set(DECODABLE)
