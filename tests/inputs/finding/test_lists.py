"""Lists of paths from other systems: byte order marks, UTF-16, CRLF, quotes, the home folder."""

import gzip
import io
import os
from pathlib import Path

import pytest
from PIL import Image

from clipseg_cli.errors import UsageError
from clipseg_cli.inputs.finding import lists
from pictures import Program, Shell, picture, records, save

NAMES = [
    "a.jpg",
    "b c.png",
    "caf\u00e9.jpg",
    "\u4e0a\u0a0a/\u4f8b.png",
    "\U0001f408.jpg",
]  # two letters hold the byte of a line end


def read(data: bytes, null: bool = False) -> list[str]:
    """The paths of a list."""
    return list(lists.paths(io.BytesIO(data), null))


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working and home folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("USERPROFILE", str(tmp_path / "home"))
    return tmp_path


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"])
def test_a_byte_order_mark_says_how_to_read_a_list(here: Path, encoding: str, end: str) -> None:
    """PowerShell's `>` writes UTF-16, Notepad UTF-8 with a mark. The last line may lack its end."""
    mark = "\ufeff" if encoding[-2:] in ("le", "be") else ""
    for last in (end, ""):
        data = (mark + end.join(NAMES) + last).encode(encoding)
        assert read(data) == NAMES
        assert read(data + (end.encode(encoding) if encoding[-2:] in ("le", "be") else b"")) == NAMES


def test_lists_that_were_joined_have_several_marks(here: Path) -> None:
    """`cat one.txt two.txt`."""
    assert read(b"\xef\xbb\xbfa.jpg\r\n\xef\xbb\xbfb.jpg\r\n") == ["a.jpg", "b.jpg"]
    assert read('\ufeffa.jpg\r\n\ufeff"b.jpg"\r\n'.encode("utf-16-le")) == ["a.jpg", "b.jpg"]


def test_quotes_and_the_home_folder_are_understood(here: Path) -> None:
    """Quotes around a line, doubled quotes inside them as spreadsheets write them, and ~/. Empty lines are skipped."""
    home = f"{here}/home/"
    data = b'"a b.jpg"\r\n"say ""hi"".jpg"\r\n~/c.jpg\r\n"~/d e.jpg"\r\n""\r\n"\r\n\'f\'\r\n~g.jpg\r\n"h" "i"\r\n'
    assert read(data) == ["a b.jpg", 'say "hi".jpg', f"{home}c.jpg", f"{home}d e.jpg", '"', "'f'", "~g.jpg", 'h" "i']


def test_a_line_that_names_a_file_is_taken_literally(here: Path) -> None:
    """Quotes, ~/ and a mark are part of a name if there is such a file."""
    for name in ('"a.jpg"', "~/b.jpg", "\ufeffc.jpg"):
        save(here / "a.png", picture(8, 8))
        (here / name).parent.mkdir(exist_ok=True)
        os.link(here / "a.png", here / name)
        assert read(f"{name}\n".encode()) == [name]
    assert read('\ufeff"a.jpg"\n'.encode()) == ["a.jpg"], "of the name with the mark there is no file"


def test_nul_ends_paths_of_any_bytes(here: Path) -> None:
    """Only a UTF-8 mark is removed."""
    assert read(b'\xef\xbb\xbfa.jpg\0"b"\0~/c\0\xff\xfed\0e\r\0', null=True) == [
        "a.jpg", '"b"', "~/c", os.fsdecode(b"\xff\xfed"), "e\r",
    ]  # fmt: skip


def test_bytes_like_a_mark_may_be_a_name(here: Path) -> None:
    """Without any NUL it is not UTF-16."""
    name = os.fsdecode(b"\xff\xfe.jpg")
    assert read(b"\xff\xfe.jpg\nb.jpg\n") == [name, "b.jpg"] and read(b"DDS 1.jpg\n") == ["DDS 1.jpg"]


@pytest.mark.parametrize("size", [1, 3])
def test_a_utf16_list_is_used_before_it_ends(here: Path, size: int) -> None:
    """It may arrive in pieces that cut a letter."""
    data = "\ufeff".encode("utf-16-le") + "".join(f"{name}\r\n" for name in NAMES).encode("utf-16-le")
    position = 0

    class Slow(io.RawIOBase):
        def read(self, amount: int = -1) -> bytes:
            nonlocal position
            position += size
            return data[position - size : position]

    found = lists.paths(Slow(), False)  # type: ignore[arg-type]
    assert next(found) == "a.jpg" and position < 40
    assert list(found) == NAMES[1:]


def workbook() -> bytes:
    """The start of a file of a spreadsheet."""
    return b"PK\x03\x04\x14\0\x06\0" + bytes(40)


def image() -> bytes:
    """A PNG."""
    file = io.BytesIO()
    Image.new("RGB", (3, 2)).save(file, "PNG")
    return file.getvalue()


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (image(), "is an image"),
        (workbook(), "spreadsheet"),
        (gzip.compress(b"a.jpg\n", mtime=0), "archive"),
        ("\ufeffa.jpg\n".encode("utf-32-le"), "UTF-32"),
        ("\ufeffa.jpg\r\n".encode("utf-16-le")[:-1], "damaged UTF-16"),
    ],
)
def test_what_is_wrong_with_a_list_is_said(here: Path, data: bytes, says: str) -> None:
    """One error, not a failed record for every piece of rubbish."""
    with pytest.raises(UsageError, match=says):
        read(data)


def test_lists_from_elsewhere_are_segmented(quick_clipseg: Program, tmp_path: Path) -> None:
    """With --files-from and on stdin. Of UTF-16 without a mark, each record says what to do."""
    save(tmp_path / "imgs/b c.jpg", picture())
    text = '"imgs/b c.jpg"\r\n'
    (tmp_path / "list.txt").write_bytes(text.encode("utf-8-sig"))
    quick_clipseg("clipseg segment -p red --files-from list.txt -o one")
    quick_clipseg("clipseg segment -p red -o two", stdin=("\ufeff" + text).encode("utf-16-be"))
    for out in ("one", "two"):
        assert [row["image"] for row in records(tmp_path / out / "manifest.jsonl")] == ["imgs/b c.jpg"]
    done = quick_clipseg("clipseg segment -p red -o three", stdin=text.encode("utf-16-le"), expect=3)
    assert "save a UTF-16 list as UTF-8" in done.stderr


@pytest.mark.slow
def test_a_list_of_powershell_goes_through_a_pipe(quick_shell: Shell, tmp_path: Path) -> None:
    """UTF-16 by iconv, with CRLF and quotes."""
    save(tmp_path / "imgs/caf\u00e9.jpg", picture())
    line = "find imgs -type f -printf '\"%p\"\\r\\n' | iconv -f UTF-8 -t UTF-16"
    quick_shell(
        f"{line} | clipseg segment -p red -o one; {line} > l.txt; clipseg segment --files-from l.txt -p red -o two"
    )
    for out in ("one", "two"):
        assert [row["image"] for row in records(tmp_path / out / "manifest.jsonl")] == ["imgs/caf\u00e9.jpg"]
