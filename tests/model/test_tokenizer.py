"""Text becomes the token ids of transformers' own tokenizer."""

import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import CLIPTokenizer

from clipseg_cli.errors import ModelError
from clipseg_cli.model.tokenizer import read_tokenizer

TEXTS = [
    "a cat", "  A  Cat\n\t", "it's the dog's", "don't we'll I'VE", "café cafe\u0301", "İstanbul ẞ ſ ﬁ", "日本語の猫",
    "🐱👩‍👩‍👧 emoji", "a\u00a0b\u3000c\u200bd", "<|endoftext|> a", "x <|STARTOFTEXT|> <|EndOfText|>y", "½ ٣ 12345",
    "Ωμέγα ПРИВЕТ", "\x00\x01a", "!!!...", "a<|startoftext|>b", "…—“q”", "\u202ertl", "", "  ",
]  # fmt: skip


@pytest.fixture(scope="module")
def tokenizers(layout: Path) -> tuple[Any, Any]:
    """Our tokenizer and transformers' tokenizer from the same files."""
    return read_tokenizer(layout), CLIPTokenizer.from_pretrained(layout)


def test_tokens_equal_those_of_transformers(tokenizers: tuple[Any, Any]) -> None:
    """Spaces, case, accents, scripts, emoji, control characters and special tokens."""
    ours, theirs = tokenizers
    assert ours(TEXTS) == theirs(TEXTS).input_ids


@given(text=st.text())
@settings(max_examples=200, deadline=None)
def test_tokens_of_any_text_equal_those_of_transformers(tokenizers: tuple[Any, Any], text: str) -> None:
    """Any Unicode string."""
    ours, theirs = tokenizers
    assert ours([text])[0] == theirs(text).input_ids


@pytest.mark.parametrize("content", ["", "{", '{"model": {"type": "WordPiece"}}', '{"model": {}}', "[]"])
def test_a_damaged_tokenizer_is_a_model_error(tmp_path: Path, content: str) -> None:
    """The message names the directory."""
    (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(ModelError, match="cannot read the tokenizer") as error:
        read_tokenizer(tmp_path)
    assert str(tmp_path) in str(error.value)


def test_a_tokenizer_is_kept_until_its_files_change(layout: Path, tmp_path: Path) -> None:
    """A run reads it before torch is loaded, and the network asks for it again."""
    copy = Path(shutil.copytree(layout, tmp_path / "copy"))
    kept = read_tokenizer(copy)
    assert read_tokenizer(copy) is kept
    settings_file = copy / "tokenizer_config.json"
    settings_file.write_text(settings_file.read_text() + " ")
    assert read_tokenizer(copy) is not kept
