"""Options of masks: lengths, areas, and values that do not fit each other."""

import pytest

from clipseg_cli.errors import UsageError
from clipseg_cli.settings.flag import options
from clipseg_cli.settings.masks import CleanUp, MaskOptions

PARSE = {option.name: option.flag.parse for option in options(MaskOptions)}


def test_an_area_is_pixels_or_a_share() -> None:
    """Pixels are an int, a share of the image is a float."""
    parse = PARSE["min_area"]
    assert parse is not None
    assert [parse("200"), parse("0.5%"), parse("100%")] == [200, 0.005, 1.0]
    assert isinstance(parse("200"), int) and isinstance(parse("0%"), float)
    for text in ("x", "101%", "-1%", "nan%", "%", "-5", "0.5"):
        with pytest.raises(UsageError, match="--min-area"):
            parse(text)


def test_holes_are_pixels_or_all() -> None:
    """Anything else is a usage error."""
    parse = PARSE["fill_holes"]
    assert parse is not None and [parse("30"), parse("all")] == [30, "all"]
    for text in ("some", "5%", "-1"):
        with pytest.raises(UsageError, match="--fill-holes"):
            parse(text)


@pytest.mark.parametrize("feather", [float("inf"), float("nan")])
def test_a_feather_is_finite(feather: float) -> None:
    """Infinity passes the range of the flag and is refused by the group."""
    with pytest.raises(UsageError, match="--feather"):
        CleanUp(feather=feather)


def test_a_background_goes_with_competing_labels() -> None:
    """Without --mode labels it would have no effect."""
    assert MaskOptions(mode="labels", background=0.3).background == 0.3
    with pytest.raises(UsageError, match="--mode labels"):
        MaskOptions(background=0.3)
