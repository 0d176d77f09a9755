"""Colour spaces that a file names without an ICC profile: by H.273 codes (PNG's cICP, AVIF's and HEIC's nclx), or by
PNG's gAMA and cHRM. Each becomes an ICC profile, which `profiles` applies.

The curves of television (BT.709, BT.601, BT.2020) count as sRGB's: writers name them for what was made on a screen.
PQ and HLG have no profile: their brightness needs tone mapping.
"""

import struct

import numpy as np

# The x and y of red, green, blue and white, and a name, by H.273's code of colour primaries.
D65 = (0.3127, 0.3290)
SPACES = {
    1: ("sRGB", (0.640, 0.330), (0.300, 0.600), (0.150, 0.060), D65),
    5: ("BT.601 (625 lines)", (0.640, 0.330), (0.290, 0.600), (0.150, 0.060), D65),
    6: ("BT.601 (525 lines)", (0.630, 0.340), (0.310, 0.595), (0.155, 0.070), D65),
    9: ("BT.2020", (0.708, 0.292), (0.170, 0.797), (0.131, 0.046), D65),
    11: ("DCI-P3", (0.680, 0.320), (0.265, 0.690), (0.150, 0.060), (0.314, 0.351)),
    12: ("Display P3", (0.680, 0.320), (0.265, 0.690), (0.150, 0.060), D65),
}
SPACES[7] = SPACES[6]
SRGB_CURVE = 0.0  # in place of a gamma
GAMMAS = {1: SRGB_CURVE, 4: 2.2, 5: 2.8, 6: SRGB_CURVE, 8: 1.0, 13: SRGB_CURVE, 14: SRGB_CURVE, 15: SRGB_CURVE}
HDR = {16: "PQ", 18: "HLG"}  # codes of transfer characteristics without a profile
NEAR = 0.05  # a gamma this near to 2.2, as a share of it, is that of sRGB: libpng's rule
STEEPEST = 10.0  # a gamma, or its inverse, that is believed
D50 = np.array([0.9642, 1.0, 0.8249])  # XYZ: the white of ICC profiles
BRADFORD = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])


def by_code(primaries: int, transfer: int) -> bytes:
    """Returns the ICC profile of H.273's codes; b"" if they say nothing, or if the curve is one of HDR."""
    if primaries not in SPACES or transfer not in GAMMAS:
        return b""
    name, *corners = SPACES[primaries]
    return _profile(name, np.array(corners), GAMMAS[transfer])


def nclx(head: bytes) -> tuple[int, int]:
    """Returns the codes of primaries and transfer in the first `colr` box of an AVIF or HEIC; 2, "unspecified", if
    there is none."""
    _, found, codes = head.partition(b"colrnclx")
    return struct.unpack(">HH", codes[:4]) if found and len(codes) >= 4 else (2, 2)


def notes(transfer: int) -> list[str]:
    """Returns the note on an image whose curve, a code of H.273, is one of HDR."""
    return [f"{HDR[transfer]} brightness is shown without tone mapping"] if transfer in HDR else []


def by_gamma(gama: bytes, chrm: bytes) -> bytes:
    """Returns the ICC profile of the contents of PNG's gAMA and cHRM, either of which may be b"".

    Returns b"" if they are damaged or describe no colours.
    """
    if len(gama) not in (0, 4) or len(chrm) not in (0, 32):
        return b""
    encoded = int.from_bytes(gama, "big") / 100_000 if gama else 1 / 2.2
    if not 1 / STEEPEST <= encoded <= STEEPEST:
        return b""
    gamma = SRGB_CURVE if abs(encoded * 2.2 - 1) <= NEAR else 1 / encoded
    corners = np.array(SPACES[1][1:])
    if chrm:  # white comes first
        corners = np.roll(np.array(struct.unpack(">8I", chrm)).reshape(4, 2) / 100_000, -1, axis=0)
    return _profile("gAMA and cHRM", corners, gamma)


def _profile(name: str, corners: np.ndarray, gamma: float) -> bytes:
    """Returns an ICC profile of version 4; `corners` are the x and y of red, green, blue and white, float (4, 2).

    Returns b"" if they span no colours.
    """
    x, y = corners.T
    if (y <= 0).any():
        return b""
    *primaries, white = np.stack([x / y, np.ones(4), (1 - x - y) / y], axis=1)
    columns = np.array(primaries).T
    try:
        columns = columns * np.linalg.solve(columns, white)
        adaptation = np.linalg.solve(BRADFORD, np.diag(BRADFORD @ D50 / (BRADFORD @ white)) @ BRADFORD)
    except np.linalg.LinAlgError:
        return b""
    matrix = adaptation @ columns
    if not np.abs(matrix).max() < 100:  # nor NaN: fixed-point numbers hold up to 32767
        return b""
    # sRGB's curve: ((x + 0.055) / 1.055) ** 2.4 from 0.04045 on, x / 12.92 below
    values = (gamma,) if gamma else (2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)
    curve = b"para" + bytes(4) + struct.pack(">HH", 0 if gamma else 3, 0) + _fixed(*values)
    text = name.encode("utf-16-be")
    tags = {
        b"desc": b"mluc" + bytes(4) + struct.pack(">II2s2sII", 1, 12, b"en", b"US", len(text), 28) + text,
        b"wtpt": b"XYZ " + bytes(4) + _fixed(*D50),
    }
    tags |= {
        tag: b"XYZ " + bytes(4) + _fixed(*column)
        for tag, column in zip((b"rXYZ", b"gXYZ", b"bXYZ"), matrix.T, strict=True)
    }
    tags |= dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), curve)
    index, body, start = struct.pack(">I", len(tags)), b"", 132 + 12 * len(tags)
    for tag, data in tags.items():
        index += tag + struct.pack(">II", start + len(body), len(data))
        body += data + bytes(-len(data) % 4)
    head = struct.pack(">I4xI", start + len(body), 0x04400000) + b"mntrRGB XYZ " + bytes(12) + b"acsp" + bytes(28)
    return (head + _fixed(*D50)).ljust(128, b"\0") + index + body


def _fixed(*values: float) -> bytes:
    """Returns numbers as ICC stores them: 16 bits before the point, 16 after it."""
    return struct.pack(f">{len(values)}i", *(round(value * 65536) for value in values))
