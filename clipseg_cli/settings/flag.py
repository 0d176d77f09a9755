"""How one field of an option group is written on the command line, and what can be read off such fields.

    name: Annotated[int, Flag("What it does.", ("--name", "-n"), low=1)] = 1

A field whose type is itself an option group is not a flag: its own fields are. A field without a `Flag` is neither.
"""

from collections.abc import Callable, Iterator
from dataclasses import MISSING, Field, dataclass, fields, is_dataclass
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin, get_type_hints

from clipseg_cli.errors import UsageError


@dataclass(frozen=True, slots=True)
class Flag:
    """One flag. Its field gives the type: `bool` is a switch, a tuple is repeatable, `None` means not given."""

    help: str  # what it does, the unit, an example where it is not obvious
    names: tuple[str, ...] = ()  # empty: the field's name with hyphens; a switch may be "--on/--off"
    metavar: str | None = None  # how help names the value
    low: float | None = None  # smallest number allowed
    high: float | None = None  # largest number allowed
    parse: Callable[[str], Any] | None = None  # makes the value from the text; of a repeatable flag, a tuple of values
    spell: Callable[[Any], str] = str  # the opposite of `parse`
    default: str | None = None  # how help names a default that is not a plain value; "" hides it
    panel: str = ""  # heading in the help; empty: that of the group
    argument: bool = False  # a positional argument, not a flag
    decides: bool | None = None  # the content of the outputs depends on it; None: as its group's DECIDES says


@dataclass(frozen=True, slots=True)
class Option:
    """A flag with what its field says."""

    name: str
    type: Any
    flag: Flag
    default: Any
    panel: str
    decides: bool

    @property
    def repeatable(self) -> bool:
        """True where the flag may be given several times."""
        return get_origin(self.type) is tuple and get_args(self.type)[-1] is ...

    def long(self, on: bool = True) -> str:
        """The long spelling of the flag, like `--fill-holes`; of a switch "--on/--off" either side."""
        names = [name for name in self.flag.names if name.startswith("--")]
        return names[0].split("/")[0 if on else -1] if names else "--" + self.name.replace("_", "-")


def options(group: Any) -> Iterator[Option]:
    """The options of a group, with those of the groups inside it."""
    hints = get_type_hints(group, include_extras=True)
    for field in fields(group):
        kind, flag = hints[field.name], None
        if get_origin(kind) is Annotated:
            kind, *extra = get_args(kind)
            flag = next((each for each in extra if isinstance(each, Flag)), None)
        if flag is not None:
            decides = getattr(group, "DECIDES", False) if flag.decides is None else flag.decides
            panel = flag.panel or getattr(group, "PANEL", "")
            yield Option(field.name, kind, flag, _default(field), panel, decides)
        elif is_dataclass(kind):
            yield from options(kind)


def _default(field: "Field[Any]") -> Any:
    return field.default_factory() if field.default_factory is not MISSING else field.default


def fill(group: Any, given: dict[str, Any]) -> Any:
    """A group from the values of its options by name; what is not given keeps its default."""
    hints = get_type_hints(group)
    values = {}
    for field in fields(group):
        if is_dataclass(hints[field.name]):
            values[field.name] = fill(hints[field.name], given)
        elif field.name in given:
            values[field.name] = given[field.name]
    return group(**values)


def differing(value: Any) -> Iterator[tuple[Option, Any]]:
    """The options of a filled group that differ from their defaults, with their values."""
    for option in options(type(value)):
        owner = next(each for each in _groups(value) if hasattr(each, option.name))
        if (now := getattr(owner, option.name)) != option.default:
            yield option, now


def _groups(value: Any) -> Iterator[Any]:
    yield value
    for field in fields(value):
        inner = getattr(value, field.name)
        if is_dataclass(inner):
            yield from _groups(inner)


def decisive(*groups: Any) -> dict[str, Any]:
    """The options that decide the content of the outputs and differ from their defaults, by name."""
    return {option.name: now for group in groups for option, now in differing(group) if option.decides}


def spelled(*groups: Any) -> list[str]:
    """The command-line words that give these values."""
    words: list[str] = []
    for group in groups:
        for option, now in differing(group):
            if isinstance(now, bool):
                words.append(option.long(now))
            else:
                for each in now if option.repeatable else (now,):
                    words += (
                        [option.flag.spell(each)] if option.flag.argument else [option.long(), option.flag.spell(each)]
                    )
    return words


def local_path(text: str) -> Path:
    """A path on this machine. Raises UsageError for a bucket."""
    path = text.removeprefix("file://")
    if "://" in path:
        raise UsageError(f"{text}: this command reads local folders; copy it here first (aws s3 sync, rclone)")
    return Path(path)


def pixels(text: str, name: str, otherwise: str = "") -> int:
    """Reads a number of pixels. Raises UsageError naming the flag, and what else may be written."""
    if not (text.isascii() and text.isdigit()):
        raise UsageError(f"{name} {text}: give a number of pixels{otherwise}")
    return int(text)
