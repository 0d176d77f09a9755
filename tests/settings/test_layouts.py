"""Layouts as values: what `--layout` sets, and what goes before it."""

from dataclasses import replace
from typing import get_args

import pytest

from clipseg_cli.errors import UsageError
from clipseg_cli.outputs import names
from clipseg_cli.outputs.writers.one_file import NAMED
from clipseg_cli.settings.layouts import LAYOUTS, applied
from clipseg_cli.settings.outputs import ExportOptions, Layout, OutputOptions


def test_every_choice_is_a_layout() -> None:
    """And every layout a choice of --layout."""
    assert {*get_args(Layout)} == {*LAYOUTS}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_layout_never_lets_two_outputs_meet(layout: Layout) -> None:
    """Its names pass the check of --name for any labels, alone and beside the usual formats."""
    for formats in ((), ("soft", "overlay")):
        options = applied(OutputOptions(layout=layout, formats=formats))  # type: ignore[arg-type]
        assert options.formats == (*LAYOUTS[layout].names, *formats)
        names.check(options.name, options.formats, ("cat", "dog"), NAMED)


def test_what_is_given_goes_before_the_layout() -> None:
    """Formats are added; a name of a format and a polarity are replaced; --keep turns the polarity of the layout."""
    layout = OutputOptions(layout="colmap", formats=("mask",), name=("mask={label}/{dir}/{stem}.png",))
    options = applied(layout)
    assert options.name == ("joined={dir}/{name}.png", "mask={label}/{dir}/{stem}.png")
    assert (options.export.polarity, options.export.orientation) == ("black", "stored")
    assert applied(replace(layout, keep=True)).export.polarity == "white"
    other = applied(replace(layout, name=("joined=m/{dir}/{stem}.tif",), export=ExportOptions(polarity="white")))
    assert other.name == ("joined=m/{dir}/{stem}.tif",) and other.export.polarity == "white"
    assert applied(OutputOptions()) == OutputOptions()


@pytest.mark.parametrize(
    "options",
    [
        OutputOptions(keep=True),
        OutputOptions(layout="colmap", keep=True, export=ExportOptions(polarity="black")),
        OutputOptions(layout="coco", keep=True),
    ],
)
def test_keep_needs_a_polarity_to_turn(options: OutputOptions) -> None:
    """Without a layout, with --polarity, or with the layout of a data set, it would have no meaning."""
    with pytest.raises(UsageError, match=r"--keep.* polarity"):
        applied(options)
