"""Defaults of options, from environment variables and configuration files.

Precedence: flag > CLIPSEG_* variable > clipseg.toml > [tool.clipseg] in pyproject.toml > user configuration > default.
Both project files are read from the working directory.
"""

import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import typer

from clipseg_cli.errors import UsageError


def configure(context: typer.Context, path: str | None) -> str | None:
    """Sets a command's configured defaults. The callback of --config, which is read before all other options."""
    context.default_map = {**(context.default_map or {}), **_configured(context, path)}
    return path


def _configured(context: typer.Context, path: str | None) -> dict[str, Any]:
    """Returns the configured values of a command's options, by parameter name.

    Keys are long flags without the --, at the top level or in a table named after the command. In a variable, a
    repeatable option has one value per line. Raises UsageError for a key that no command has.
    """
    own = {_flag(option): option for option in context.command.params if option.param_type_name == "option"}
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
            elif not isinstance(value, dict) and flag not in _all_flags(context.find_root().command):
                raise UsageError(f"{file}: no option is called {key!r}; keys are long flags without --, like threshold")
    for flag in own:
        if text := os.environ.get("CLIPSEG_" + flag.upper().replace("-", "_")):
            put(flag, text.splitlines() if getattr(own[flag], "multiple", False) else text)
    return values


def _all_flags(command: Any) -> set[str]:
    """Returns the long flags of a command and of all its subcommands."""
    if hasattr(command, "load"):
        command.load()
    own = {_flag(option) for option in command.params}
    return own.union(*map(_all_flags, getattr(command, "commands", {}).values()))


def _flag(option: Any) -> str:
    return max(option.opts, key=len).lstrip("-")  # type: ignore[no-any-return]


def _tables(config: str | None) -> Iterable[tuple[Path, dict[str, Any]]]:
    """Yields the configuration files and their tables, weakest first; only `config` if it is given."""
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
    import tomllib

    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        if required:
            raise UsageError(f"there is no configuration file {path}") from None
        return {}
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UsageError(f"cannot read {path}: {error}") from None
