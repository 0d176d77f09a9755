"""ICC profiles for tests, built by hand, and what a matrix profile means, in floats."""

import struct

import numpy as np
from skimage import color

D50 = np.array([0.9642, 1.0, 0.8249])  # XYZ of the white of all profiles
D65 = (0.3127, 0.3290)
BRADFORD = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])
# The x and y of red, green and blue; the white; the gamma (None: the curve of sRGB).
SPACES = {
    "sRGB": ((0.640, 0.330), (0.300, 0.600), (0.150, 0.060), D65, None),
    "Display P3": ((0.680, 0.320), (0.265, 0.690), (0.150, 0.060), D65, None),
    "Adobe RGB (1998)": ((0.640, 0.330), (0.210, 0.710), (0.150, 0.060), D65, 2.19921875),
    "ProPhoto RGB": ((0.7347, 0.2653), (0.1596, 0.8404), (0.0366, 0.0001), (0.3457, 0.3585), 1.8),
    "Rec. 2020": ((0.708, 0.292), (0.170, 0.797), (0.131, 0.046), D65, 2.4),
}


def matrix(name: str) -> np.ndarray:
    """Returns the XYZ of red, green and blue as columns, adapted to D50."""
    *corners, white = (np.array([x / y, 1, (1 - x - y) / y]) for x, y in SPACES[name][:4])
    primaries = np.array(corners).T
    scaled = primaries * np.linalg.solve(primaries, white)
    adapt = np.linalg.solve(BRADFORD, np.diag(BRADFORD @ D50 / (BRADFORD @ white)) @ BRADFORD)
    return adapt @ scaled


def linear(codes: np.ndarray, gamma: float | None) -> np.ndarray:
    """Returns the light of values from 0 to 1."""
    if gamma is not None:
        return codes**gamma
    return np.where(codes <= 0.04045, codes / 12.92, ((codes + 0.055) / 1.055) ** 2.4)


def encoded(light: np.ndarray) -> np.ndarray:
    """Returns the sRGB values of light, uint8."""
    light = light.clip(0, 1)
    codes = np.where(light <= 0.0031308, light * 12.92, 1.055 * light ** (1 / 2.4) - 0.055)
    return (codes * 255).round().astype(np.uint8)


def in_srgb(pixels: np.ndarray, name: str) -> np.ndarray:
    """Returns uint8 (H, W, 3), sRGB, of pixels in a space of SPACES: colours that sRGB lacks are clipped."""
    light = linear(pixels / 255, SPACES[name][4])
    return encoded(light @ (np.linalg.inv(matrix("sRGB")) @ matrix(name)).T)


def profile(name: str, version: int = 2, more: dict[bytes, bytes] | None = None) -> bytes:
    """Returns the matrix profile of a space of SPACES, of version 2 (a curve of points) or 4 (a parametric one)."""
    gamma = SPACES[name][4]
    if version == 4:
        curve = (
            _parametric(3, 2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)
            if gamma is None
            else _parametric(0, gamma)
        )
    else:
        points = (linear(np.linspace(0, 1, 4096), gamma) * 65535).round().astype(">u2")
        curve = b"curv" + bytes(4) + struct.pack(">I", len(points)) + points.tobytes()
    columns = zip((b"rXYZ", b"gXYZ", b"bXYZ"), matrix(name).T, strict=True)
    tags = {b"wtpt": _xyz(D50)} | {tag: _xyz(column) for tag, column in columns}
    return assembled(
        name, b"RGB XYZ ", tags | dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), curve) | (more or {}), version
    )


def grey_profile(gamma: float) -> bytes:
    """Returns a grey profile with a gamma."""
    curve = b"curv" + bytes(4) + struct.pack(">IH", 1, round(gamma * 256))
    return assembled(f"Gray Gamma {gamma}", b"GRAYXYZ ", {b"wtpt": _xyz(D50), b"kTRC": curve})


def swapped_inks() -> bytes:
    """Returns a CMYK profile: a table of the sixteen full inks in Lab, with cyan and magenta swapped."""
    corners = np.array([[c, m, y, k] for c in (0, 1) for m in (0, 1) for y in (0, 1) for k in (0, 1)])
    rgb = (1 - corners[:, [1, 0, 2]]) * (1 - corners[:, 3:])
    lab = color.rgb2lab(rgb[None].astype(float))[0]
    table = np.stack([lab[:, 0] * 2.55, lab[:, 1] + 128, lab[:, 2] + 128], axis=1).round().clip(0, 255).astype(np.uint8)
    unit = struct.pack(">9i", *(65536 if index % 4 == 0 else 0 for index in range(9)))
    tables = bytes(range(256)) * 4 + table.tobytes() + bytes(range(256)) * 3
    return assembled(
        "inks", b"CMYKLab ", {b"wtpt": _xyz(D50), b"A2B0": b"mft1" + bytes(4) + bytes([4, 3, 2, 0]) + unit + tables}
    )


def assembled(name: str, spaces: bytes, tags: dict[bytes, bytes], version: int = 2) -> bytes:
    """Returns a profile of these tags; `spaces` are that of its pixels and that of its colours."""
    if version == 4:
        text = name.encode("utf-16-be")
        described = b"mluc" + bytes(4) + struct.pack(">II2s2sII", 1, 12, b"en", b"US", len(text), 28) + text
    else:
        described = b"desc" + bytes(4) + struct.pack(">I", len(name) + 1) + name.encode() + bytes(79)
    tags = {b"desc": described} | tags
    index, body, start = struct.pack(">I", len(tags)), b"", 132 + 12 * len(tags)
    for tag, data in tags.items():
        index += tag + struct.pack(">II", start + len(body), len(data))
        body += data + bytes(-len(data) % 4)
    kind = b"prtr" if spaces.startswith(b"CMYK") else b"mntr"
    head = struct.pack(">I4sI", start + len(body), b"lcms", version << 24 | 0x00400000) + kind + spaces
    head += struct.pack(">6H", 2020, 1, 1, 0, 0, 0) + b"acsp" + bytes(28) + _fixed(*D50)
    return head + bytes(128 - len(head)) + index + body


def _parametric(kind: int, *values: float) -> bytes:
    return b"para" + bytes(4) + struct.pack(">HH", kind, 0) + _fixed(*values)


def _xyz(values: np.ndarray) -> bytes:
    return b"XYZ " + bytes(4) + _fixed(*values)


def _fixed(*values: float) -> bytes:
    return struct.pack(f">{len(values)}i", *(round(value * 65536) for value in values))
