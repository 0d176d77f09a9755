"""Text prompts and their labels, from arguments and from prompts files. Standard library only.

parse("a cat")            Prompt(label="a cat", text="a cat")
parse("cat=a fluffy cat") Prompt(label="cat", text="a fluffy cat")
parse('"a=b"')            Prompt(label='"a=b"', text='"a=b"')
"""

import csv
import io
import locale
import os
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from clipseg_cli.errors import UsageError
from clipseg_cli.prompts.thresholds import Threshold, parse_threshold


@dataclass(frozen=True, slots=True)
class Prompt:
    """A text prompt and its label. If `threshold` is None, the run's threshold applies."""

    label: str
    text: str
    threshold: Threshold | None = None


def parse(argument: str) -> Prompt:
    """Parses `text` or `label=text`. An argument that starts with a quote has no label.

    Raises UsageError if the label or the text is blank, or if the argument is not text.
    """
    argument = _typed(argument)
    label, equals, text = argument.partition("=")
    if label.lstrip()[:1] in ('"', "'"):
        equals = ""
    label, text = (label.strip(), text.strip()) if equals else (argument.strip(), argument.strip())
    if not label or not text:
        raise UsageError(f"empty prompt {argument!r}: write a text (-p 'a cat') or label=text (-p cat='a cat')")
    return Prompt(label, text)


def parse_expression(argument: str) -> Prompt:
    """Splits `expression` or `label=expression`. The result's `text` is the expression, not parsed yet.

    A `=` after a quote or a parenthesis belongs to the expression. Raises UsageError as `parse` does.
    """
    argument = _typed(argument)
    label, equals, text = argument.partition("=")
    if not equals or set(label) & set("\"'("):
        label, text = argument, argument
    if not label.strip() or not text.strip():
        raise UsageError(f"empty expression {argument!r}: write --expr 'cat AND NOT dog' or --expr label='cat OR dog'")
    return Prompt(label.strip(), text.strip())


def _typed(argument: str) -> str:
    """Returns an argument as its user typed it: bytes that are not UTF-8 are text in the locale's encoding."""
    try:
        argument.encode()
        return argument
    except UnicodeEncodeError:
        pass
    try:
        return os.fsencode(argument).decode(locale.getencoding())
    except UnicodeError:
        raise UsageError(f"the prompt {argument!r} is not text in UTF-8 or in the encoding of the locale") from None


def read_file(path: str) -> tuple[Prompt, ...]:
    """Reads a prompts file. Its suffix decides the format.

    `.csv`    columns label, text and threshold; only text is required
    `.toml`   `[[prompt]]` tables with the same keys
    others    one prompt per line, as `parse` reads it; lines that start with # are comments

    Raises UsageError, which names the file and the faulty line or entry.
    """
    try:
        content = Path(path).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"cannot read the prompts file {path}: {error}") from None
    readers = {".csv": _read_csv, ".toml": _read_toml}
    read = next((readers[suffix] for suffix in readers if path.lower().endswith(suffix)), _read_lines)
    prompts = tuple(read(content, path))
    if not prompts:
        raise UsageError(f"the prompts file {path} has no prompt")
    return prompts


def _read_csv(content: str, path: str) -> Iterator[Prompt]:
    rows = csv.DictReader(io.StringIO(content), skipinitialspace=True)
    try:
        if "text" not in (rows.fieldnames or ()):
            raise UsageError(f"{path}: the first line must name the columns, including text: label,text,threshold")
        for row in rows:
            yield _entry(row, f"{path} line {rows.line_num}")
    except csv.Error as error:
        raise UsageError(f"{path} line {rows.line_num} is not valid CSV: {error}") from None


def _read_toml(content: str, path: str) -> Iterator[Prompt]:
    try:
        tables = tomllib.loads(content).get("prompt")
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise UsageError(f"{path} is not valid TOML: {error}") from None
    if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
        raise UsageError(f"{path}: give each prompt a [[prompt]] table with text, and optionally label and threshold")
    for number, table in enumerate(tables, 1):
        yield _entry(table, f"{path} [[prompt]] {number}")


def _read_lines(content: str, path: str) -> Iterator[Prompt]:
    for number, line in enumerate(content.splitlines(), 1):
        if line.strip() and not line.lstrip().startswith("#"):
            try:
                yield parse(line)
            except UsageError as error:
                raise UsageError(f"{path} line {number}: {error}") from None


def _entry(row: Mapping[str, object], where: str) -> Prompt:
    text, label = (row.get(key) or "" for key in ("text", "label"))
    if not isinstance(text, str) or not isinstance(label, str):
        raise UsageError(f"{where}: label and text must be strings in quotes")
    if not text.strip():
        raise UsageError(f"{where}: text is empty")
    prompt = Prompt(label.strip() or text.strip(), text.strip())
    value = row.get("threshold")
    return prompt if value in (None, "") else replace(prompt, threshold=parse_threshold(str(value), where))


def distinct(prompts: Iterable[Prompt]) -> tuple[Prompt, ...]:
    """Returns the prompts unchanged. Raises UsageError if there is none or if two share a label."""
    by_label: dict[str, Prompt] = {}
    for prompt in prompts:
        if prompt.label in by_label:
            raise UsageError(f"the label {prompt.label!r} is given twice: rename one, like -p 'other={prompt.text}'")
        by_label[prompt.label] = prompt
    if not by_label:
        raise UsageError("no prompt: say what to segment with -p 'a cat', or with a prompts file: -P prompts.txt")
    return tuple(by_label.values())
