"""Discovery: which files a run takes, in which order, under which names, and what it says about the rest."""

import contextlib
import io
import json
import os
import re
import resource
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from clipseg_cli.errors import UsageError
from clipseg_cli.inputs.discovery import discover
from clipseg_cli.inputs.kinds import EXTENSIONS, sniff
from clipseg_cli.inputs.names import output_names
from clipseg_cli.inputs.search import OUTPUT_NAMES
from clipseg_cli.inputs.source import Source
from clipseg_cli.settings.inputs import InputOptions
from clipseg_cli.storage.paths import escape


def make(folder: Path, *names: str) -> Path:
    """Empty files below a folder, with the folders they need."""
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return folder


def png() -> bytes:
    """The bytes of a real image."""
    file = io.BytesIO()
    Image.new("RGB", (3, 2), "red").save(file, "PNG")
    return file.getvalue()


def find(*inputs: str, stdin: bytes | None = None, out: str | None = None, **options: object) -> list[Source]:
    """All sources of these inputs."""
    stream = None if stdin is None else io.BytesIO(stdin)
    return list(discover(InputOptions(inputs=inputs, **options), stream, out))  # type: ignore[arg-type]


def names(sources: list[Source]) -> list[str]:
    """How the manifest will call them."""
    return [source.name for source in sources]


def kinds(sources: list[Source]) -> dict[str, str]:
    """The error class of every source that failed."""
    return {source.name: source.error.kind for source in sources if source.error}


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory, so that names are as typed."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_walk_takes_images_sorted_by_name_within_each_folder(here: Path) -> None:
    """Order is that of names, folders among files; other files are not images; names begin with what was typed."""
    make(here, "imgs/c.jpg", "imgs/a.PNG", "imgs/b/z.tif", "imgs/b/y.webp", "imgs/notes.txt", "imgs/d.psd")
    found = find("imgs")
    assert names(found) == ["imgs/a.PNG", "imgs/b/y.webp", "imgs/b/z.tif", "imgs/c.jpg"]
    assert [source.output for source in found] == ["a", "b/y", "b/z", "c"]
    assert names(find("./imgs/"))[0] == "./imgs/a.PNG"


def test_outputs_carry_the_typed_path_unless_one_folder_is_the_only_input(here: Path) -> None:
    """Two roots cannot meet, a leading slash is dropped, and ".." never leaves the output directory."""
    make(here, "one/a.jpg", "two/a.jpg", "two/deep/b.jpg")
    assert [source.output for source in find("one", "two")] == ["one/a", "two/a", "two/deep/b"]
    assert [source.output for source in find(str(here / "one/a.jpg"))] == [str(here / "one/a")[1:]]
    assert [source.output for source in find("./one/../two/a.jpg", "one")] == ["one/__/two/a", "one/a"]


def test_files_that_share_a_stem_keep_their_full_names(here: Path) -> None:
    """a.jpg, a.png, A.jpg and sub/a.jpg have four outputs; whether filtered or named, a file's output is the same."""
    make(here, "imgs/a.jpg", "imgs/a.png", "imgs/A.jpg", "imgs/sub/a.jpg")
    assert [source.output for source in find("imgs")] == ["A", "a.jpg", "a.png", "sub/a"]
    assert [source.output for source in find("imgs", extensions=(".png",))] == ["a.png"]
    assert [source.output for source in find("imgs/a.jpg")] == ["imgs/a.jpg"]
    assert [source.output for source in find(stdin=b"imgs/a.png\n")] == ["imgs/a.png"]


NAMES = st.lists(st.sampled_from("ab"), min_size=1, max_size=2).map("".join)
SUFFIXES = st.lists(st.sampled_from(["", ".jpg", ".png", ".txt", ".JPG"]), max_size=3).map("".join)


@given(st.sets(st.builds(str.__add__, NAMES, SUFFIXES), max_size=12))
def test_output_names_are_never_shared(files: set[str]) -> None:
    """Every file of a folder has its own output, which is its name or its stem."""
    outputs = output_names(files)
    assert len(set(outputs.values())) == len(files)
    assert all(name == output or name.rpartition(".")[0] == output for name, output in outputs.items())


def test_a_full_name_pushes_aside_the_file_whose_stem_it_is() -> None:
    """A chain of names that end in several extensions stays free of collisions."""
    files = ["a.jpg", "a.png", "a.jpg.png", "a.jpg.png.tif", "b.tif"]
    assert output_names(files) == {name: name for name in files[:-1]} | {"b.tif": "b"}


def test_an_image_without_extension_is_taken_by_its_first_bytes(here: Path) -> None:
    """The documented rule: no extension and image magic; text without extension is no image, nor is a wrong ending."""
    make(here, "imgs/README", "imgs/scan.2024")
    (here / "imgs/photo").write_bytes(png())
    (here / "imgs/scan.2024").write_bytes(png())
    assert names(find("imgs")) == ["imgs/photo"]
    assert names(find("imgs", extensions=(".png",))) == []
    assert names(find("imgs/scan.2024", "imgs/README")) == ["imgs/scan.2024", "imgs/README"]


def test_filters_prune_what_they_name(here: Path) -> None:
    """Exclusions match the path below the root or any part of it; depth, hidden names and the limit hold."""
    make(here, "i/a.jpg", "i/b.png", "i/build/c.jpg", "i/x/build/d.jpg", "i/thumbs/e.jpg", "i/.h/f.jpg", "i/.g.jpg")
    every = ["i/a.jpg", "i/b.png", "i/build/c.jpg", "i/thumbs/e.jpg", "i/x/build/d.jpg"]
    assert names(find("i")) == every
    assert names(find("i", exclude=("build",))) == ["i/a.jpg", "i/b.png", "i/thumbs/e.jpg"]
    assert names(find("i", exclude=("build/",))) == ["i/a.jpg", "i/b.png", "i/thumbs/e.jpg"]
    assert names(find("i", exclude=("*.png", "thumbs/*", "x"))) == ["i/a.jpg", "i/build/c.jpg"]
    assert names(find("i", max_depth=1)) == ["i/a.jpg", "i/b.png"]
    assert names(find("i", max_depth=2)) == every[:-1]
    assert names(find("i", hidden=True)) == ["i/.g.jpg", "i/.h/f.jpg", *every]
    assert names(find("i", extensions=(".png",))) == ["i/b.png"]
    assert names(find("i", limit=2)) == every[:2]


def test_globs_expand_only_where_no_file_has_that_name(here: Path) -> None:
    """A literal `*` wins; a glob without a match contributes nothing; folders it matches are walked, links are not."""
    make(here, "i/a.jpg", "i/b.png", "i/sub/c.jpg", "*.jpg", "x[1].jpg")
    (here / "i/loop").symlink_to(here / "i")
    assert names(find("*.jpg")) == ["*.jpg"]
    assert names(find("x[1].jpg")) == ["x[1].jpg"]
    assert names(find("i/*.jpg")) == ["i/a.jpg"]
    assert names(find("i/**/*.jpg")) == ["i/a.jpg", "i/sub/c.jpg"]
    assert names(find("i/s*")) == ["i/sub/c.jpg"]
    assert names(find("none/*.jpg", "i/b.png")) == ["i/b.png"]
    assert names(find(f"{here}/i/s*/*")) == [f"{here}/i/sub/c.jpg"]


def test_a_name_given_twice_is_one_image(here: Path) -> None:
    """Typed twice, listed twice or inside a named folder: once, in the place of the first."""
    make(here, "i/a.jpg", "i/b.jpg")
    assert names(find("i/b.jpg", "i", "./i/a.jpg", "i/b.jpg")) == ["i/b.jpg", "i/a.jpg"]
    assert names(find(stdin=b"i/a.jpg\ni/b.jpg\ni/a.jpg\n")) == ["i/a.jpg", "i/b.jpg"]


def test_lists_are_taken_literally(here: Path) -> None:
    """Leading dashes, globs, substitutions and spaces are file names; only line ends and empty lines go."""
    hostile = ["-rf.jpg", "--help.png", "$(x).jpg", "*", "%s.jpg", " lead.jpg", "a\rb.jpg", "-"]
    make(here, *hostile)
    lines = "\n".join([*hostile[:4], "", *hostile[4:]])
    assert names(find(stdin=lines.encode())) == hostile
    assert names(find(stdin=lines.replace("\n", "\r\n").encode() + b"\r\n")) == hostile
    nulls = b"\0".join(os.fsencode(name) for name in [*hostile, "new\nline.jpg"]) + b"\0\0"
    make(here, "new\nline.jpg")
    assert names(find(stdin=nulls, null=True, files_from="-")) == [*hostile, "new\nline.jpg"]
    (here / "list.txt").write_bytes(nulls)
    assert names(find(files_from="list.txt", null=True)) == [*hostile, "new\nline.jpg"]


def test_a_list_may_name_folders_and_join_other_inputs(here: Path) -> None:
    """Inputs come first, then the list; a folder in it is walked with its path as prefix."""
    make(here, "i/a.jpg", "i/b.jpg", "c.gif")
    (here / "list").write_text("i\n")
    found = find("c.gif", files_from="list")
    assert [(source.name, source.output) for source in found] == [
        ("c.gif", "c"),
        ("i/a.jpg", "i/a"),
        ("i/b.jpg", "i/b"),
    ]


def test_standard_input_is_an_image_where_it_begins_like_one() -> None:
    """Every container that is read, and the foreign ones, arrive whole; anything else is a list."""
    for data in (png(), b"GIF89a" + bytes(99), b"BM" + bytes(12) + b"\x28\0\0\0" + b"\n" * 50, b"P6\n2 1\n255\nabcdef"):
        (source,) = find("-", stdin=data)
        assert (source.name, source.output, source.data) == ("-", "stdin", data)
    assert kinds(find(stdin=b"BMW/a.jpg\nP6 trip.jpg\nMM\nII.tif\nRIFF\n")) == dict.fromkeys(
        ["BMW/a.jpg", "P6 trip.jpg", "MM", "II.tif", "RIFF"], "vanished"
    )
    assert find(stdin=b"") == []


def test_a_list_on_a_pipe_is_used_before_it_ends(here: Path) -> None:
    """The first path is yielded while the writer still holds the pipe open."""
    make(here, "a.jpg", "b.jpg")
    reader, writer = os.pipe()
    with open(reader, "rb") as stdin:
        os.write(writer, b"a.jpg\n")
        found = discover(InputOptions(), stdin)
        assert next(found).name == "a.jpg"
        os.write(writer, b"b.j")
        os.write(writer, b"pg")
        os.close(writer)
        assert names(list(found)) == ["b.jpg"]


def test_an_image_in_small_pieces_on_a_pipe_is_still_an_image() -> None:
    """A PNG signature holds a line end; cut behind it, the image is not mistaken for a list."""
    reader, writer = os.pipe()
    data = png()
    with subprocess.Popen(
        [sys.executable, "-c", "import os,sys,time\nfor b in sys.argv[1].split('-'):\n"
         " os.write(1, bytes.fromhex(b)); time.sleep(0.05)", f"{data[:6].hex()}-{data[6:9].hex()}-{data[9:].hex()}"],
        stdout=writer,
    ), open(reader, "rb") as stdin:  # fmt: skip
        os.close(writer)
        (source,) = discover(InputOptions(), stdin)
    assert source.data == data


def test_nothing_to_read_is_a_usage_error() -> None:
    """A terminal, one stream for two purposes, and a list that is missing are said at once, before any image."""
    for options in (InputOptions(), InputOptions(inputs=("-",)), InputOptions(files_from="-")):
        with pytest.raises(UsageError, match="nothing to read"):
            discover(options, None)
    with pytest.raises(UsageError, match="named twice"):
        discover(InputOptions(inputs=("-",), files_from="-"), io.BytesIO())
    with pytest.raises(UsageError, match="no/list"):
        discover(InputOptions(files_from="no/list"), None)
    with pytest.raises(UsageError, match="no line end"):
        find(stdin=b"x" * (1 << 21))


def test_what_is_no_regular_file_is_a_record_and_never_opened(here: Path) -> None:
    """Missing names, FIFOs, sockets, devices, dangling and circular links: one error each, no waiting."""
    os.mkfifo("i.jpg")
    (here / "f").mkdir()
    os.mkfifo("f/fifo.jpg")
    os.mkfifo("f/plainfifo")
    Path("dangling.jpg").symlink_to("nowhere")
    Path("loop.jpg").symlink_to("loop.jpg")
    make(here, "f/a.jpg", "f/x.jpg/inside.png")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("f/s.png")
        found = find("i.jpg", "gone.jpg", "a.jpg/b", "dangling.jpg", "loop.jpg", "/dev/null", "f")
    assert kinds(found) == {
        "i.jpg": "not_a_file",
        "gone.jpg": "vanished",
        "a.jpg/b": "vanished",
        "dangling.jpg": "vanished",
        "loop.jpg": "vanished",
        "/dev/null": "not_a_file",
        "f/fifo.jpg": "not_a_file",
        "f/s.png": "not_a_file",
    }
    assert [source.name for source in found if not source.error] == ["f/a.jpg", "f/x.jpg/inside.png"]
    assert all(source.error is None or source.error.stage == "discover" for source in found)
    assert kinds(find(stdin=b"a\0b.jpg\n")) == {"a\0b.jpg": "vanished"}


def test_links_are_followed_only_on_request_and_each_file_once(here: Path) -> None:
    """Without the flag a walk skips links; with it loops end, and no inode comes twice. A named link is a file."""
    make(here, "outside/o.jpg", "i/a.jpg", "i/sub/b.jpg")
    for link, target in {"loop": "..", "sub/up": "../..", "out": "../outside", "copy.jpg": "a.jpg"}.items():
        (here / "i" / link).symlink_to(target)
    (here / "i/lost.jpg").symlink_to("nowhere")
    os.link("i/a.jpg", "i/hard.jpg")
    assert names(find("i")) == ["i/a.jpg", "i/hard.jpg", "i/sub/b.jpg"]
    assert names(find("i/copy.jpg")) == ["i/copy.jpg"]
    found = find("i", follow=True)
    assert kinds(found) == {"i/lost.jpg": "vanished"}
    inodes = [os.stat(source.path).st_ino for source in found if not source.error]
    assert len(inodes) == len(set(inodes)) == 3


def test_a_run_never_takes_its_own_outputs(here: Path) -> None:
    """Output in the input, output as the input, a second run and a glob: only the user's images are found."""
    make(here, "i/a.jpg", "i/out/masks/cat/a.png", "i/out/overlays/a.jpg", "i/out/mine.jpg", "i/masks/user.png")
    run = json.dumps({"clipseg": "1.0"})
    mine = ["i/a.jpg", "i/masks/user.png", "i/out/mine.jpg"]
    assert names(find("i", out="i/out")) == mine
    (here / "i/out/run.json").write_text(run)
    assert names(find("i")) == names(find("i/**/*.*g")) == mine
    assert names(find("i", out="i")) == ["i/a.jpg", "i/out/mine.jpg"]
    assert names(find("i/out/masks")) == ["i/out/masks/cat/a.png"]  # named on purpose
    for other in ("[]", "{}", "no json", '{"other": 1}'):
        (here / "i/out/run.json").write_text(other)
        assert len(find("i")) == 5
    assert {"masks", "overlays", "run.json"} <= set(OUTPUT_NAMES)


NOBODY = """
import os, sys
from clipseg_cli.inputs.decode import load
from clipseg_cli.errors import ImageError
from clipseg_cli.settings.inputs import InputOptions
from clipseg_cli.inputs.discovery import discover
if os.geteuid() == 0:  # after the imports: the interpreter may be root's own
    os.setgid(65534)
    os.setuid(65534)
os.chdir(sys.argv[1])
for source in discover(InputOptions(inputs=tuple(sys.argv[2:])), None):
    try:
        load(source, max_pixels=100)
    except ImageError as error:
        print(source.name, error.kind, error.stage)
    else:
        print(source.name, "ok")
"""


def test_unreadable_files_and_folders_are_records_and_the_walk_goes_on(tmp_path: Path) -> None:
    """As an ordinary user: `permission` for a folder when it is met and for a file when it is loaded."""
    folder = tmp_path / "i"
    make(folder, "shut/x.jpg")
    for name in ("a.png", "b.png", "z.png"):
        (folder / name).write_bytes(png())
    (folder / "b.png").chmod(0)
    (folder / "shut").chmod(0)
    for parent in (tmp_path, *list(tmp_path.parents)[:2]):
        parent.chmod(0o755)
    done = subprocess.run(
        [sys.executable, "-c", NOBODY, str(tmp_path), "i", "i/shut/x.jpg"],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
        capture_output=True,
        text=True,
        check=False,
    )
    (folder / "shut").chmod(0o755)
    assert done.stdout.splitlines() == [
        "i/a.png ok", "i/b.png permission load", "i/shut permission discover", "i/z.png ok",
        "i/shut/x.jpg permission discover",
    ], done.stderr  # fmt: skip


def test_a_folder_or_file_that_goes_away_during_the_walk_does_not_end_it(here: Path) -> None:
    """What was listed and is gone becomes `vanished`; what follows is still found."""
    make(here, "i/a.jpg", "i/b/c.jpg", "i/d.jpg")
    found = discover(InputOptions(inputs=("i",)), None)
    first = next(found)
    os.unlink("i/b/c.jpg")
    os.rmdir("i/b")
    rest = list(found)
    assert (first.name, kinds(rest), names(rest)) == ("i/a.jpg", {"i/b": "vanished"}, ["i/b", "i/d.jpg"])


def test_names_of_any_bytes_can_be_opened_again(here: Path) -> None:
    """Bytes that are not UTF-8, control characters and 255-byte names lead back to the very file."""
    hostile = [b"\xff\xfe.jpg", b"caf\xe9.png", b"new\nline.jpg", b"\x1b[31m.jpg", b"tab\t.jpg", b"a" * 251 + b".jpg"]
    hostile += ["\u202egpj.exe.jpg".encode(), "e\u0301.jpg".encode(), "\u00e9.jpg".encode(), b"<img onerror=x>.jpg"]
    os.mkdir(b"i")
    for name in hostile:
        with open(b"i/" + name, "wb") as file:
            file.write(name)
    found = find("i")
    assert {Path(source.path).read_bytes() for source in found} == set(hostile)
    assert len({source.output for source in found}) == len(hostile)
    listed = b"\n".join(b"i/" + name for name in hostile if b"\n" not in name)
    assert {Path(source.path).read_bytes() for source in find(stdin=listed)} == set(hostile) - {b"new\nline.jpg"}


@given(st.text(alphabet=st.characters(codec=None)))
def test_escaped_names_cannot_alter_a_terminal_and_differ_where_names_differ(name: str) -> None:
    """One line of valid UTF-8 without a control or a direction mark, from which the name can be had back exactly."""
    shown = escape(name)
    shown.encode()
    assert not any(ord(letter) < 32 or 0x7F <= ord(letter) < 0xA0 for letter in shown)
    assert not set(shown) & set("\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\u2028\u2029\ufeff")
    assert re.sub(r"\\(\\|[ntr]|x..|u....|U.{8})", unescaped, shown) == name


def unescaped(match: re.Match[str]) -> str:
    """The letter that one escape stands for."""
    text = match[1]
    if text[0] in "\\ntr":
        return {"\\": "\\", "n": "\n", "t": "\t", "r": "\r"}[text]
    code = int(text[1:], 16)
    return chr(code + 0xDC00 if text[0] == "x" and code >= 0x80 else code)


def test_escape_keeps_what_people_write() -> None:
    """Letters, emoji and wide spaces stay; the rest is visible."""
    for name in ("café.jpg", "写真\u3000一.jpg", "عکس\u200cها.png", "👩\u200d💻.png", "a b.jpg"):
        assert escape(name) == name
    assert escape("a\nb\x1b[0m\x07\u202e\udcff\x85\\n") == r"a\nb\x1b[0m\x07\u202e\xff\u0085\\n"


def test_magic_names_every_container_that_is_read() -> None:
    """Real files of each format are recognised from their first bytes, and text never is."""
    for form in ("JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF", "PPM", "AVIF", "JPEG2000"):
        file = io.BytesIO()
        Image.new("RGB", (3, 2)).save(file, form)
        assert sniff(file.getvalue()[:64]) == form
    assert sniff(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic") == "HEIC"
    assert sniff(b"\0\0\0\x1cftypmif1\0\0\0\0mif1avifmiaf") == "AVIF"
    for text in (b"", b"hello", b"/home/me/a.jpg\n", b"P6 day/a.jpg", b"GIFs/a.gif", b"MM", b"BM" + b"a" * 60):
        assert sniff(text) is None
    assert all(name == name.lower() and name[0] == "." for name in EXTENSIONS)


@contextlib.contextmanager
def deep(root: Path, levels: int) -> Iterator[str]:
    """A chain of folders deeper than any path can say, built and removed by descriptors."""
    root.mkdir()
    top = current = os.open(root, os.O_RDONLY)
    for _ in range(levels):
        os.mkdir("d", dir_fd=current)
        below = os.open("d", os.O_RDONLY, dir_fd=current)
        if current != top:
            os.close(current)
        current = below
    os.close(current)
    os.close(top)
    yield str(root)
    subprocess.run(["rm", "-rf", str(root)], check=True)


def test_a_very_deep_tree_ends_in_a_record_not_a_crash(here: Path) -> None:
    """2200 levels, more than a path can name: where paths end stands a record, and what lies above is taken."""
    with deep(here / "deep", 2200) as root:
        make(here, "deep/d/d/x.jpg", "deep/z.jpg")
        (unreachable, *rest) = find(root)
    assert unreachable.error is not None
    assert unreachable.error.kind == "permission"
    assert [source.output for source in rest] == ["d/d/x", "z"]


def test_the_first_image_comes_before_the_walk_ends_and_memory_stays_flat(tmp_path: Path) -> None:
    """A folder yields its first image without a look at its neighbours; 10,000 names cost a few megabytes."""
    for index in range(10):
        (tmp_path / f"{index:02}").mkdir()
        for number in range(1000):
            os.close(os.open(tmp_path / f"{index:02}" / f"{number:08}.jpg", os.O_CREAT | os.O_WRONLY))
    started = time.perf_counter()
    found = discover(InputOptions(inputs=(str(tmp_path),)), None)
    next(found)
    first = time.perf_counter() - started
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    count = 1 + sum(1 for _ in found)
    assert count == 10_000
    assert first < (time.perf_counter() - started) / 2
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 10_000  # kilobytes
