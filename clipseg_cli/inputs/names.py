"""Output names: how the outputs of an image are named, so that two images never share a name."""

import hashlib
import itertools
import os
from collections.abc import Iterable

from clipseg_cli.inputs.kinds import EXTENSIONS


def stem(name: str) -> str:
    """Returns a file name without its image extension; other names unchanged."""
    root, extension = os.path.splitext(name)
    return root if extension.lower() in EXTENSIONS else name


def output_names(names: Iterable[str]) -> dict[str, str]:
    """Maps every file name of one folder to its own output name.

    The output name is the stem. It is the full name if another file has the same stem, or uses that stem as its full
    output name.
    """
    names = list(names)
    whole = keeps_extension(names)
    return {name: name if name in whole else stem(name) for name in names}


def keeps_extension(names: Iterable[str]) -> frozenset[str]:
    """Returns the names whose output name in `output_names` is the full name."""
    names = sorted(set(names), key=len)
    stems = sorted(stem(name) for name in names)  # equal stems are neighbours; a list takes half the memory of a set
    shared = {one for one, other in itertools.pairwise(stems) if one == other}
    whole: set[str] = set()
    for name in names:  # shortest first: a stem that equals another's output name is shorter than its own name
        if stem(name) in shared or stem(name) in whole:
            whole.add(name)
    return frozenset(whole)


def renamed(output: str, name: str) -> str:
    """Returns another output path for the image `name`, for use if an earlier image of the run has `output`."""
    return f"{output}~{hashlib.sha256(os.fsencode(name)).hexdigest()[:8]}"


def shard_number(output: str) -> int:
    """Returns a 64-bit number that depends on the output path alone: equal on every machine and in every run."""
    return int.from_bytes(hashlib.sha256(os.fsencode(output)).digest()[:8], "big")
