"""Markdown tables, and the sections of a page that a program writes."""

from collections.abc import Iterable, Sequence
from pathlib import Path

FIGURES = ("<!-- figures -->", "<!-- end of figures -->")


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Returns a Markdown table."""
    lines = ["| " + " | ".join(map(str, row)) + " |" for row in (head, *rows)]
    return "\n".join([lines[0], "|---" * len(head) + "|", *lines[1:]])


def replace_section(page: Path, text: str, marks: tuple[str, str] = FIGURES) -> None:
    """Replaces the text between the two marks of a page."""
    before, rest = page.read_text("utf-8").split(marks[0])
    page.write_text(f"{before}{marks[0]}\n{text}\n{marks[1]}{rest.split(marks[1])[1]}", "utf-8")
