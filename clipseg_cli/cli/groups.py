"""Commands whose parameters are option groups: builds typer commands from the fields of `settings`.

    def segment(inputs: InputOptions, prompts: PromptOptions) -> None: ...

    command(app, "segment")(segment)

typer sees one parameter per flag, sorted by help panel; the function receives the groups, filled and checked.
"""

import inspect
from collections.abc import Callable, Iterator
from dataclasses import MISSING, is_dataclass
from functools import partial
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

import typer
from typer.core import TyperCommand, TyperGroup

from clipseg_cli.cli.configuration import configure
from clipseg_cli.errors import UsageError
from clipseg_cli.settings.flag import Flag, Option, fill, options

PANELS = ("Prompts", "Input", "Video", "Output", "Masks", "Model", "Run", "Advanced")  # in the order of the help


class Command(TyperCommand):
    """A command that builds its options from its function on first use, so that the program starts quickly.

    Its help is plain text with one section per panel, which is easy to search and to copy.
    """

    function: Callable[..., None]
    without: tuple[str, ...] = ()
    loaded = False

    def load(self) -> None:
        """Builds the parameters and the callback, once."""
        if not self.loaded:
            app = typer.Typer(add_completion=False)
            app.command(self.name)(_flat(self.function, self.without))
            full = typer.main.get_command(app)
            self.params, self.callback, self.loaded = full.params, full.callback, True

    def make_context(self, *words: Any, **options: Any) -> Any:
        """Returns the context of this command with its parsed command line."""
        self.load()
        return super().make_context(*words, **options)

    def get_params(self, ctx: Any) -> Any:
        """Returns the parameters of this command."""
        return _eased(super().get_params(ctx))

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Writes the arguments, then the flags of each panel."""
        sections: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(ctx):
            row = parameter.get_help_record(ctx)
            if row is not None:
                sections.setdefault(getattr(parameter, "rich_help_panel", None) or "Options", []).append(row)
        for title, rows in sections.items():
            with formatter.section(title):
                formatter.write_dl(rows)


class Group(TyperGroup):
    """A group of commands that lists them in the order in which they were added."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Returns the names of the commands."""
        return list(self.commands)

    def get_params(self, ctx: Any) -> Any:
        """Returns the parameters of this group."""
        return _eased(super().get_params(ctx))


def _eased(parameters: list[Any]) -> list[Any]:
    """Returns parameters that do without typer's conversion of values where it changes nothing. Changes `parameters`.

    It imports pydantic, which takes as long as this package.
    """
    for each in parameters:
        if hasattr(each, "type_descriptor"):  # of a typer that uses pydantic
            each.process_value = partial(_processed, each, type(each).process_value)
    return parameters


def _processed(parameter: Any, process: Callable[..., Any], context: Any, value: Any) -> Any:
    """Returns a parameter's value: as it is if it is text, a choice, the default or missing, else by `process`."""
    kind = parameter.type_descriptor.annotation
    each = get_args(kind)[0] if get_origin(kind) is list else kind
    choices = get_args(each) if get_origin(each) is Literal else None
    values = value if isinstance(value, list | tuple) else [value]
    plain = all(one in choices if choices else each is str and isinstance(one, str) for one in values)
    if not (plain or value is None or value is parameter.default) or (parameter.required and not value):
        return process(parameter, context, value)
    return value if parameter.callback is None else parameter.callback(context, parameter, value)


def command(
    app: typer.Typer, name: str | None = None, *, without: tuple[str, ...] = ()
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Returns a decorator that adds a function of option groups to `app` as a command. Its docstring is the help.

    `without` names options of the groups that the command leaves out; they keep their defaults.
    """

    def add(function: Callable[..., None]) -> Callable[..., None]:
        def placeholder() -> None:
            pass

        placeholder.__doc__ = function.__doc__
        own = {"function": staticmethod(function), "without": without}
        app.command(name or function.__name__, cls=type("Command", (Command,), own))(placeholder)
        return function

    return add


def _flat(function: Callable[..., None], without: tuple[str, ...]) -> Callable[..., None]:
    """Returns the function with one parameter per option, as typer expects it."""
    hints = get_type_hints(function, include_extras=True)
    hints.pop("return", None)
    plain = inspect.signature(function).parameters
    flat: list[Option] = []
    for name, kind in hints.items():
        flat += _own(name, kind, plain[name].default)
    flat = [option for option in flat if option.name not in without]
    assert len({option.name for option in flat}) == len(flat), f"{function.__name__}: two options have the same name"
    flat.sort(key=lambda option: PANELS.index(option.panel) if option.panel in PANELS else -1)

    def run(**given: Any) -> None:
        values = {option.name: value for option in flat if (value := _value(option, given[option.name])) is not MISSING}
        groups = {
            name: fill(kind, values) if is_dataclass(kind) else values.get(name, plain[name].default)
            for name, kind in hints.items()
        }
        function(**groups)

    parameters = [_parameter(option) for option in flat]
    run.__name__, run.__doc__ = function.__name__, function.__doc__
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {each.name: each.annotation for each in parameters}
    return run


def _own(name: str, kind: Any, default: Any) -> Iterator[Option]:
    """Yields the options of one parameter: those of its group, or the parameter itself if it has a `Flag`."""
    if is_dataclass(kind):
        yield from options(kind)
        return
    base, flag = get_args(kind)
    yield Option(name, base, flag, MISSING if default is inspect.Parameter.empty else default, flag.panel, False)


def _parameter(option: Option) -> inspect.Parameter:
    """Returns the parameter for typer. An option with its own parser is plain text for typer."""
    flag: Flag = option.flag
    kind: Any = option.type
    if option.repeatable:
        kind = list[str if flag.parse else get_args(kind)[0]] | None  # type: ignore[misc]
    elif flag.parse is not None:
        kind = str if option.default is MISSING else str | None
    elif flag.default:  # it may depend on other options
        kind = kind | None
    text = flag.help if not flag.default else f"{flag.help} [default: {flag.default}]"
    shown = flag.default is None and not option.repeatable and option.default not in (None, False, MISSING)
    common: dict[str, Any] = {"help": text, "metavar": flag.metavar or _metavar(option), "show_default": shown}
    common |= {"rich_help_panel": option.panel or None}
    info = typer.Argument(**common) if flag.argument else _option(option, common)
    default: Any = option.default
    if default is MISSING:
        default = inspect.Parameter.empty
    elif option.repeatable or flag.parse is not None or flag.default:
        default = None
    annotation = Annotated[kind, info]
    return inspect.Parameter(option.name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


def _metavar(option: Option) -> str | None:
    """Returns the name of the value in the help. None leaves it to typer, which lists the choices."""
    if option.flag.argument and option.repeatable:
        return option.name.upper()
    return {int: "N", float: "X", str: option.name.upper()}.get(option.type)


def _option(option: Option, common: dict[str, Any]) -> Any:
    names = option.flag.names or (option.long(),)
    if option.name == "config":
        common |= {"callback": configure, "is_eager": True}
    return typer.Option(*names, **common)


def _value(option: Option, given: Any) -> Any:
    """Returns the value for the option's field; MISSING keeps the field's default. Raises UsageError."""
    if option.repeatable:
        if not given:
            return MISSING
        parse = option.flag.parse
        values = [value for text in given for value in (parse(text) if parse else (text,))]
        for value in values:
            _check_range(option, value)
        return tuple(dict.fromkeys(values)) if parse else tuple(values)
    if option.flag.parse is not None:
        return MISSING if given is None else option.flag.parse(given)
    _check_range(option, given)
    return MISSING if given is None else given


def _check_range(option: Option, given: Any) -> None:
    low, high = option.flag.low, option.flag.high
    if given is None or (low is None and high is None):
        return
    if (low is not None and not given >= low) or (high is not None and not given <= high):  # rejects NaN too
        span = f"from {low:g} to {high:g}" if high is not None else f"of at least {low:g}"
        raise UsageError(f"{option.long()} {given}: give a number {span}")
