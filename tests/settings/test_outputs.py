"""Options of the outputs: formats and colours."""

import pytest

from clipseg_cli.errors import UsageError
from clipseg_cli.outputs.writers import WRITERS
from clipseg_cli.settings.flag import options
from clipseg_cli.settings.outputs import FORMATS, TOP_SETS, OutputOptions

OPTIONS = {option.name: option.flag for option in options(OutputOptions)}


def test_every_format_has_a_writer() -> None:
    """And every writer is a choice of --format, or a data set of --layout."""
    assert {*FORMATS, *TOP_SETS} == {*WRITERS}


def test_formats_are_joined_by_commas() -> None:
    """An unknown one is a usage error that lists all."""
    parse = OPTIONS["formats"].parse
    assert parse is not None and parse("mask,coco") == ("mask", "coco")
    for text in ("gif", "mask,", ""):
        with pytest.raises(UsageError, match="choose from mask, soft"):
            parse(text)


@pytest.mark.parametrize(("text", "colour"), [("white", (255, 255, 255)), ("#0a0b0c", (10, 11, 12)), ("#fff8", None)])
def test_a_backdrop_is_a_colour(text: str, colour: tuple[int, int, int] | None) -> None:
    """A name or #rrggbb. It is spelled as #rrggbb. Transparency does not count."""
    flag = OPTIONS["backdrop"]
    assert flag.parse is not None
    parsed = flag.parse(text)
    assert parsed == (colour or (255, 255, 255)) and flag.parse(flag.spell(parsed)) == parsed


@pytest.mark.parametrize("text", ["whitish", "rgb(300,0,0)", ""])
def test_a_wrong_colour_is_refused(text: str) -> None:
    """The message names the flag."""
    parse = OPTIONS["backdrop"].parse
    assert parse is not None
    with pytest.raises(UsageError, match="--backdrop"):
        parse(text)


@pytest.mark.parametrize(
    ("text", "shares"), [("0.8,0.1,0.1", (0.8, 0.1, 0.1)), ("0.75,0.25", (0.75, 0.25, 0)), ("1,0,0", (1, 0, 0))]
)
def test_a_split_is_two_or_three_shares(text: str, shares: tuple[float, float, float]) -> None:
    """Of train, val and test. It is spelled as it is read."""
    flag = OPTIONS["split"]
    assert flag.parse is not None
    assert flag.parse(text) == shares and flag.parse(flag.spell(shares)) == shares


@pytest.mark.parametrize("text", ["", "1", "0.8,0.1", "80,10,10", "1.5,-0.5", "a,b", "0.5,0.2,0.2,0.1", "nan,0,1"])
def test_shares_that_do_not_add_up_are_refused(text: str) -> None:
    """The message shows an example."""
    parse = OPTIONS["split"].parse
    assert parse is not None
    with pytest.raises(UsageError, match=r"--split .*0\.8,0\.1,0\.1"):
        parse(text)
