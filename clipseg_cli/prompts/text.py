"""What the user asks for: phrases, their labels and prompts files. Standard library only.

parse("a cat")            Prompt(label="a cat", text="a cat")
parse("cat=a fluffy cat") Prompt(label="cat", text="a fluffy cat")
parse('"a=b"')            Prompt(label='"a=b"', text='"a=b"')
"""

import csv
import io
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from clipseg_cli.errors import UsageError
from clipseg_cli.prompts.thresholds import Threshold, parse_threshold


@dataclass(frozen=True, slots=True)
class Prompt:
    """One phrase. `threshold` None: the run's own."""

    label: str
    text: str
    threshold: Threshold | None = None


def parse(argument: str) -> Prompt:
    """Reads `text` or `label=text`; what begins with a quote is a text. Raises UsageError when either side is blank."""
    label, equals, text = argument.partition("=")
    if label.lstrip()[:1] in ('"', "'"):
        equals = ""
    label, text = (label.strip(), text.strip()) if equals else (argument.strip(), argument.strip())
    if not label or not text:
        raise UsageError(f"empty prompt {argument!r}: write a phrase (-p 'a cat') or label=phrase (-p cat='a cat')")
    return Prompt(label, text)


def parse_expression(argument: str) -> Prompt:
    """Reads `expression` or `label=expression`; a `=` after a quote or a parenthesis is part of the expression."""
    label, equals, text = argument.partition("=")
    if not equals or set(label) & set("\"'("):
        label, text = argument, argument
    if not label.strip() or not text.strip():
        raise UsageError(f"empty expression {argument!r}: write --expr 'cat AND NOT dog' or --expr label='cat OR dog'")
    return Prompt(label.strip(), text.strip())


def read_file(path: str) -> tuple[Prompt, ...]:
    """Reads prompts from `.csv` (header: label, text, threshold; only text is needed), `.toml` (`[[prompt]]` tables
    with the same keys) or any other text file (one prompt a line, `#` begins a comment line).

    Raises UsageError naming the file and the line or entry that is wrong.
    """
    try:
        content = Path(path).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"cannot read the prompts file {path}: {error}") from None
    if path.lower().endswith(".csv"):
        rows = csv.DictReader(io.StringIO(content), skipinitialspace=True)
        try:
            if "text" not in (rows.fieldnames or ()):
                raise UsageError(
                    f"{path}: the first line must name the columns, with one called text: label,text,threshold"
                )
            prompts = [_entry(row, f"{path} line {rows.line_num}") for row in rows]
        except csv.Error as error:
            raise UsageError(f"{path} line {rows.line_num} is not valid CSV: {error}") from None
    elif path.lower().endswith(".toml"):
        try:
            tables = tomllib.loads(content).get("prompt")
        except (tomllib.TOMLDecodeError, RecursionError) as error:
            raise UsageError(f"{path} is not valid TOML: {error}") from None
        if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
            raise UsageError(f"{path}: give each prompt a [[prompt]] table with text, and label or threshold if wanted")
        prompts = [_entry(table, f"{path} [[prompt]] {number}") for number, table in enumerate(tables, 1)]
    else:
        prompts = []
        for number, line in enumerate(content.splitlines(), 1):
            if line.strip() and not line.lstrip().startswith("#"):
                try:
                    prompts.append(parse(line))
                except UsageError as error:
                    raise UsageError(f"{path} line {number}: {error}") from None
    if not prompts:
        raise UsageError(f"the prompts file {path} holds no prompt")
    return tuple(prompts)


def _entry(row: Mapping[str, object], where: str) -> Prompt:
    text, label = (row.get(key) or "" for key in ("text", "label"))
    if not isinstance(text, str) or not isinstance(label, str):
        raise UsageError(f"{where}: label and text are strings, in quotes")
    if not text.strip():
        raise UsageError(f"{where}: text is empty")
    prompt = Prompt(label.strip() or text.strip(), text.strip())
    value = row.get("threshold")
    return prompt if value in (None, "") else replace(prompt, threshold=parse_threshold(str(value), where))


def distinct(prompts: Iterable[Prompt]) -> tuple[Prompt, ...]:
    """The prompts themselves; raises UsageError when there is none or two share a label."""
    found: dict[str, Prompt] = {}
    for prompt in prompts:
        if prompt.label in found:
            raise UsageError(
                f"the label {prompt.label!r} is given twice: name one of them differently, like "
                f"-p 'other={prompt.text}'"
            )
        found[prompt.label] = prompt
    if not found:
        raise UsageError("no prompt: say what to look for with -p 'a cat' or a file of phrases with -P prompts.txt")
    return tuple(found.values())
