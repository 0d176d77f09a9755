"""Camera raw files for tests: DNGs of a drawn scene, made by tifffile."""

import io

import imagecodecs
import numpy as np
import PIL.Image
import tifffile

# Four areas of the scene in linear light, 16 bits: top left, top right, bottom left, bottom right.
COLOURS = np.array(
    [[[50000, 8000, 2000], [40000, 40000, 40000]], [[3000, 30000, 3000], [4000, 9000, 50000]]], np.uint16
)
IDENTITY = (1, 1, 0, 1, 0, 1, 0, 1, 1, 1, 0, 1, 0, 1, 0, 1, 1, 1)  # a colour matrix of rationals
CFA, LINEAR = 32803, 34892  # photometric interpretations


def scene(height: int, width: int) -> np.ndarray:
    """Returns the scene in linear light, uint16 (height, width, 3)."""
    return COLOURS.repeat(height // 2, axis=0).repeat(width // 2, axis=1)


def jpeg(image: np.ndarray) -> bytes:
    """Returns a JPEG of an image in linear light, without EXIF."""
    file = io.BytesIO()
    eight = ((image / 65535) ** (1 / 2.2) * 255).round().astype(np.uint8)
    PIL.Image.fromarray(eight).save(file, "JPEG", quality=95, subsampling=0)
    return file.getvalue()


def mosaic(image: np.ndarray) -> np.ndarray:
    """Returns what a sensor with an RGGB filter sees, uint16 (H, W)."""
    rows, columns = np.indices(image.shape[:2]) % 2
    return np.take_along_axis(image, (rows + columns)[:, :, None], axis=2)[:, :, 0]


def dng(
    image: np.ndarray,
    orientation: int = 1,
    preview: np.ndarray | None = None,
    photometric: int = CFA,
    lossy: bytes | None = None,
    **options: object,
) -> bytes:
    """Returns a DNG of an image in linear light with an even size: a thumbnail, and in SubIFDs a preview and the data.

    The data come last. `preview` is an image in linear light, stored as it is. With `compression="jpeg"` the data are
    one lossless JPEG; `lossy` is a JPEG that takes their place in a linear DNG.
    """
    first = [
        (271, "s", 0, "Maker", True), (272, "s", 0, "Model", True), (274, "H", 1, orientation, True),
        (50706, "B", 4, (1, 4, 0, 0), True), (50707, "B", 4, (1, 1, 0, 0), True), (50708, "s", 0, "Maker Model", True),
        (50721, "2i", 9, IDENTITY, True), (50778, "H", 1, 21, True), (50728, "2I", 3, (1,) * 6, True),
    ]  # fmt: skip
    white = 65535 if lossy is None else 255
    sensor = [(50717, "H", 1 if photometric == CFA else 3, white if photometric == CFA else (white,) * 3, True)]
    if photometric == CFA:
        sensor += [(33421, "H", 2, (2, 2), True), (33422, "B", 4, (0, 1, 1, 2), True)]
    file = io.BytesIO()
    with tifffile.TiffWriter(file) as writer:
        thumbnail = np.zeros((24, 32, 3), np.uint8)
        count = 1 + (preview is not None)
        writer.write(thumbnail, photometric="rgb", subfiletype=1, subifds=count, extratags=first, metadata=None)
        if preview is not None:
            writer.write(
                iter([jpeg(preview)]), shape=preview.shape, dtype=np.uint8, photometric="ycbcr", compression="jpeg",
                subfiletype=1, subsampling=(1, 1), rowsperstrip=preview.shape[0], metadata=None,
            )  # fmt: skip
        data = mosaic(image) if photometric == CFA else image
        if options.get("compression") == "jpeg":
            options |= {"shape": data.shape, "dtype": data.dtype, "rowsperstrip": len(data)}
            data = iter([imagecodecs.ljpeg_encode(data, bitspersample=16)])
        elif lossy is not None:
            options |= {"shape": data.shape, "dtype": np.uint8, "rowsperstrip": len(data), "compression": 34892}
            data = iter([lossy])
        writer.write(data, photometric=photometric, subfiletype=0, extratags=sensor, metadata=None, **options)
    return file.getvalue()
