"""What the user asks for: phrases, their labels, slugs and thresholds. Standard library only.

parse("a cat")            Prompt(label="a cat", text="a cat")
parse("cat=a fluffy cat") Prompt(label="cat", text="a fluffy cat")
parse('"a=b"')            Prompt(label='"a=b"', text='"a=b"')
"""

import csv
import hashlib
import io
import re
import tomllib
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from clipseg_cli.errors import UsageError

SLUG_BYTES = 80  # leaves room for a suffix in the 255 bytes that file systems allow a name
# Names that Windows keeps for devices: a folder of that name cannot be made there.
_RESERVED = {"con", "prn", "aux", "nul", *(f"{d}{i}" for d in ("com", "lpt") for i in range(1, 10))}


# A probability in [0, 1]; or chosen for each map: "otsu", or "p90" for its 90th percentile.
Threshold = float | str


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
    return prompt if value in (None, "") else replace(prompt, threshold=threshold(str(value), where))


def probability(text: str, where: str) -> float:
    """Reads a number in [0, 1]; UsageError names `where` it stood."""
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not 0.0 <= value <= 1.0:  # also refuses nan
        raise UsageError(f"{where}: {text!r} is not a number from 0 to 1")
    return value


def threshold(text: str, where: str) -> Threshold:
    """Reads a number in [0, 1], `otsu`, or a percentile like `p90`; UsageError names `where` it stood."""
    text = text.strip()
    if text == "otsu" or (re.fullmatch(r"p\d+(\.\d+)?", text) and float(text[1:]) <= 100):
        return text
    try:
        return probability(text, where)
    except UsageError:
        raise UsageError(
            f"{where}: {text!r} is neither a number from 0 to 1, nor otsu, nor a percentile like p90"
        ) from None


def thresholds(arguments: Iterable[str], prompts: Iterable[Prompt], default: Threshold) -> tuple[Threshold, ...]:
    """The threshold of each prompt from `-t` arguments (`0.4` for all, `label=0.4` for one).

    A label's own argument beats its entry in a prompts file, which beats the bare argument, which beats the
    model's default. Raises UsageError for a label that no prompt has.
    """
    general: Threshold | None = None
    own: dict[str, Threshold] = {}
    for argument in arguments:
        label, equals, value = argument.rpartition("=")
        if equals:
            own[label.strip()] = threshold(value, f"--threshold {argument}")
        else:
            general = threshold(argument, "--threshold")
    prompts = tuple(prompts)
    if unknown := sorted(own.keys() - {prompt.label for prompt in prompts}):
        known = ", ".join(prompt.label for prompt in prompts)
        raise UsageError(f"--threshold names the label {unknown[0]!r}, which no prompt has (labels: {known})")
    rest = default if general is None else general
    return tuple(own.get(prompt.label, rest if prompt.threshold is None else prompt.threshold) for prompt in prompts)


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


def slugs(labels: Iterable[str]) -> tuple[str, ...]:
    """A folder name for each label: letters and digits of any script in lower case, joined by hyphens.

    The names are distinct even where a file system folds case, safe on Windows, and at most 80 bytes each; equal
    labels in equal order give equal names.
    """
    taken: set[str] = set()
    result = []
    for label in labels:
        base = _slug(label)
        name, number = base, 1
        while name in taken:
            number += 1
            name = f"{base}-{number}"
        taken.add(name)
        result.append(name)
    return tuple(result)


def _slug(label: str) -> str:
    folded = unicodedata.normalize("NFC", unicodedata.normalize("NFC", label).casefold())
    kept = (c if c.isalnum() or unicodedata.category(c).startswith("M") else " " for c in folded)
    slug = "-".join("".join(kept).split())
    digest = hashlib.sha256(label.encode("utf-8", "surrogatepass")).hexdigest()[:8]
    if len(slug.encode("utf-8", "surrogatepass")) > SLUG_BYTES:
        slug = slug.encode("utf-8", "surrogatepass")[: SLUG_BYTES - 9].decode("utf-8", "ignore") + "-" + digest
    if not slug or slug in _RESERVED:
        slug = f"label-{digest}"
    return slug
