"""Images of earlier runs: what their records say of them and where their features are, found without decoding them.

An image is known by its path, size, mtime and ctime, like a file in git's index; with `--checksum` by its content. An
entry holds whatever else a run needs of the image before it decodes prompts, and the names of its features' entries.
"""

import hashlib
import importlib.util
import json
import os
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from clipseg_cli.inputs import decode
from clipseg_cli.inputs.georeference import Georeference
from clipseg_cli.inputs.kinds import KINDS
from clipseg_cli.inputs.source import Source, identify
from clipseg_cli.model.feature_store import FeatureStore
from clipseg_cli.outputs.record import Identity
from clipseg_cli.settings.inputs import DecodeOptions
from clipseg_cli.settings.model import EncodeOptions
from clipseg_cli.storage import buckets, paths
from clipseg_cli.storage.cache import Cache, Place, code_digest, entry_name

if TYPE_CHECKING:
    from clipseg_cli.model.segmenter import Features, Segmenter

KIND = "image"  # extension of the entries
# Seconds: a file that changed later than this may change again without another time. FAT has the coarsest clock.
SETTLED = 2.0
# Modules beside this program that decide the pixels of an image and of its views.
MODULES: tuple[str, ...] = ("PIL", "numpy", "cv2", "torch", "tifffile", "imagecodecs")
MODULES += tuple(name for kind in KINDS.values() for name in kind.packages)

Mark = list[Any]  # what tells a file from all others, and from itself before a change


def mark(source: Source, identity: Identity | None, checksum: bool) -> Mark | None:
    """Returns what a source is known by; None if that cannot be known without reading it.

    `identity` is that of `identify(source, checksum)`. Raises OSError or ValueError if there is no such file.
    """
    if identity is None or source.frame is not None:
        return None
    if checksum:
        return identity
    if paths.is_url(source.path):
        return [source.path, *identity] if source.path.partition("://")[0] in buckets.EXTRAS else None
    found = paths.fingerprint(source.path)
    changed = found[-1 if os.name == "posix" else -2]
    return found if time.time() - int(changed) / 1e9 >= SETTLED else None


@dataclass(frozen=True, eq=False)
class KnownImage:
    """Takes the place of a `decode.Image`, and is decoded only if its pixels are needed."""

    source: Source
    mark: Mark
    decoding: DecodeOptions
    checksum: bool
    size: tuple[int, int]  # height and width in pixels, upright
    format: str
    frames: int
    notes: tuple[str, ...]
    orientation: int
    georeference: Georeference  # by the files beside it
    clear: None = None

    @cached_property
    def pixels(self) -> NDArray[np.uint8]:
        """The image, uint8 (H, W, 3) RGB, upright. Raises ImageError, also if the file has changed meanwhile."""
        image = decode.load(self.source, self.decoding)
        try:
            now = mark(self.source, identify(self.source, self.checksum), self.checksum)
        except (OSError, ValueError) as error:
            raise paths.fault(error, "load") from error
        if now != self.mark:
            raise decode.changed()
        return image.pixels


class KnownImages:
    """The images that runs with the same model and the same options of encoding and decoding have seen."""

    def __init__(self, store: FeatureStore, encode: EncodeOptions, decoding: DecodeOptions, checksum: bool) -> None:
        self.store, self.decoding, self.checksum = store, decoding, checksum
        options = [encode.tile, encode.flip, encode.similarity, asdict(decoding), checksum]
        found = (importlib.util.find_spec(name) for name in MODULES)
        origins = [paths.fingerprint(each.origin) for each in found if each is not None and each.origin]
        code = code_digest(Path(__file__).parent.parent)
        self.setup = hashlib.sha256(store.setup + code + json.dumps([options, origins]).encode()).digest()

    @classmethod
    def of(
        cls, place: Place, encode: EncodeOptions, decoding: DecodeOptions, checksum: bool, segmenter: "Segmenter"
    ) -> Self:
        """Opens the cache of a folder for a segmenter."""
        return cls(FeatureStore.of(Cache(place), segmenter), encode, decoding, checksum)

    def find(self, of: Mark | None, source: Source) -> "tuple[KnownImage, tuple[Features, ...]] | None":
        """Returns an image and the features of its views, if they are all there."""
        content = None if of is None else self.store.cache.read(self._name(of))
        if of is None or content is None:
            return None
        facts = json.loads(content)
        features = [self.store.read(name) for name in facts["views"]]
        whole = tuple(each for each in features if each is not None)
        size, notes = (facts["size"][0], facts["size"][1]), tuple(facts["notes"])
        told = size, facts["format"], facts["frames"], notes, facts["orientation"]
        place = decode.placed(source, facts["format"])
        image = KnownImage(source, of, self.decoding, self.checksum, *told, place)
        return (image, whole) if len(whole) == len(features) else None

    def keep(self, of: Mark | None, image: decode.Image | KnownImage, views: Sequence[str]) -> None:
        """Notes an image and the entries of its views' features.

        A known image is noted already. An image with a georeference of its own, or without data somewhere, is not: its
        outputs need more than an entry holds.
        """
        if of is None or isinstance(image, KnownImage) or not all(views):
            return
        if image.clear is not None or image.georeference.tags:
            return
        facts = {"size": image.size, "format": image.format, "frames": image.frames, "notes": image.notes}
        content = json.dumps(facts | {"orientation": image.orientation, "views": views})
        self.store.cache.write(self._name(of), content.encode())

    def _name(self, of: Mark) -> str:
        return entry_name(hashlib.sha256(self.setup + json.dumps(of).encode()), KIND)
