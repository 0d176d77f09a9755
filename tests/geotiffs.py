"""GeoTIFFs for tests, written by GDAL through rasterio, or tag by tag through tifffile."""

import io
import warnings
from typing import Any

import numpy as np
import rasterio
import tifffile
from rasterio.transform import Affine

SYSTEM = "EPSG:32632"  # UTM, metres
PLACE = Affine.translation(500_000, 5_500_000) @ Affine.scale(0.5, -0.5)
SCALE = (33550, "d", 3, (0.5, 0.5, 0.0), True)  # the tags of PLACE
TIE = (33922, "d", 6, (0.0, 0.0, 0.0, 500_000.0, 5_500_000.0, 0.0), True)
UTM = ((1024, 0, 1, 1), (1025, 0, 1, 1), (3072, 0, 1, 32632))  # the keys of SYSTEM


def by_gdal(
    bands: np.ndarray, mask: np.ndarray | None = None, names: Any = None, tags: Any = None, **options: Any
) -> bytes:
    """Returns a GeoTIFF of bands (B, H, W), at PLACE unless the options say otherwise.

    `mask`, (H, W), is its internal mask; `names` are the colour interpretations of its bands; `tags` are metadata.
    """
    count, height, width = bands.shape
    profile = {"crs": SYSTEM, "transform": PLACE, "count": count, "height": height, "width": width} | options
    profile |= {"dtype": bands.dtype, "driver": "GTiff"}
    with warnings.catch_warnings(), rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True), rasterio.MemoryFile() as file:
        warnings.simplefilter("ignore")  # of files without a place
        with file.open(**profile) as image:
            if names is not None:
                image.colorinterp = names
            image.update_tags(**(tags or {}))
            image.write(bands)
            if mask is not None:
                image.write_mask(mask)
        return bytes(file.getbuffer())


def opened(data: bytes) -> tuple[Any, ...]:
    """Returns what rasterio says of a file: transform, system, bounds, no-data value, metadata."""
    with warnings.catch_warnings(), rasterio.MemoryFile(data) as file, file.open() as image:
        warnings.simplefilter("ignore", PendingDeprecationWarning)  # of rasterio's own use of affine
        return image.transform, image.crs, image.bounds, image.nodata, image.tags()


def keys(*entries: tuple[int, int, int, int]) -> tuple[Any, ...]:
    """Returns tifffile's tag of a GeoKeyDirectory."""
    values = [value for row in ((1, 1, 0, len(entries)), *entries) for value in row]
    return 34735, "H", len(values), tuple(values), True


def by_tags(pixels: np.ndarray, *tags: tuple[Any, ...], order: str = "<", big: bool = False) -> bytes:
    """Returns a TIFF of an RGB image (H, W, 3) with these tags."""
    file = io.BytesIO()
    with tifffile.TiffWriter(file, byteorder=order, bigtiff=big) as writer:
        writer.write(pixels, photometric="rgb", metadata=None, extratags=tags)
    return file.getvalue()
