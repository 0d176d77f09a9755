"""Paths as text, and what the operating system's errors on them mean."""

import errno
import os
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clipseg_cli.storage.paths import escape, fault, identity, is_url, local


@given(st.text(alphabet=st.characters(codec=None)))
def test_an_escaped_name_is_harmless_and_reversible(name: str) -> None:
    """It is one line of valid UTF-8 without control or direction characters, and the name can be restored from it."""
    shown = escape(name)
    shown.encode()
    assert not any(ord(letter) < 32 or 0x7F <= ord(letter) < 0xA0 for letter in shown)
    assert not set(shown) & set("\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\u2028\u2029\ufeff")
    assert re.sub(r"\\(\\|[ntr]|x..|u....|U.{8})", unescaped, shown) == name


def unescaped(match: re.Match[str]) -> str:
    """Returns the letter that an escape stands for."""
    text = match[1]
    if text[0] in "\\ntr":
        return {"\\": "\\", "n": "\n", "t": "\t", "r": "\r"}[text]
    code = int(text[1:], 16)
    return chr(code + 0xDC00 if text[0] == "x" and code >= 0x80 else code)


def test_escape_keeps_readable_text() -> None:
    """Letters, emoji and wide spaces stay unchanged; invisible characters become visible."""
    for name in ("café.jpg", "写真\u3000一.jpg", "عکس\u200cها.png", "👩\u200d💻.png", "a b.jpg"):
        assert escape(name) == name
    assert escape("a\nb\x1b[0m\x07\u202e\udcff\x85\\n") == r"a\nb\x1b[0m\x07\u202e\xff\u0085\\n"


def test_urls_are_told_from_paths() -> None:
    """A scheme has at least two letters, so that a Windows drive is a path; file:// leads to a path."""
    assert is_url("s3://bucket/a.jpg") and is_url("memory://a")
    assert not any(map(is_url, ("a.jpg", "/a", "c://a", "a/s3://b", "C:\\a")))
    assert local("file:///tmp/a.jpg") == "/tmp/a.jpg" and local("s3://b/a") == "s3://b/a"


def test_the_identity_of_a_file_changes_with_it(tmp_path: Path) -> None:
    """By time it changes when the file is touched, by checksum only when its content changes."""
    path = tmp_path / "a"
    path.write_bytes(b"one")
    by_time, by_content = identity(str(path)), identity(str(path), checksum=True)
    os.utime(path, ns=(1, 1))
    assert identity(str(path)) == [3, 1] != by_time and identity(str(path), checksum=True) == by_content
    path.write_bytes(b"two")
    assert identity(str(path), checksum=True) != by_content


@pytest.mark.parametrize(
    ("number", "kind", "advice"),
    [
        (errno.ENOENT, "vanished", "no such file"),
        (errno.ENOTDIR, "vanished", "no such file"),
        (errno.ELOOP, "vanished", "points to itself"),
        (errno.EISDIR, "not_a_file", "not a regular file"),
        (errno.ENXIO, "not_a_file", "not a regular file"),
        (errno.ENAMETOOLONG, "permission", "too long"),
        (errno.EIO, "permission", "next run tries again"),
        (errno.EACCES, "permission", "check its mode"),
    ],
)
def test_every_error_of_the_system_has_a_class_and_advice(number: int, kind: str, advice: str) -> None:
    """The error class of the record, and what to do."""
    error = fault(OSError(number, os.strerror(number)), "load")
    assert (error.kind, error.stage) == (kind, "load") and advice in str(error)
