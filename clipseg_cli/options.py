"""The command line's options: shared `Annotated` aliases, and where their defaults come from.

Precedence: flag > CLIPSEG_* variable > clipseg.toml or [tool.clipseg] of the working directory > user config > default.
"""

import os
import sys
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from clipseg_cli import settings
from clipseg_cli.errors import UsageError

_IN, _WHAT, _MODEL, _MASK, _OUT, _RUN = "Images", "Prompts", "Model", "Masks", "Output", "Run"


Print = Literal["paths", "none"]

Inputs = Annotated[
    list[str] | None,
    typer.Argument(help="Files, folders (walked recursively), quoted globs, or - for stdin.", show_default=False),
]
FilesFrom = Annotated[
    str | None, typer.Option(metavar="FILE|-", help="Read paths from a file, one a line.", rich_help_panel=_IN)
]
Null = Annotated[bool, typer.Option("--null", "-0", help="Paths in lists end in NUL.", rich_help_panel=_IN)]
Ext = Annotated[
    list[str] | None,
    typer.Option("--ext", "-e", metavar="EXT", help="Only files with this extension.", rich_help_panel=_IN),
]
Exclude = Annotated[
    list[str] | None,
    typer.Option("--exclude", "-E", metavar="GLOB", help="Leave out paths or folders.", rich_help_panel=_IN),
]
MaxDepth = Annotated[
    int | None, typer.Option("--max-depth", "-d", min=1, help="1: no subfolders.", rich_help_panel=_IN)
]
Follow = Annotated[bool, typer.Option("--follow", "-L", help="Follow symbolic links.", rich_help_panel=_IN)]
Hidden = Annotated[
    bool, typer.Option("--hidden", "-H", help="Include names that begin with a dot.", rich_help_panel=_IN)
]
Limit = Annotated[int | None, typer.Option(min=1, metavar="N", help="Stop after N images.", rich_help_panel=_IN)]
MaxPixels = Annotated[
    int, typer.Option(min=1, metavar="N", help="Refuse larger pictures, before decoding.", rich_help_panel=_IN)
]
PromptText = Annotated[
    list[str] | None,
    typer.Option("--prompt", "-p", metavar="TEXT", help="What to find; label=text names it.", rich_help_panel=_WHAT),
]
PromptsFile = Annotated[
    str | None,
    typer.Option("--prompts-file", "-P", metavar="FILE", help="One a line, or .csv or .toml.", rich_help_panel=_WHAT),
]
Expr = Annotated[
    list[str] | None,
    typer.Option(metavar="[LABEL=]EXPR", help="Phrases joined by AND, OR, NOT and ( ).", rich_help_panel=_WHAT),
]
Support = Annotated[
    list[str] | None,
    typer.Option(
        metavar="[LABEL=]IMG", help="An exemplar, or a folder of them: find such things.", rich_help_panel=_WHAT
    ),
]
SupportMask = Annotated[
    list[str] | None,
    typer.Option(metavar="IMG", help="Its object, bright; default: IMG_mask.png beside it.", rich_help_panel=_WHAT),
]
SupportBox = Annotated[
    list[str] | None, typer.Option(metavar="X,Y,W,H", help="Its object, as a box in pixels.", rich_help_panel=_WHAT)
]
SupportPrompt = Annotated[
    str | None, typer.Option(metavar="TEXT", help="A phrase that finds its object.", rich_help_panel=_WHAT)
]
Highlight = Annotated[
    str, typer.Option(metavar="RECIPE", help="How the model is shown exemplars; see the README.", rich_help_panel=_WHAT)
]
Mix = Annotated[
    float,
    typer.Option(
        min=0.0, max=1.0, help="The phrase's share where a label has both it and exemplars.", rich_help_panel=_WHAT
    ),
]
ShowExemplar = Annotated[
    str | None,
    typer.Option(metavar="FILE.png", help="Write what the model is shown of the exemplars.", rich_help_panel=_WHAT),
]
Model = Annotated[
    str,
    typer.Option("--model", "-m", help="Alias, hub id org/name\\[@revision], or a directory.", rich_help_panel=_MODEL),
]
Offline = Annotated[bool, typer.Option("--offline", help="Never use the network.", rich_help_panel=_MODEL)]
Device = Annotated[str, typer.Option(metavar="auto|cpu|cuda[:i]|mps", help="Where to run.", rich_help_panel=_MODEL)]
DtypeOption = Annotated[
    settings.Dtype, typer.Option("--dtype", help="auto: bf16 where the hardware is fast at it.", rich_help_panel=_MODEL)
]
BackendOption = Annotated[
    settings.Backend, typer.Option("--backend", help="transformers: the reference, slower.", rich_help_panel=_MODEL)
]
BatchSize = Annotated[
    int | None, typer.Option("--batch-size", "-b", min=1, help="Images encoded at once.", rich_help_panel=_MODEL)
]
Threshold = Annotated[
    list[str] | None,
    typer.Option("--threshold", "-t", metavar="[LABEL=]P", help="0 to 1; default: the model's.", rich_help_panel=_MASK),
]
EmptyOption = Annotated[
    settings.Empty,
    typer.Option("--empty", help="An absent object: an all-zero mask, or no file.", rich_help_panel=_MASK),
]
Out = Annotated[
    str | None,
    typer.Option(
        "--out", "-o", metavar="DIR|FILE|-", help="Where to write. \\[default: clipseg-out]", rich_help_panel=_OUT
    ),
]
FormatOption = Annotated[
    list[str] | None,
    typer.Option(
        "--format",
        "-f",
        metavar="mask|overlay|soft",
        help="Repeatable. \\[default: mask overlay]",
        rich_help_panel=_OUT,
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON record an image.", rich_help_panel=_OUT)]
PrintOption = Annotated[
    Print | None,
    typer.Option("--print", help="Mask paths on stdout. \\[default: unless a terminal]", rich_help_panel=_OUT),
]
DryRun = Annotated[
    bool, typer.Option("--dry-run", "-n", help="List what would be done; load nothing.", rich_help_panel=_RUN)
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Only errors on stderr.", rich_help_panel=_RUN)]
ProgressOption = Annotated[settings.Progress, typer.Option("--progress", help="On stderr.", rich_help_panel=_RUN)]


Resume = Annotated[
    bool,
    typer.Option(
        "--resume/--overwrite", help="Do only what is missing, or forget what is there.", rich_help_panel=_RUN
    ),
]
Checksum = Annotated[
    bool, typer.Option("--checksum", help="Know an input by its content, not its time.", rich_help_panel=_RUN)
]
Fsync = Annotated[bool, typer.Option("--fsync", help="Survive a loss of power too; slower.", rich_help_panel=_RUN)]
NoColor = Annotated[bool, typer.Option("--no-color", help="No colours on stderr.", rich_help_panel=_RUN)]
Debug = Annotated[bool, typer.Option("--debug", help="Show a traceback with an error.", rich_help_panel=_RUN)]


def _configure(context: typer.Context, path: str | None) -> str | None:
    """Puts configured defaults under the command's flags. Eager: click runs it before it reads the other options."""
    context.default_map = {**(context.default_map or {}), **configured(context, path)}
    return path


Config = Annotated[
    str | None,
    typer.Option(
        metavar="FILE", help="Read defaults from this file only.", callback=_configure, is_eager=True,
        rich_help_panel=_RUN,
    ),
]  # fmt: skip


def input_options(
    inputs: Iterable[str] | None,
    files_from: str | None,
    null: bool,
    ext: Iterable[str] | None,
    exclude: Iterable[str] | None,
    max_depth: int | None,
    follow: bool,
    hidden: bool,
    limit: int | None,
    max_pixels: int,
) -> settings.InputOptions:
    """The input options as one value; extensions get their dot and lower case.

    Raises UsageError where there is nothing to read: no input, no list, and a terminal on stdin.
    """
    extensions = tuple("." + each.lower().lstrip("*").lstrip(".") for text in ext or () for each in text.split(","))
    if not inputs and files_from is None and sys.stdin.isatty():
        raise UsageError("no input: name files or folders, or pipe in a list of paths or one image")
    return settings.InputOptions(
        tuple(inputs or ()), files_from, null, extensions, tuple(exclude or ()), max_depth, follow, hidden, limit,
        max_pixels,
    )  # fmt: skip


def output_options(
    out: str | None, formats: Iterable[str] | None, resume: bool, checksum: bool, fsync: bool
) -> settings.OutputOptions:
    """The output options as one value; `formats` may be repeated or joined by commas. Raises UsageError."""
    names = tuple(dict.fromkeys(name for text in formats or () for name in text.split(",")))
    for name in names:
        if name not in settings.FORMATS:
            raise UsageError(f"--format {name}: no such format; choose from {', '.join(settings.FORMATS)}")
    return settings.OutputOptions(out or "clipseg-out", names, resume, checksum, fsync)  # type: ignore[arg-type]


def configured(context: typer.Context, path: str | None) -> dict[str, Any]:
    """The values that configuration gives to one command's options, by parameter name.

    Keys are the long flags, at the top level or in a table named like the command. A variable gives a repeatable
    option one value a line. Raises UsageError naming the file and the key that no option of any command has.
    """
    own = {_flag(option): option for option in context.command.params if option.param_type_name == "option"}
    every = {_flag(option) for command in _commands(context.find_root().command) for option in command.params}
    values: dict[str, Any] = {}

    def put(flag: str, value: Any) -> None:
        many = getattr(own[flag], "multiple", False) and not isinstance(value, list)
        values[own[flag].name or flag] = [value] if many else value

    for file, table in _tables(path):
        chosen = {**table, **table.get(context.info_name or "", {})}
        for key, value in chosen.items():
            flag = key.replace("_", "-")
            if flag in own:
                put(flag, value)
            elif flag not in every and not isinstance(value, dict):
                raise UsageError(f"{file}: {key!r} is no option; keys are long flags, like threshold or max-depth")
    for flag in own:
        if text := os.environ.get("CLIPSEG_" + flag.upper().replace("-", "_")):
            put(flag, text.splitlines() if getattr(own[flag], "multiple", False) else text)
    return values


def _commands(command: Any) -> Iterable[Any]:
    yield command
    for each in getattr(command, "commands", {}).values():
        yield from _commands(each)


def _flag(option: Any) -> str:
    return max(option.opts, key=len).lstrip("-")  # type: ignore[no-any-return]


def _tables(config: str | None) -> Iterable[tuple[Path, dict[str, Any]]]:
    """The configuration tables, weakest first: user's, then the working directory's, or only `config` if given."""
    if config is not None:
        yield Path(config), _read(Path(config), required=True)
        return
    if sys.platform == "win32":
        home = Path(os.environ.get("APPDATA", Path.home()))
    else:
        home = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")
    yield home / "clipseg" / "config.toml", _read(home / "clipseg" / "config.toml")
    project = _read(Path("pyproject.toml")).get("tool", {}).get("clipseg", {})
    yield Path("pyproject.toml"), project
    yield Path("clipseg.toml"), _read(Path("clipseg.toml"))


def _read(path: Path, required: bool = False) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        if required:
            raise UsageError(f"no configuration file {path}") from None
        return {}
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UsageError(f"cannot read {path}: {error}") from None
