"""Options of the model: lists of devices, tiles and windows."""

import pytest

from clipseg_cli.errors import UsageError
from clipseg_cli.settings.flag import options
from clipseg_cli.settings.model import EncodeOptions, devices


@pytest.mark.parametrize(
    "text, each",
    [("auto", ["auto"]), ("cuda:1", ["cuda:1"]), ("cuda:0,1", ["cuda:0", "cuda:1"]), ("cpu,cpu", ["cpu", "cpu"]),
     ("cuda:0,cuda:3,5,cpu", ["cuda:0", "cuda:3", "cuda:5", "cpu"])],
)  # fmt: skip
def test_a_list_of_devices_is_read(text: str, each: list[str]) -> None:
    """`cuda:0,1` is short for `cuda:0,cuda:1`. A device may be named twice."""
    assert [*devices(text)] == each


@pytest.mark.parametrize("text", ["cuda:0,", "0,1", "cpu,1", "auto,cpu", "cuda:0,x", "gpu", "", "cuda:\u0661"])
def test_a_wrong_list_of_devices_is_refused(text: str) -> None:
    """The error shows the right form."""
    with pytest.raises(UsageError, match="like cuda:0,1"):
        devices(text)


def tile(text: str) -> EncodeOptions:
    """The options with this value of --tile."""
    parse = next(option.flag.parse for option in options(EncodeOptions) if option.name == "tile")
    assert parse is not None
    return EncodeOptions(tile=parse(text))


def test_tile_is_a_number_of_tiles_or_the_size_of_a_window() -> None:
    """Never both: windows take the place of the whole image."""
    assert (tile("3").tiles, tile("3").window) == (3, 0)
    assert (tile("512px").tiles, tile("512px").window) == (1, 512)
    assert tile(" 0512PX ").tile == "512px"


@pytest.mark.parametrize("text", ["0", "-1", "px", "31px", "1.5", "512 px", "512p", "", "\u0663", "9" * 20])
def test_a_wrong_tile_is_refused(text: str) -> None:
    """The error shows both forms."""
    with pytest.raises(UsageError, match=r"like 3; .* like 512px"):
        tile(text)
