"""Files for compositing and painting programs: the mattes of all labels of an image in one file.

.exr    half float, 0 to 1, one channel per label, ZIP compressed
.tif    16 bits, one named page per label; of a GeoTIFF with its georeference
.psd    the image, and above it a layer per label with its matte as layer mask
"""

import io
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from clipseg_cli.errors import ImageError
from clipseg_cli.inputs import orientation
from clipseg_cli.inputs.colour import profiles
from clipseg_cli.inputs.georeference import NOWHERE, for_masks
from clipseg_cli.outputs.record import readable_text
from clipseg_cli.outputs.writers import directories, paged_tiff, pixels
from clipseg_cli.outputs.writers.paged_tiff import Page
from clipseg_cli.outputs.writers.result import Result

# Channels that programs take for colour, transparency or depth.
MEANING = {"r", "g", "b", "a", "y", "z", "ry", "by", "red", "green", "blue", "alpha", "depth"}
LEVELS = 65535  # of a matte that is opaque
PSD_SIDE = 30_000  # pixels: the longest side that a PSD holds
ICC_PROFILE = 1039  # a resource of a PSD
PSD_NAME = 255  # characters of a layer's name


def exr(result: Result) -> bytes:
    """Returns an OpenEXR file. Its attribute `labels` has the label of each channel, like `a_cat=a cat`."""
    import OpenEXR

    names = [*map(channel, result.slugs)]
    told = [f"{name}={readable_text(label)}" for name, label in zip(names, result.labels, strict=True)]
    header = {"compression": OpenEXR.ZIP_COMPRESSION, "type": OpenEXR.scanlineimage, "labels": told}
    planes = {name: _shares(pixels.matte(result, index)) for index, name in enumerate(names)}
    with io.BytesIO() as file:
        OpenEXR.File(header, planes, 0).write(file)  # in this thread: several images are written at once
        return file.getvalue()


def channel(slug: str) -> str:
    """Returns the channel of a label with this folder name: letters, digits and underscores, and no digit first.

    Dots would mean layers, and some programs drop other characters. No two labels have the same channel.
    """
    name = slug.replace("-", "_")
    if name in MEANING:
        return f"{name}_"
    return f"_{name}" if name[0].isdigit() else name


def _shares(matte: NDArray[np.uint16]) -> NDArray[np.float16]:
    return (matte / np.float32(LEVELS)).astype(np.float16)


def tiff(result: Result) -> bytes:
    """Returns a TIFF of 16 bits whose pages have the labels as their names."""
    count = len(result.labels)
    return b"".join(paged_tiff.pieces(_pages(result), count, 2 * count * result.masks[0].size))


def _pages(result: Result) -> Iterator[Page]:
    """Yields a page per label. Those of a GeoTIFF are in the pixel frame of its file, as its georeference is."""
    place, turn = (result.georeference, result.turn) if result.georeference.is_geotiff else (NOWHERE, 1)
    for index, label in enumerate(result.labels):
        fields = (
            directories.numbers(orientation.TAG, directories.SHORT, [turn]),
            directories.text(paged_tiff.PAGE_NAME, label),
            directories.numbers(paged_tiff.PAGE_NUMBER, directories.SHORT, [index, len(result.labels)]),
            *for_masks(place, LEVELS),
        )
        yield Page(orientation.stored(pixels.matte(result, index), turn), fields)


def psd(result: Result) -> bytes:
    """Returns a Photoshop file in sRGB. A layer covers the box of its matte.

    It says that it is sRGB if a profile was converted. Raises ImageError if the image is too large.
    """
    import psd_tools
    from PIL import Image
    from psd_tools.psd.image_resources import ImageResource

    photo = result.photo()
    if max(photo.shape[:2]) > PSD_SIDE:
        raise ImageError("too_large", "write", f"a PSD holds at most {PSD_SIDE} pixels a side: use -f exr or -f tiff")
    image = Image.fromarray(photo)
    document = psd_tools.PSDImage.frompil(image)
    if result.converted:
        document.image_resources[ICC_PROFILE] = ImageResource(key=ICC_PROFILE, data=profiles.srgb())
    document.create_pixel_layer(image, name="image")
    for index, label in enumerate(result.labels):
        matte = np.asarray(pixels.matte(result, index) >> 8, np.uint8)
        left, top, right, bottom = Image.fromarray(matte).getbbox() or (0, 0, 1, 1)
        layer = document.create_pixel_layer(image.crop((left, top, right, bottom)), top=top, left=left)
        layer.name = readable_text(label)[:PSD_NAME]
        layer.create_mask(Image.fromarray(matte[top:bottom, left:right]))
    with io.BytesIO() as file:
        document._record.write(file)  # `save` would compose the preview, which is the image, from the layers: 7 s
        return file.getvalue()
