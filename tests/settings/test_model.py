"""Options of the model: lists of devices."""

import pytest

from clipseg_cli.errors import UsageError
from clipseg_cli.settings.model import devices


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
