"""Phrases, labels, slugs and thresholds."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clipseg_cli.errors import UsageError
from clipseg_cli.prompts import text
from clipseg_cli.prompts.text import Prompt


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
def test_a_prompt_is_a_text_or_a_label_and_a_text(argument: str, label: str, text: str) -> None:
    """`label=text` names the label; otherwise, and where it begins with a quote, the label is the text."""
    assert text.parse(argument) == Prompt(label, text)


@pytest.mark.parametrize("argument", ["", "  ", "cat=", "=a cat", " = "])
def test_a_blank_prompt_is_refused(argument: str) -> None:
    """Neither side of a prompt may be blank."""
    with pytest.raises(UsageError, match="empty prompt"):
        text.parse(argument)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.txt", "# phrases\ncat=a cat\n\nsky\n"),
        ("a.csv", "label,text,threshold\ncat,a cat,\n,sky,0.4\n"),
        ("a.CSV", "\ufefflabel, text, threshold\ncat, a cat,\n, sky, 0.4\n"),
        ("a.toml", '[[prompt]]\nlabel="cat"\ntext="a cat"\n[[prompt]]\ntext="sky"\nthreshold=0.4\n'),
    ],
)
def test_every_kind_of_prompts_file_says_the_same(tmp_path: Path, name: str, content: str) -> None:
    """Lines, CSV and TOML give the same prompts; the last two also a threshold."""
    (tmp_path / name).write_text(content)
    read = text.read_file(str(tmp_path / name))
    assert [(each.label, each.text) for each in read] == [("cat", "a cat"), ("sky", "sky")]
    assert read[1].threshold == (None if name.endswith("txt") else 0.4)


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.csv", "name,phrase\na,b\n", "column"),
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
def test_a_wrong_prompts_file_is_named_with_the_place(tmp_path: Path, name: str, content: str, says: str) -> None:
    """The message names the file and what is wrong in it."""
    (tmp_path / name).write_text(content)
    with pytest.raises(UsageError, match=says) as caught:
        text.read_file(str(tmp_path / name))
    assert name in str(caught.value)


def test_thresholds_come_from_the_nearest_source() -> None:
    """A label's own -t beats its file entry, which beats the bare -t, which beats the model's default."""
    known = [Prompt("a", "a"), Prompt("b", "b", 0.7), Prompt("c", "c")]
    assert text.thresholds(["c=0.2", "0.4"], known, 0.3) == (0.4, 0.7, 0.2)
    assert text.thresholds([], known, 0.3) == (0.3, 0.7, 0.3)


@pytest.mark.parametrize("argument", ["1.1", "-0.1", "nan", "x", "a=", "nobody=0.5"])
def test_a_wrong_threshold_is_refused(argument: str) -> None:
    """Not a number from 0 to 1, or a label that no prompt has."""
    with pytest.raises(UsageError):
        text.thresholds([argument], [Prompt("a", "a")], 0.3)


def test_a_label_given_twice_is_refused() -> None:
    """Two prompts may not share a label, since they would share their files."""
    with pytest.raises(UsageError, match="twice"):
        text.distinct([Prompt("a", "x"), Prompt("a", "y")])
    with pytest.raises(UsageError, match="no prompt"):
        text.distinct([])


@pytest.mark.parametrize(
    ("label", "slug"),
    [
        ("a cat", "a-cat"),
        ("Größe/Weiß", "grösse-weiss"),
        ("../../etc", "etc"),
        ("猫 だ", "猫-だ"),
        ("a\n\x1b[31m", "a-31m"),
    ],
)
def test_a_slug_reads_like_its_label(label: str, slug: str) -> None:
    """Letters and digits of any script, in lower case, joined by hyphens."""
    assert text.slugs([label]) == (slug,)


@given(st.lists(st.text(min_size=1, max_size=120), unique=True, max_size=20))
def test_slugs_are_distinct_safe_folder_names(labels: list[str]) -> None:
    """Any labels give distinct names, also where case is folded, that fit in a path part and cannot leave a folder."""
    names = text.slugs(labels)
    assert len({name.casefold() for name in names}) == len(labels)
    for name in names:
        assert 0 < len(name.encode()) <= 100
        assert not set(name) & set('/\\:*?"<>|\0\n.') and not name.startswith("-")
