"""Discovery: which files a run takes, in which order, under which names, and how it reports the rest."""

import contextlib
import io
import json
import os
import resource
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from clipseg_cli.errors import UsageError
from clipseg_cli.inputs.finding.discovery import discover
from clipseg_cli.inputs.finding.search import MOST_KINDS, OUTPUT_NAMES, LeftOut
from clipseg_cli.inputs.source import Source
from clipseg_cli.settings.inputs import InputOptions


def make(folder: Path, *names: str) -> Path:
    """Makes empty files below a folder, and their folders."""
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return folder


def png() -> bytes:
    """Returns the bytes of a real image."""
    file = io.BytesIO()
    Image.new("RGB", (3, 2), "red").save(file, "PNG")
    return file.getvalue()


def find(*inputs: str, stdin: bytes | None = None, out: str | None = None, **options: object) -> list[Source]:
    """Returns all sources of these inputs."""
    stream = None if stdin is None else io.BytesIO(stdin)
    return list(discover(InputOptions(inputs=inputs, **options), stream, out))  # type: ignore[arg-type]


def names(sources: list[Source]) -> list[str]:
    """Returns their names in the manifest."""
    return [source.name for source in sources]


def kinds(sources: list[Source]) -> dict[str, str]:
    """Returns the error class of every source that failed."""
    return {source.name: source.error.kind for source in sources if source.error}


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory, so that names can be typed."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_walk_takes_images_sorted_by_name_within_each_folder(here: Path) -> None:
    """Folders are sorted among files; files that are no images are skipped; names begin with the typed path."""
    make(here, "imgs/c.jpg", "imgs/a.PNG", "imgs/b/z.tif", "imgs/b/y.webp", "imgs/notes.txt", "imgs/d.pdf")
    found = find("imgs")
    assert names(found) == ["imgs/a.PNG", "imgs/b/y.webp", "imgs/b/z.tif", "imgs/c.jpg"]
    assert [source.output for source in found] == ["a", "b/y", "b/z", "c"]
    assert names(find("./imgs/"))[0] == "./imgs/a.PNG"


def test_outputs_carry_the_typed_path_unless_one_folder_is_the_only_input(here: Path) -> None:
    """Two roots never share an output, a leading slash is dropped, and ".." never leaves the output folder."""
    make(here, "one/a.jpg", "two/a.jpg", "two/deep/b.jpg")
    assert [source.output for source in find("one", "two")] == ["one/a", "two/a", "two/deep/b"]
    assert [source.output for source in find(str(here / "one/a.jpg"))] == [str(here / "one/a")[1:]]
    assert [source.output for source in find("./one/../two/a.jpg", "one")] == ["one/__/two/a", "one/a"]


def test_files_that_share_a_stem_keep_their_full_names(here: Path) -> None:
    """a.jpg, a.png, A.jpg and sub/a.jpg have four outputs, which are the same for a filtered or named file."""
    make(here, "imgs/a.jpg", "imgs/a.png", "imgs/A.jpg", "imgs/sub/a.jpg")
    assert [source.output for source in find("imgs")] == ["A", "a.jpg", "a.png", "sub/a"]
    assert [source.output for source in find("imgs", extensions=(".png",))] == ["a.png"]
    assert [source.output for source in find("imgs/a.jpg")] == ["imgs/a.jpg"]
    assert [source.output for source in find(stdin=b"imgs/a.png\n")] == ["imgs/a.png"]


def test_an_image_without_extension_is_taken_by_its_first_bytes(here: Path) -> None:
    """So is one whose extension is of no image, unless --ext chooses. A named file is always taken."""
    make(here, "imgs/README", "imgs/scan.2023")
    (here / "imgs/photo").write_bytes(png())
    (here / "imgs/scan.2024").write_bytes(png())
    assert names(find("imgs")) == ["imgs/photo", "imgs/scan.2024"]
    assert [source.output for source in find("imgs")] == ["photo", "scan.2024"]
    assert names(find("imgs", extensions=(".png",))) == []
    assert names(find("imgs/scan.2023", "imgs/README")) == ["imgs/scan.2023", "imgs/README"]


def test_a_file_that_begins_like_an_image_or_a_video_is_taken_even_if_it_cannot_be_read(here: Path) -> None:
    """By its extension or its first bytes: a record will say what reads it. Text, documents and drawings never are."""
    make(here, "i/a.xcf", "i/b.fits", "i/c.heic", "i/d.mov", "i/e.NEF")
    begins = {"photoshop": b"8BPS\0\1", "clip.ts": b"\x47\x40\x00\x10" + bytes(30), "image.dat": b"qoif\0\0\1\0"}
    for name, head in begins.items():
        (here / "i" / name).write_bytes(head)
    taken = ["a.xcf", "b.fits", "c.heic", "clip.ts", "d.mov", "e.NEF", "image.dat", "photoshop"]
    texts = {
        "a.ts": b"export const a = 1;", "b.log": b"P2 10 20 30", "c.rst": b"The free software", "d.org": b"DDS 1",
        "e.pdf": b"%PDF-1.7\n%\xe2\xe3\xcf\xd3", "f.ai": b"%!PS-Adobe-3.0", "g.svg": b"<svg/>", "LICENSE": b"The free",
        "h.thm": b"\xff\xd8\xff\xe0\0\x10JFIF", "i.tex": b"MMORPG", "j.lrv": b"\0\0\0\x18ftypmp41",
    }  # fmt: skip
    for name, text in texts.items():
        (here / "i" / name).write_bytes(text)
    assert names(find("i")) == [f"i/{name}" for name in taken]


def test_what_file_managers_leave_behind_is_counted_and_never_taken(here: Path) -> None:
    """macOS's `._a.jpg` and Windows' Thumbs.db are no images, with and without --hidden; other hidden files stay
    uncounted. --exclude and --ext are obeyed quietly."""
    make(here, "i/a.jpg", "i/._a.jpg", "i/.DS_Store", "i/Thumbs.db", "i/desktop.ini", "i/.b.jpg", "i/._c/d.jpg")
    (here / "i/._b.png").write_bytes(png())
    litter = {"._*": 2, ".DS_Store": 1, "Thumbs.db": 1, "desktop.ini": 1}

    def walked(**options: object) -> tuple[list[str], dict[str, int]]:
        counts: LeftOut = Counter()
        found = list(discover(InputOptions(inputs=("i",), **options), None, None, counts))  # type: ignore[arg-type]
        return names(found), {kind: count for (_, kind), count in counts.items()}

    assert walked() == (["i/a.jpg"], litter)
    assert walked(hidden=True) == (["i/._c/d.jpg", "i/.b.jpg", "i/a.jpg"], litter)
    assert walked(exclude=("._*", "*.db"))[1] == {".DS_Store": 1, "desktop.ini": 1}
    assert walked(extensions=(".jpg",)) == (["i/a.jpg"], {})


def test_filters_limit_a_walk(here: Path) -> None:
    """Exclusions match the path below the root or any part of it; depth, hidden names, extensions and limit work."""
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


def test_a_glob_is_expanded_unless_a_file_has_that_name(here: Path) -> None:
    """A file called `*` wins; a glob may match nothing; matched folders are walked, matched links are skipped."""
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
    """Typed twice, listed twice or inside a named folder, it comes once, at its first position."""
    make(here, "i/a.jpg", "i/b.jpg")
    assert names(find("i/b.jpg", "i", "./i/a.jpg", "i/b.jpg")) == ["i/b.jpg", "i/a.jpg"]
    assert names(find(stdin=b"i/a.jpg\ni/b.jpg\ni/a.jpg\n")) == ["i/a.jpg", "i/b.jpg"]


def test_the_names_in_a_list_are_literal(here: Path) -> None:
    """Leading dashes, globs, substitutions and spaces are kept; only line ends and empty lines are removed."""
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


def test_a_list_may_name_folders_and_follow_other_inputs(here: Path) -> None:
    """Inputs come first, then the list. A folder in it is walked with its path as prefix."""
    make(here, "i/a.jpg", "i/b.jpg", "c.gif")
    (here / "list").write_text("i\n")
    found = find("c.gif", files_from="list")
    assert [(source.name, source.output) for source in found] == [
        ("c.gif", "c"),
        ("i/a.jpg", "i/a"),
        ("i/b.jpg", "i/b"),
    ]


def test_standard_input_is_an_image_if_it_begins_like_one() -> None:
    """An image arrives whole; anything else is a list of paths."""
    for data in (png(), b"GIF89a" + bytes(99), b"BM" + bytes(12) + b"\x28\0\0\0" + b"\n" * 50, b"P6\n2 1\n255\nabcdef"):
        (source,) = find("-", stdin=data)
        assert (source.name, source.output, source.data) == ("-", "stdin", data)
    assert kinds(find(stdin=b"BMW/a.jpg\nP6 trip.jpg\nMM\nII.tif\nRIFF\n")) == dict.fromkeys(
        ["BMW/a.jpg", "P6 trip.jpg", "MM", "II.tif", "RIFF"], "vanished"
    )
    assert find(stdin=b"") == []


def test_several_images_on_standard_input_are_numbered(here: Path) -> None:
    """If there is one, it is `-`. `at_once`, the first is `-` and does not wait for the second; --limit and --shard
    count as for files, and what cannot be read is the last source."""
    data = png() * 3
    assert [(each.name, each.output, each.data) for each in find("-", stdin=data)] == [
        (f"-#{number}", f"stdin/00000{number}", png()) for number in (1, 2, 3)
    ]
    assert names(find(stdin=data, limit=2)) == ["-#1", "-#2"]
    shards = [names(find("-", stdin=data * 5, shard=(index, 2))) for index in (0, 1)]
    assert all(shards) and sorted([*shards[0], *shards[1]], key=lambda name: int(name[2:])) == names(
        find("-", stdin=data * 5)
    )
    *_, last = find("-", stdin=data + b"garbage")
    assert (last.name, last.error and last.error.kind) == ("-#4", "corrupt")
    make(here, "stdin/000001.png", "stdin/000002.png")
    assert len({source.output for source in find("stdin/000001.png", "-", "stdin", stdin=data)}) == 5
    reader, writer = os.pipe()
    with open(reader, "rb") as stdin:
        os.write(writer, png())
        found = discover(InputOptions(), stdin, at_once=True)
        assert next(found).name == "-"
        os.write(writer, png() * 2)
        os.close(writer)
        assert names(list(found)) == ["-#2", "-#3"]


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


def test_an_image_that_arrives_in_small_pieces_is_an_image() -> None:
    """A PNG signature contains a line end. If a piece ends after it, the image is not mistaken for a list."""
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
    """A terminal, one stream for two purposes and a missing list are reported before any image."""
    for options in (InputOptions(), InputOptions(inputs=("-",)), InputOptions(files_from="-")):
        with pytest.raises(UsageError, match="nothing to read"):
            discover(options, None)
    with pytest.raises(UsageError, match="named twice"):
        discover(InputOptions(inputs=("-",), files_from="-"), io.BytesIO())
    with pytest.raises(UsageError, match="named twice"):
        discover(InputOptions(inputs=("-", "a.jpg", "-")), io.BytesIO())
    with pytest.raises(UsageError, match="no/list"):
        discover(InputOptions(files_from="no/list"), None)
    with pytest.raises(UsageError, match="line of over a megabyte"):
        find(stdin=b"x" * (1 << 21))


def test_a_path_that_is_no_regular_file_is_a_record_and_never_opened(here: Path) -> None:
    """Missing names, FIFOs, sockets, devices, dangling and circular links have one error each, without waiting."""
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
    """Without the flag a walk skips links; with it loops end, and no inode comes twice. A named link is taken."""
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
    """With the output folder in the input, or equal to it, in a second run and in a glob: only the user's images."""
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
import clipseg_cli.inputs.decoders.png
from clipseg_cli.inputs.decode import load
from clipseg_cli.errors import ImageError
from clipseg_cli.settings.inputs import InputOptions
from clipseg_cli.inputs.finding.discovery import discover
if os.geteuid() == 0:  # after the imports: the interpreter may be root's own
    os.setgid(65534)
    os.setuid(65534)
os.chdir(sys.argv[1])
for source in discover(InputOptions(inputs=tuple(sys.argv[2:])), None):
    try:
        load(source)
    except ImageError as error:
        print(source.name, error.kind, error.stage)
    else:
        print(source.name, "ok")
"""


def test_unreadable_files_and_folders_are_records_and_the_walk_goes_on(tmp_path: Path) -> None:
    """For an ordinary user, a folder fails with `permission` at discovery, and a file when it is loaded."""
    folder = tmp_path / "i"
    make(folder, "shut/x.jpg")
    for name in ("a.png", "b.png", "z.png"):
        (folder / name).write_bytes(png())
    (folder / "b.png").chmod(0)
    (folder / "shut").chmod(0)
    for parent in (tmp_path, *tmp_path.parents):
        if parent.name.startswith(("test_", "popen-", "pytest-")):
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


def test_a_file_or_folder_that_is_deleted_during_the_walk_does_not_end_it(here: Path) -> None:
    """A folder that is gone becomes `vanished`; the following images are still found."""
    make(here, "i/a.jpg", "i/b/c.jpg", "i/d.jpg")
    found = discover(InputOptions(inputs=("i",)), None)
    first = next(found)
    os.unlink("i/b/c.jpg")
    os.rmdir("i/b")
    rest = list(found)
    assert (first.name, kinds(rest), names(rest)) == ("i/a.jpg", {"i/b": "vanished"}, ["i/b", "i/d.jpg"])


def test_names_of_any_bytes_can_be_opened_again(here: Path) -> None:
    """Names with bytes that are not UTF-8, with control characters or of 255 bytes open the right file."""
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


@contextlib.contextmanager
def deep(root: Path, name: str, levels: int) -> Iterator[str]:
    """Makes a chain of folders that is deeper than the longest path, through descriptors, and deletes it."""
    root.mkdir()
    top = current = os.open(root, os.O_RDONLY)
    for _ in range(levels):
        os.mkdir(name, dir_fd=current)
        below = os.open(name, os.O_RDONLY, dir_fd=current)
        if current != top:
            os.close(current)
        current = below
    os.close(current)
    os.close(top)
    yield str(root)
    subprocess.run(["rm", "-rf", str(root)], check=True)


@pytest.mark.parametrize(("name", "levels"), [("d" * 60, 80), pytest.param("d", 2200, marks=pytest.mark.slow)])
def test_a_very_deep_tree_ends_in_a_record_not_a_crash(here: Path, name: str, levels: int) -> None:
    """Of a tree deeper than the longest path, the first folder that is too deep is a record; images above are taken."""
    with deep(here / "deep", name, levels) as root:
        make(here, f"deep/{name}/{name}/x.jpg", "deep/z.jpg")
        (unreachable, *rest) = find(root)
    assert unreachable.error is not None
    assert unreachable.error.kind == "permission"
    assert [source.output for source in rest] == [f"{name}/{name}/x", "z"]


@pytest.mark.slow
def test_the_first_image_comes_before_the_walk_ends_and_memory_stays_flat(tmp_path: Path) -> None:
    """The first image comes before other folders are listed; 10,000 names take less than 10 MB."""
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


def test_every_image_is_in_one_shard(tmp_path: Path) -> None:
    """Shards divide the images without loss or overlap, about evenly, the same way under any root and spelling."""
    make(tmp_path / "imgs", *(f"{index % 7}/{index}.png" for index in range(60)))

    def shard(root: str, index: int) -> set[str]:
        return {source.output for source in find(str(tmp_path / root), shard=(index, 4))}

    shards = [shard("imgs", index) for index in range(4)]
    assert sum(map(len, shards)) == 60 == len(set.union(*shards)) and min(map(len, shards)) >= 5
    (tmp_path / "imgs").rename(tmp_path / "elsewhere")
    assert shards == [shard("elsewhere", index) for index in range(4)]


def test_files_that_a_walk_leaves_out_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By reason and kind. What the user's options leave out is not counted, and neither is what the user named."""
    monkeypatch.chdir(make(tmp_path, "i/a.jpg", "i/a.xmp", "i/b.XMP", "i/sub/c.txt", "i/README", "i/.hidden"))
    Path("i/paper").write_bytes(b"%PDF-1.7")
    Path("i/link.jpg").symlink_to("a.jpg")
    Path("i/more").symlink_to("sub")
    make(tmp_path, "i/out/masks/cat/a.png", "i/out/notes.txt")
    Path("i/out/run.json").write_text('{"clipseg": 1}')

    def left(*inputs: str, **options: object) -> LeftOut:
        counts: LeftOut = Counter()
        list(discover(InputOptions(inputs=inputs or ("i",), **options), None, None, counts))  # type: ignore[arg-type]
        return counts

    links = Counter({("link", ".jpg"): 1, ("link", "without extension"): 1})
    others = Counter({("no_image", ".xmp"): 2, ("no_image", ".txt"): 2})
    bare = Counter({("no_image", "without extension"): 1, ("no_image", "PDF"): 1})
    assert left() == links + others + bare
    assert left(hidden=True)["no_image", "without extension"] == 2
    assert left(exclude=("*.xmp", "*.XMP", "out", "sub")) == links + bare
    assert left(extensions=(".png",)) == links
    assert left(max_depth=1)["no_image", ".txt"] == 0
    assert not any(reason == "link" for reason, _ in left(follow=True))
    assert left("i/a.jpg", "i/a.xmp") == Counter()
    assert left("i/*.jpg") == Counter({("link", ".jpg"): 1})


def test_kinds_left_out_are_bounded(tmp_path: Path) -> None:
    """A suffix per file, as in scan.000001, does not fill the memory, and no file is lost from the count."""
    make(tmp_path, *(f"scan.{number:06}" for number in range(MOST_KINDS + 50)))
    counts: LeftOut = Counter()
    assert list(discover(InputOptions((str(tmp_path),)), None, None, counts)) == []
    assert counts.total() == MOST_KINDS + 50 and len(counts) == MOST_KINDS + 1
    assert counts["no_image", "of other kinds"] == 50
