"""Fields of option groups: what is read off them. The groups are small ones of this file."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, ClassVar, Literal, get_args

import pytest

from clipseg_cli.errors import UsageError
from clipseg_cli.settings.evaluation import ProtocolOptions
from clipseg_cli.settings.flag import Flag, decisive, differing, fill, local_path, options, pixels, spelled
from clipseg_cli.settings.inputs import InputOptions
from clipseg_cli.settings.masks import MaskOptions
from clipseg_cli.settings.model import EncodeOptions, ModelOptions
from clipseg_cli.settings.outputs import OutputOptions
from clipseg_cli.settings.prompts import PromptOptions
from clipseg_cli.settings.run import ConsoleOptions, RunOptions
from clipseg_cli.settings.training import NewDecoder, Recipe

GROUPS = (
    PromptOptions, InputOptions, OutputOptions, MaskOptions, ModelOptions, EncodeOptions, RunOptions, ConsoleOptions,
    Recipe, NewDecoder, ProtocolOptions,
)  # fmt: skip
# every option on which the content of the outputs depends; prompts, thresholds and formats are recorded by themselves
DECISIVE = {
    "refine", "refine_model", "refine_parts", "refine_closer",
    "peak", "open", "close", "fill_holes", "min_area", "keep_largest", "grow", "invert", "feather",
    "min_presence", "mode", "background", "empty",
    "tile", "flip", "size", "similarity", "dtype", "backend",
    "instances", "touching", "polygons", "palette", "backdrop", "orientation", "name", "polarity",
    "images", "flat", "split", "decontaminate", "metadata",
    "frames", "raw", "bands", "stretch", "max_pixels", "checksum", "smooth", "codec",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Inner:
    """A group inside a group."""

    PANEL: ClassVar[str] = "Inside"
    DECIDES: ClassVar[bool] = True

    depth: Annotated[int, Flag("Depth.", ("--depth", "-d"), low=1)] = 1
    note: Annotated[str | None, Flag("Note.", decides=False)] = None


@dataclass(frozen=True, slots=True)
class Outer:
    """A group."""

    PANEL: ClassVar[str] = "Outside"

    file_name: Annotated[str, Flag("A file.", argument=True)]
    sizes: Annotated[tuple[int, ...], Flag("Sizes.", ("-s", "--size"))] = ()
    box: Annotated[tuple[int, int], Flag("A box.", spell=lambda box: f"{box[0]}x{box[1]}", panel="Advanced")] = (1, 1)
    fresh: Annotated[bool, Flag("Fresh.", ("--fresh/--stale",), decides=True)] = True
    inner: Inner = field(default_factory=Inner)
    kind: Annotated[Literal["a", "b"], Flag("A kind.")] = "a"
    derived: int = 0  # no flag


@dataclass(frozen=True, slots=True)
class Newer(Inner):
    """The inner group after an option was added."""

    added: Annotated[float, Flag("New.")] = 0.5


def test_options_are_the_fields_with_a_flag() -> None:
    """Those of an inner group stand in its place, with its panel. A field without a flag is none."""
    found = {option.name: option for option in options(Outer)}
    assert [*found] == ["file_name", "sizes", "box", "fresh", "depth", "note", "kind"]
    assert [option.panel for option in found.values()] == [
        "Outside", "Outside", "Advanced", "Outside", "Inside", "Inside", "Outside",
    ]  # fmt: skip
    assert [name for name, option in found.items() if option.decides] == ["fresh", "depth"]
    assert [name for name, option in found.items() if option.repeatable] == ["sizes"]


def test_the_long_name_of_a_flag() -> None:
    """The field's name with hyphens, unless the flag has its own; a switch may have two."""
    found = {option.name: option for option in options(Outer)}
    assert [found[name].long() for name in ("file_name", "sizes", "box", "depth", "kind")] == [
        "--file-name", "--size", "--box", "--depth", "--kind",
    ]  # fmt: skip
    assert (found["fresh"].long(True), found["fresh"].long(False)) == ("--fresh", "--stale")


def test_a_group_is_filled_by_names() -> None:
    """Inner groups too. What is not given keeps its default."""
    assert fill(Outer, {"file_name": "a", "depth": 3, "other": 1}) == Outer("a", inner=Inner(3))


def test_what_differs_from_the_defaults_is_found() -> None:
    """An option without a default always does."""
    filled = Outer("a", sizes=(1,), inner=Inner(note="x"))
    assert {option.name: value for option, value in differing(filled)} == {"file_name": "a", "sizes": (1,), "note": "x"}


def test_words_give_the_values() -> None:
    """Arguments stand alone, a repeatable flag is repeated, a switch has no value."""
    filled = Outer("a.txt", (1, 2), (3, 4), False, Inner(5), "b")
    words = "a.txt --size 1 --size 2 --box 3x4 --stale --depth 5 --kind b"
    assert " ".join(spelled(filled)) == words
    assert spelled(Inner(2), Inner(3)) == ["--depth", "2", "--depth", "3"]


def test_a_new_option_leaves_the_settings_of_earlier_runs_as_they_are() -> None:
    """At its default it is not recorded."""
    assert decisive(Newer()) == decisive(Inner()) == {}
    assert decisive(Newer(2), Outer("a", fresh=False)) == {"depth": 2, "fresh": False}
    assert decisive(Newer(added=0.7)) == {"added": 0.7}


def test_the_decisive_options_are_those_that_change_outputs() -> None:
    """Each of them must be equal in two runs that share a folder."""
    found = [option.name for group in GROUPS for option in options(group) if option.decides]
    assert set(found) == DECISIVE and len(found) == len(DECISIVE)


@pytest.mark.parametrize("group", GROUPS, ids=lambda group: group.__name__)
def test_every_option_is_explained(group: type) -> None:
    """Help is a sentence or several. No two options of a group share a flag, long or short."""
    found = list(options(group))
    values = {value for option in found for value in get_args(option.type)}  # help may start with one of them
    starts = [option.flag.help.split(":")[0].split(" ")[0] for option in found]
    assert all(start[0].isupper() or start[0] == "`" or start in values for start in starts)
    assert all(option.flag.help.endswith(".") or ": " in option.flag.help for option in found)
    names = [name for option in found for name in (option.flag.names or (option.long(),))]
    assert len(set(names)) == len(names)


def test_a_path_of_a_bucket_is_not_local() -> None:
    """A file URL is."""
    assert local_path("file:///a/b") == Path("/a/b") and local_path("a b") == Path("a b")
    with pytest.raises(UsageError, match="copy it here first"):
        local_path("s3://bucket/a")


@pytest.mark.parametrize("text", ["", "-1", "1.5", "\u0661", "1e3", " 1"])
def test_pixels_are_digits(text: str) -> None:
    """Anything else is refused with the name of the flag and what else may be written."""
    assert pixels("007", "--open") == 7
    with pytest.raises(UsageError, match=r"--open .*: give a number of pixels, or all"):
        pixels(text, "--open", ", or all")
