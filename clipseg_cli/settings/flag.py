"""How a field of an option group appears on the command line, and functions that read and fill such groups.

    name: Annotated[int, Flag("What it does.", ("--name", "-n"), low=1)] = 1

If a field's type is an option group, the fields of that group are flags. A field without a `Flag` is not an option.
"""

from collections.abc import Callable, Iterator
from dataclasses import MISSING, Field, dataclass, fields, is_dataclass
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin, get_type_hints

from clipseg_cli.errors import UsageError


@dataclass(frozen=True, slots=True)
class Flag:
    """One flag. The type of its field decides: `bool` is a switch, a tuple is repeatable, `None` means not given."""

    help: str  # what it does, the unit, an example where it is not obvious
    names: tuple[str, ...] = ()  # empty: the field's name with hyphens; a switch may be "--on/--off"
    metavar: str | None = None  # name of the value in the help
    low: float | None = None  # smallest number allowed
    high: float | None = None  # largest number allowed
    parse: Callable[[str], Any] | None = None  # converts text to the value; for a repeatable flag, to a tuple of values
    spell: Callable[[Any], str] = str  # converts a value back to text
    default: str | None = None  # text for the default in the help; None: the value itself; "": nothing
    panel: str = ""  # heading in the help; empty: the group's PANEL
    argument: bool = False  # a positional argument, not a flag
    decides: bool | None = None  # whether it affects the outputs' content; None: the group's DECIDES


@dataclass(frozen=True, slots=True)
class Option:
    """A flag with the name, type and default of its field."""

    name: str
    type: Any
    flag: Flag
    default: Any
    panel: str
    decides: bool

    @property
    def repeatable(self) -> bool:
        """Whether the flag may be given several times."""
        return get_origin(self.type) is tuple and get_args(self.type)[-1] is ...

    def long(self, on: bool = True) -> str:
        """Returns the long flag, like `--fill-holes`; for a switch "--on/--off" the side that `on` selects."""
        names = [name for name in self.flag.names if name.startswith("--")]
        return names[0].split("/")[0 if on else -1] if names else "--" + self.name.replace("_", "-")


def options(group: Any) -> Iterator[Option]:
    """Yields the options of a group and of the groups inside it."""
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
    """Returns a group with the given values, by option name. Other options keep their defaults.

    A group may have a class method `preset` that returns other defaults for what is given.
    """
    hints = get_type_hints(group)
    if hasattr(group, "preset"):
        given = group.preset(given) | given
    values = {}
    for field in fields(group):
        if is_dataclass(hints[field.name]):
            values[field.name] = fill(hints[field.name], given)
        elif field.name in given:
            values[field.name] = given[field.name]
    return group(**values)


def values(group: Any) -> Iterator[tuple[Option, Any]]:
    """Yields the options of a filled group with their values."""
    for option in options(type(group)):
        owner = next(each for each in _groups(group) if hasattr(each, option.name))
        yield option, getattr(owner, option.name)


def differing(group: Any) -> Iterator[tuple[Option, Any]]:
    """Yields the options of a filled group whose values differ from the defaults, with these values."""
    return ((option, now) for option, now in values(group) if now != option.default)


def _groups(value: Any) -> Iterator[Any]:
    yield value
    for field in fields(value):
        inner = getattr(value, field.name)
        if is_dataclass(inner):
            yield from _groups(inner)


def decisive(*groups: Any) -> dict[str, Any]:
    """Returns the values that affect the outputs' content and differ from the defaults, by option name."""
    return {option.name: now for group in groups for option, now in differing(group) if option.decides}


def spelled(*groups: Any) -> list[str]:
    """Returns the command-line words that give these values."""
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
    """Returns a path on this machine. Raises UsageError for other URLs than file://."""
    path = text.removeprefix("file://")
    if "://" in path:
        raise UsageError(f"{text}: this command reads local folders only; copy it here first (aws s3 sync, rclone)")
    return Path(path)


def pixels(text: str, name: str, otherwise: str = "") -> int:
    """Parses a number of pixels. Raises UsageError that names the flag and, in `otherwise`, other valid values."""
    if not (text.isascii() and text.isdigit()):
        raise UsageError(f"{name} {text}: give a number of pixels{otherwise}")
    return int(text)
