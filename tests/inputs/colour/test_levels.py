"""Levels: the rule that turns samples of any type into 8 bits, on arrays of any shape."""

import numpy as np
import pytest

from clipseg_cli.inputs.colour import levels


@pytest.mark.parametrize("bits", [1, 4, 8, 10, 12, 16])
def test_the_highest_unsigned_value_becomes_255(bits: int) -> None:
    """And all others the nearest level; 257 times a value of 8 bits becomes that value. Only wide ones are noted."""
    white, notes = (1 << bits) - 1, list[str]()
    values = np.arange(white + 1, dtype=np.uint16)
    found = levels.scaled(values, white, "grey", notes)
    assert np.abs(found - values * (255 / white)).max() <= 0.5
    assert notes == ([f"{bits}-bit grey scaled to 8 bits"] if bits > 8 else [])
    if bits == 16:
        assert np.array_equal(found[::257], np.arange(256))


def test_large_arrays_are_converted_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the same result as at once: one range for all rows and bands."""
    random = np.random.default_rng(0)
    wide = random.integers(0, 65536, (50, 7, 3)).astype(np.uint16)
    floats = random.normal(size=(50, 7, 3)) * 100
    floats[3, 3] = np.nan
    whole = [levels.scaled(wide, 65535, "colour", []), levels.stretched(floats, [])]
    monkeypatch.setattr(levels, "PIECE", 40)
    parts = [levels.scaled(wide, 65535, "colour", []), levels.stretched(floats, [])]
    assert all(np.array_equal(*pair) for pair in zip(whole, parts, strict=True))
    low, high = np.nanmin(floats), np.nanmax(floats)
    expected = np.nan_to_num((floats - low) * (255 / (high - low)))
    assert np.abs(parts[1] - expected).max() <= 0.51


def test_empty_ranges_are_black() -> None:
    """Of one value, of NaN only, and of the largest floats."""
    for values in (np.full((2, 2), 7), np.full((2, 2), np.nan), np.full((2, 2), 3e38, np.float32)):
        assert levels.stretched(values, []).max() == 0
    assert levels.stretched(np.array([[-1e308, 1e308]]), []).shape == (1, 2)
