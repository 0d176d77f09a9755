"""The files of a report: one HTML file with everything in it, or an HTML file with the pixels in a folder beside it.

The folder holds scripts, because a page opened from disk may load scripts but may not read other files. Each script
holds the pixels of CHUNK images. Its name contains a digest of the run's manifest, so the scripts of a newer report
never mix with those of an older one; these are deleted once the new page is in place.
"""

import contextlib
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote

from clipseg_cli.pages.report_images import Image
from clipseg_cli.pages.templates import template
from clipseg_cli.storage import store
from clipseg_cli.storage.store import AnyPath

ONE_FILE = 1000  # images of a report in one file: 10 to 50 MB
CHUNK = 16  # images per script: a page of 48 images in any order then loads at most 48 scripts of some 200 kB
BLOCK = 1 << 20  # bytes copied at once
BESIDE = "'self' file:"  # what a page with files beside it may also load scripts from


class ReportFiles:
    """Writes a report image by image, in bounded memory. Use it with `with`; nothing is at `target` until `finish`."""

    def __init__(self, target: AnyPath, count: int, stamp: str) -> None:
        self.target, self.stamp = target, stamp
        self.folder = target.parent / (target.name.rpartition(".")[0] + "-files")
        self.beside = count > ONE_FILE
        self._rows = tempfile.TemporaryFile()  # noqa: SIM115 (closed by __exit__): the page's rows until its end
        self._pixels: list[dict[str, Any]] = []
        self._images = self._chunks = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._rows.close()

    def add(self, image: Image) -> None:
        """Adds the next image. Raises OutputError."""
        row = {"id": self._images} | image.row | ({} if self.beside else {"pixels": image.pixels})
        self._rows.write((b"," if self._images else b"") + script_text(row))
        self._images += 1
        if self.beside:
            self._pixels.append(image.pixels)
            if len(self._pixels) == CHUNK:
                self._write_chunk()

    def _write_chunk(self) -> None:
        name = f"{self.stamp}-{self._chunks}.js"
        call = f'clipsegChunk("{self.stamp}",{self._chunks},'.encode()
        store.write(self.folder / name, call + script_text(self._pixels) + b");\n")
        self._pixels = []
        self._chunks += 1

    def finish(self, about: dict[str, Any]) -> None:
        """Writes the page; `about` is all that it shows beside the images. Raises OutputError."""
        if self._pixels:
            self._write_chunk()
        if self.beside:
            about |= {"files": {"folder": quote(self.folder.name), "stamp": self.stamp, "chunk": CHUNK}}
        store.write(self.target, self._page(about))
        self._delete_older()

    def _page(self, about: dict[str, Any]) -> Iterator[bytes]:
        head, tail = (
            template("report.html").replace("{{beside}}", BESIDE if self.beside else "").encode().split(b"{{data}}")
        )
        yield head
        yield script_text(about)[:-1] + b',"images":['
        self._rows.seek(0)
        while block := self._rows.read(BLOCK):
            yield block
        yield b"]}"
        yield tail

    def _delete_older(self) -> None:
        kept = f"{self.stamp}-" if self.beside else None
        with contextlib.suppress(OSError):  # they only take space
            old: list[AnyPath] = [*self.folder.glob("*.js")]
            for path in old:
                if kept is None or not path.name.startswith(kept):
                    path.unlink()
            if kept is None and isinstance(self.folder, Path):
                self.folder.rmdir()


def script_text(value: Any) -> bytes:
    """Returns a value as JSON that is safe inside a script element of an HTML page, and as a script of its own."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    # `<` could end the script element; U+2028 and U+2029 end a line in old JavaScript engines
    text = text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")
    return text.encode("utf-8", "replace")
