"""Splits: which part of a data set, train, val or test, an image belongs to."""

from clipseg_cli.inputs import names
from clipseg_cli.settings.outputs import Shares

SPLITS = ("train", "val", "test")
STEPS = 10**9  # a share may be this fine


def split(stem: str, framed: bool, shares: Shares | None) -> str:
    """Returns the part that an image belongs to, one of SPLITS; "" without shares.

    `stem` is the image's output path, which alone decides. All frames of a file belong together (`framed`), and so do
    images whose names differ only in their extension.
    """
    if shares is None:
        return ""
    number = names.shard_number(stem.rpartition("/")[0] if framed else names.stem(stem))
    place = number % STEPS / STEPS  # evenly spread in [0, 1)
    train, val, _ = shares
    return SPLITS[(place >= train) + (place >= train + val)]
