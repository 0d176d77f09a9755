"""Slugs: folder names made from labels."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clipseg_cli.prompts.slugs import unique_slugs


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
    """A slug has the label's letters and digits, of any script, in lower case, joined by hyphens."""
    assert unique_slugs([label]) == (slug,)


@given(st.lists(st.text(min_size=1, max_size=120), unique=True, max_size=20))
def test_slugs_are_distinct_safe_folder_names(labels: list[str]) -> None:
    """Any labels give names that differ even if case is ignored, fit in a path component and stay in their folder."""
    names = unique_slugs(labels)
    assert len({name.casefold() for name in names}) == len(labels)
    for name in names:
        assert 0 < len(name.encode()) <= 100
        assert not set(name) & set('/\\:*?"<>|\0\n.') and not name.startswith("-")
