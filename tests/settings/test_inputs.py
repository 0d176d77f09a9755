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


def test_a_stretch_is_a_name_or_two_percentages() -> None:
    """It is spelled as it is written; percentages are in order and within 0 and 100."""
    flag = OPTIONS["stretch"]
    assert flag.parse is not None
    assert [flag.spell(flag.parse(text)) for text in ("none", "minmax", "2,98", "0.5,99%")] == [
        "none", "minmax", "2,98%", "0.5,99%",
    ]  # fmt: skip
    for text in ("", "all", "98,2%", "2%", "-1,50%", "0,101%", "nan,98%", "2,inf"):
        with pytest.raises(UsageError, match="2,98%"):
            flag.parse(text)


def test_bands_are_three_or_one() -> None:
    """Counted from 1."""
    flag = OPTIONS["bands"]
    assert flag.parse is not None and flag.parse("4,3, 2") == (4, 3, 2) and flag.parse("7") == (7,)
    assert flag.spell((4, 3, 2)) == "4,3,2"
    for text in ("", "1,2", "0,1,2", "a,b,c", "1,2,3,4", "-1"):
        with pytest.raises(UsageError, match="the first is 1"):
            flag.parse(text)
