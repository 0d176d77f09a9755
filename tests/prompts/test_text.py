"""Text prompts, labels and prompts files."""

from pathlib import Path

import pytest

from clipseg_cli.errors import UsageError
from clipseg_cli.prompts.text import Prompt, distinct, parse, read_file


@pytest.mark.parametrize(
    ("argument", "label", "text"),
    [
        ("a cat", "a cat", "a cat"),
        ("cat=a fluffy cat", "cat", "a fluffy cat"),
        (" cat = x=y ", "cat", "x=y"),
        ("猫=一只猫", "猫", "一只猫"),
        ('"a=b"', '"a=b"', '"a=b"'),
        ("sign='a=b'", "sign", "'a=b'"),
    ],
)
def test_a_prompt_is_a_text_with_an_optional_label(argument: str, label: str, text: str) -> None:
    """Without `label=`, or where the argument starts with a quote, the label is the text."""
    assert parse(argument) == Prompt(label, text)


@pytest.mark.parametrize("argument", ["", "  ", "cat=", "=a cat", " = "])
def test_a_blank_prompt_is_refused(argument: str) -> None:
    """Neither the label nor the text may be blank."""
    with pytest.raises(UsageError, match="empty prompt"):
        parse(argument)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.txt", "# prompts\ncat=a cat\n\nsky\n"),
        ("a.csv", "label,text,threshold\ncat,a cat,\n,sky,0.4\n"),
        ("a.CSV", "\ufefflabel, text, threshold\ncat, a cat,\n, sky, 0.4\n"),
        ("a.toml", '[[prompt]]\nlabel="cat"\ntext="a cat"\n[[prompt]]\ntext="sky"\nthreshold=0.4\n'),
    ],
)
def test_every_format_of_prompts_file_gives_the_same_prompts(tmp_path: Path, name: str, content: str) -> None:
    """Lines, CSV and TOML hold labels and texts; CSV and TOML also thresholds."""
    (tmp_path / name).write_text(content)
    read = read_file(str(tmp_path / name))
    assert [(each.label, each.text) for each in read] == [("cat", "a cat"), ("sky", "sky")]
    assert read[1].threshold == (None if name.endswith("txt") else 0.4)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", "name,prompt\na,b\n", "column"),
        ("a.csv", "label,text\na,\n", "line 2"),
        ("a.csv", "text,threshold\na,2\n", "0 to 1"),
        ("a.toml", "prompt = 3\n", r"\[\[prompt\]\]"),
        ("a.csv", 'text\n"' + "a" * 200_000, "line .*CSV"),
        ("a.toml", "x = [", "TOML"),
        ("a.toml", "x = " + "[" * 5000, "TOML"),
        ("a.toml", '[[prompt]]\ntext = ["a cat"]', r"\[\[prompt\]\] 1.*strings"),
        ("a.txt", "a cat\n=dog\n", "line 2.*empty prompt"),
        ("a.txt", "# nothing\n", "no prompt"),
    ],
)
def test_an_error_in_a_prompts_file_says_where_it_is(tmp_path: Path, name: str, content: str, message: str) -> None:
    """The message names the file, the line or entry, and what is wrong."""
    (tmp_path / name).write_text(content)
    with pytest.raises(UsageError, match=message) as caught:
        read_file(str(tmp_path / name))
    assert name in str(caught.value)


def test_a_label_given_twice_is_refused() -> None:
    """Prompts with the same label would share their output files. No prompt at all is refused too."""
    with pytest.raises(UsageError, match="twice"):
        distinct([Prompt("a", "x"), Prompt("a", "y")])
    with pytest.raises(UsageError, match="no prompt"):
        distinct([])
