"""Slugs: a folder name for each label. Standard library only."""

import hashlib
import unicodedata
from collections.abc import Iterable

SLUG_BYTES = 80  # leaves room for a suffix in the 255 bytes that file systems allow a name
# Names that Windows keeps for devices: a folder of that name cannot be made there.
_RESERVED = {"con", "prn", "aux", "nul", *(f"{d}{i}" for d in ("com", "lpt") for i in range(1, 10))}


def unique_slugs(labels: Iterable[str]) -> tuple[str, ...]:
    """A folder name for each label: letters and digits of any script in lower case, joined by hyphens.

    The names are distinct even where a file system folds case, safe on Windows, and at most 80 bytes each; equal
    labels in equal order give equal names.
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
