"""The images of the folder that the live page shows, and their thumbnails. Thread-safe."""

import threading
from collections import OrderedDict
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from clipseg_cli.errors import ImageError
from clipseg_cli.inputs import decode
from clipseg_cli.inputs.finding.discovery import discover
from clipseg_cli.inputs.source import Source
from clipseg_cli.outputs import drawing
from clipseg_cli.settings.inputs import InputOptions

MAX_IMAGES = 20_000  # images listed
THUMBNAIL = 360  # pixels: the longer side of an image and its masks in the gallery
MAX_THUMBNAILS = 240  # thumbnails in memory: 10 pages, at most 93 MB


class Gallery:
    """The images below one folder, in a fixed order. An image is known by its index."""

    def __init__(self, folder: str, out: str) -> None:
        """Lists the images below `folder`, except those that runs wrote and those in the output folder `out`."""
        self.folder = folder
        self.sources: list[Source] = [*islice(discover(InputOptions((folder,), frames="first"), None, out), MAX_IMAGES)]
        self.sizes: dict[int, tuple[int, int]] = {}  # image -> height, width; of the images decoded so far
        self._thumbnails: OrderedDict[int, NDArray[np.uint8]] = OrderedDict()
        self._lock = threading.Lock()

    def pixels(self, index: int) -> NDArray[np.uint8]:
        """Decodes an image, uint8 (H, W, 3) RGB. Raises ImageError."""
        source = self.sources[index]
        if source.error is not None:
            raise source.error
        # the file may have been replaced by a link since it was listed
        if not Path(source.path).resolve().is_relative_to(Path(self.folder).resolve()):
            raise ImageError("not_a_file", "load", "it is a link to a file outside the folder; it was not opened")
        pixels = decode.load(source).pixels
        self.sizes[index] = pixels.shape[0], pixels.shape[1]
        return pixels

    def keep_thumbnail(self, index: int, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Returns the thumbnail of a decoded image, and keeps it for `fitted`."""
        small = drawing.fitted(pixels, THUMBNAIL)
        with self._lock:
            self._thumbnails[index] = small.copy() if small.base is not None else small
            self._thumbnails.move_to_end(index)
            while len(self._thumbnails) > MAX_THUMBNAILS:
                self._thumbnails.popitem(last=False)
        return small

    def fitted(self, index: int, side: int) -> NDArray[np.uint8]:
        """Returns an image with its longer side at most `side` pixels, from its thumbnail if that is large enough.

        Raises ImageError.
        """
        if side > THUMBNAIL:
            return drawing.fitted(self.pixels(index), side)
        with self._lock:
            thumbnail = self._thumbnails.get(index)
        if thumbnail is None:
            thumbnail = self.keep_thumbnail(index, self.pixels(index))
        return drawing.fitted(thumbnail, side)
