"""`ImageRoot`: the folder that the image names of a data set are relative to."""

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Self

from clipseg_cli.inputs.finding.search import path_parts, path_root, slashes
from clipseg_cli.storage.paths import local


@dataclass(frozen=True, slots=True)
class ImageRoot:
    """A folder, or its URL, as the user typed it."""

    start: str = ""  # "/" of an absolute path, the scheme of a URL, otherwise ""
    parts: tuple[str, ...] = ()

    @classmethod
    def of(cls, names: Iterable[str], inputs: Sequence[str] = ()) -> Self:
        """Returns the root of the images with these names, from a run with these inputs.

        It is the one input if that is a folder that holds all images, otherwise their deepest common folder. Names that
        have no folder in common, such as a URL and a path, are relative to the working directory.
        """
        starts, common = set[str](), list[str]()
        for number, name in enumerate(names):
            folder = path_parts(name)[:-1]
            equal = itertools.takewhile(lambda pair: pair[0] == pair[1], zip(common, folder, strict=False))
            common = [part for part, _ in equal] if number else folder
            starts.add(path_root(name))
        if len(starts) != 1:
            return cls()
        given = slashes(local(inputs[0])) if len(inputs) == 1 else ""
        parts = path_parts(given)
        inside = given != "" and path_root(given) in starts and common[: len(parts)] == parts
        return cls(starts.pop(), tuple(parts if inside else common))

    def __str__(self) -> str:
        return self.start + "/".join(self.parts) or "."

    def relative(self, name: str) -> str:
        """Returns the name of an image below this root."""
        return "/".join(path_parts(name)[len(self.parts) :]) if path_root(name) == self.start else name
