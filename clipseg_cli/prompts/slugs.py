"""Slugs: folder names made from labels. Standard library only."""

import hashlib
import unicodedata
from collections.abc import Iterable

SLUG_BYTES = 80  # bytes of UTF-8: leaves room for a suffix in the 255 that file systems allow
# Windows reserves these names for devices and refuses folders of that name.
_RESERVED = {"con", "prn", "aux", "nul", *(f"{d}{i}" for d in ("com", "lpt") for i in range(1, 10))}


def unique_slugs(labels: Iterable[str]) -> tuple[str, ...]:
    """Returns a folder name for each label: its letters and digits, of any script, in lower case, joined by hyphens.

    The names differ even where a file system ignores case, are valid on Windows, and have at most SLUG_BYTES bytes
    before a number that tells equal names apart. The same labels in the same order give the same names.
    """
    taken: set[str] = set()
    result = []
    for label in labels:
        base = _slug(label)
        name, number = base, 1
        while name in taken:
            number += 1
            name = f"{base}-{number}"
        taken.add(name)
        result.append(name)
    return tuple(result)


def _slug(label: str) -> str:
    folded = unicodedata.normalize("NFC", unicodedata.normalize("NFC", label).casefold())
    kept = (c if c.isalnum() or unicodedata.category(c).startswith("M") else " " for c in folded)
    slug = "-".join("".join(kept).split())
    digest = hashlib.sha256(label.encode("utf-8", "surrogatepass")).hexdigest()[:8]
    if len(slug.encode("utf-8", "surrogatepass")) > SLUG_BYTES:
        slug = slug.encode("utf-8", "surrogatepass")[: SLUG_BYTES - 9].decode("utf-8", "ignore") + "-" + digest
    if not slug or slug in _RESERVED:
        slug = f"label-{digest}"
    return slug
