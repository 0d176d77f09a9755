"""What tests ask of an output folder."""

import io
from collections.abc import Collection
from pathlib import Path

from PIL import Image


def tree(folder: Path) -> dict[str, bytes]:
    """Returns the content of every file by name, without run.json and the journal, which hold times."""
    files = (path for path in folder.rglob("*") if path.is_file())
    contents = {str(path.relative_to(folder)): path.read_bytes() for path in files}
    return {name: data for name, data in contents.items() if name not in ("run.json", ".clipseg-journal.jsonl")}


def assert_whole(out: Path, but: Collection[str] = ()) -> None:
    """Asserts that every image file under a final name can be read to its last byte, except those in `but`."""
    for name, data in tree(out).items():
        if name.endswith((".png", ".jpg")) and name not in but:
            Image.open(io.BytesIO(data)).load()
            assert data.endswith((b"IEND\xaeB`\x82", b"\xff\xd9")), name


def temporary_files(out: Path) -> list[Path]:
    """Returns the files that were left unfinished."""
    return [*out.rglob(".clipseg-tmp-*")]
