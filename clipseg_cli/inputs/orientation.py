"""EXIF orientation: reads it from an EXIF block, and turns stored pixels the way a viewer shows them, and back."""

import struct

import numpy as np

TAG = 0x0112  # of EXIF, and of TIFF
VALUES = range(1, 9)
OUT_OF_RANGE = "orientation outside 1-8 ignored"  # a note


def read_orientation(exif: bytes) -> int:
    """Returns the orientation in an EXIF block; 1 if it has none. Raises ValueError for a broken block."""
    block = exif.removeprefix(b"Exif\0\0")
    order = {b"II": "<", b"MM": ">"}.get(block[:2])
    if order is None:
        raise ValueError("no byte order")
    try:
        (start,) = struct.unpack_from(order + "I", block, 4)
        (count,) = struct.unpack_from(order + "H", block, start)
        for entry in range(start + 2, start + 2 + 12 * count, 12):
            tag, kind = struct.unpack_from(order + "HH", block, entry)
            if tag == TAG:
                layout = {1: "B", 3: "H", 4: "I"}.get(kind, "H")  # BYTE, SHORT (as the standard says), LONG
                return int(struct.unpack_from(order + layout, block, entry + 8)[0])
    except struct.error as error:
        raise ValueError(str(error)) from error
    return 1


def noted_orientation(exif: object, notes: list[str]) -> int:
    """Returns the orientation 1-8 in an EXIF block. Adds a note and returns 1 if the block or the value is invalid."""
    if not isinstance(exif, bytes):
        return 1
    try:
        value = read_orientation(exif)
    except ValueError:
        notes.append("broken EXIF ignored")
        return 1
    if value in VALUES:
        return value
    notes.append(OUT_OF_RANGE)
    return 1


def stored(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Turns an upright array (H, W, ...) back into the frame of a file with EXIF orientation 1-8. Returns a view."""
    return upright(pixels, {6: 8, 8: 6}.get(orientation, orientation))  # all others undo themselves


def matrix(orientation: int, height: int, width: int) -> np.ndarray:
    """Returns the matrix, float (3, 3), from upright coordinates (x, y, 1) to those in the frame of the file.

    Coordinates count in pixels from the corner of the image; its upright size is `height` x `width`.
    """
    across, down = orientation in (2, 3, 6, 7), orientation in (3, 4, 7, 8)  # as in `upright`
    flipped = np.array([[-1 if across else 1, 0, width * across], [0, -1 if down else 1, height * down], [0, 0, 1]])
    return (flipped[[1, 0, 2]] if orientation >= 5 else flipped).astype(np.float64)


def upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Turns an array (H, W, ...) that is stored with EXIF orientation 1-8 the way a viewer shows it. Returns a view."""
    if orientation >= 5:  # the stored rows are the columns that a viewer shows
        pixels = pixels.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return pixels
