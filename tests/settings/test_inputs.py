"""Options of the inputs: extensions and shards."""

import pytest

from clipseg_cli.errors import UsageError
from clipseg_cli.settings.flag import options
from clipseg_cli.settings.inputs import InputOptions

OPTIONS = {option.name: option.flag for option in options(InputOptions)}


def test_an_extension_may_be_written_in_several_ways() -> None:
    """With or without a dot, as a glob, in capitals, joined by commas."""
    parse = OPTIONS["extensions"].parse
    assert parse is not None and parse("JPG,.png,*.tif,jpeg") == (".jpg", ".png", ".tif", ".jpeg")


def test_a_shard_is_one_of_several() -> None:
    """Counted from 0. It is spelled as it is written."""
    flag = OPTIONS["shard"]
    assert flag.parse is not None and flag.parse("0/1") == (0, 1) and flag.parse("3/16") == (3, 16)
    assert flag.spell((3, 16)) == "3/16"
    for text in ("4/4", "1", "-1/4", "a/b", "0/0", "1/", "/2", "1/2/3"):
        with pytest.raises(UsageError, match="I/N"):
            flag.parse(text)
