"""Images that an earlier run has seen are not decoded again, and nothing else about a run changes."""

import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from clipseg_cli.errors import ImageError
from clipseg_cli.inputs import decode
from clipseg_cli.inputs.source import Source, identify
from clipseg_cli.model.feature_store import FeatureStore
from clipseg_cli.model.segmenter import Segmenter
from clipseg_cli.run import known_images
from clipseg_cli.run.engines import table as engines
from clipseg_cli.run.known_images import KnownImages, Mark, mark
from clipseg_cli.settings.inputs import DecodeOptions
from clipseg_cli.settings.model import EncodeOptions
from clipseg_cli.storage.cache import Cache, Place
from pictures import Program, picture, records, save

MOST_THREADS = 8  # that decode images while the network is loaded: see `pipeline.run`
RUN = "clipseg segment imgs --features auto -q"


def one_pipeline(items: Iterable[Any], works: Sequence[Any], *others: object) -> Iterator[Any]:
    """An engine that processes all images in this process, in one pipeline, as a worker process does."""
    return works[0](items, lambda message: None)  # type: ignore[no-any-return]


@pytest.fixture
def decoded(clipseg: Program, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the images that were decoded. Files count as settled as soon as they are written."""
    monkeypatch.setitem(engines.ENGINES, "local", one_pipeline)
    monkeypatch.setattr(known_images, "SETTLED", 0.0)
    names, load = list[str](), decode.load

    def noted(source: Source, options: DecodeOptions = decode.DEFAULTS) -> decode.Image:
        names.append(source.name)
        return load(source, options)

    monkeypatch.setattr(decode, "load", noted)
    return names


@pytest.fixture
def imgs(tmp_path: Path) -> Path:
    """Images of many kinds: more than are decoded while the network is loaded."""
    folder = tmp_path / "imgs"
    for index in range(10):
        save(folder / f"{index}.png", picture(60 + index, 50, index))
    turned = Image.Exif()
    turned[0x0112] = 6
    Image.fromarray(picture(80, 60, 20)).save(folder / "turned.jpg", exif=turned)
    frames = [Image.fromarray(picture(40, 40, seed)) for seed in (21, 22, 23)]
    frames[0].save(folder / "moving.gif", save_all=True, append_images=frames[1:])
    Image.fromarray(picture(70, 50, 24)).convert("I;16").save(folder / "deep.png")
    (folder / "broken.jpg").write_bytes((folder / "turned.jpg").read_bytes()[:400])
    return folder


def content(folder: Path) -> dict[str, bytes]:
    """Every file of a run but run.json and what it keeps for itself."""
    files = [path for path in folder.rglob("*") if path.is_file() and path.name != "run.json"]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files if not path.name.startswith(".")}


def test_a_second_prompt_decodes_no_image_and_gives_the_same_bytes(
    clipseg: Program, imgs: Path, decoded: list[str], tmp_path: Path
) -> None:
    """Masks and manifest equal those of a run that keeps nothing. A file that cannot be decoded fails each time."""
    ask = "-p 'a blue square' -f mask -f soft"
    clipseg(f"clipseg segment imgs -q --features none {ask} -o plain", expect=3)
    clipseg(f"{RUN} -p 'a red circle' -f mask -o first", expect=3)
    assert len(decoded) == 2 * 14
    decoded.clear()
    clipseg(f"{RUN} {ask} -o second", expect=3)
    assert "imgs/broken.jpg" in decoded and len(decoded) <= MOST_THREADS + 1
    assert content(tmp_path / "second") == content(tmp_path / "plain")
    (failed,) = (row for row in records(tmp_path / "second/manifest.jsonl") if row["status"] == "failed")
    assert failed["image"] == "imgs/broken.jpg" and failed["error"]["class"] == "corrupt"


@pytest.mark.slow
def test_outputs_that_show_the_image_read_it_again(
    clipseg: Program, imgs: Path, decoded: list[str], tmp_path: Path
) -> None:
    """Overlays, cutouts, data sets and refinements have the bytes of a run that keeps nothing."""
    ask = "-p 'a red circle' -f mask -f overlay -f cutout -f voc --refine guided"
    clipseg(f"clipseg segment imgs -q --features none {ask} -o plain", expect=3)
    for out in ("first", "second"):
        clipseg(f"{RUN} {ask} -o {out}", expect=3)
        assert content(tmp_path / out) == content(tmp_path / "plain")


@pytest.mark.slow
@pytest.mark.parametrize("options", ["--tile 2 --flip", "--similarity", "--size 96", "--checksum"])
def test_each_way_of_encoding_has_its_own_entries(
    clipseg: Program, imgs: Path, decoded: list[str], tmp_path: Path, options: str
) -> None:
    """A run does not take what another way of encoding has kept, and finds its own again."""
    for path in [*imgs.iterdir()][4:]:
        path.unlink()
    clipseg(f"clipseg segment imgs -q --features none -p circle -f mask {options} -o plain", expect=None)
    for out, others in (("other", ""), ("first", options), ("second", options)):
        clipseg(f"{RUN} -p circle -f mask {others} -o {out}", expect=None)
    assert content(tmp_path / "first") == content(tmp_path / "second") == content(tmp_path / "plain")


def test_a_file_that_was_replaced_is_read_again(
    clipseg: Program, imgs: Path, decoded: list[str], tmp_path: Path
) -> None:
    """Also by one of the same size and time, by one that is damaged, and if it is deleted or refused now.

    A world file that is now beside an image counts too.
    """
    clipseg(f"{RUN} -p 'a red circle' -f mask -o first", expect=3)
    kept = {path.name: (path.read_bytes(), path.stat()) for path in imgs.iterdir()}
    data, _ = kept["8.png"]
    (imgs / "8.png").write_bytes(data[:-30] + bytes(30))
    shutil.copy(imgs / "turned.jpg", imgs / "9.png")
    (imgs / "7.png").unlink()
    (imgs / "6.pgw").write_text("1\n0\n0\n-1\n500000\n4000000\n")
    for name in ("8.png", "9.png"):
        os.utime(imgs / name, ns=(kept[name][1].st_atime_ns, kept[name][1].st_mtime_ns))
    clipseg(f"{RUN} -p 'a red circle' -f mask -o second", expect=3)
    clipseg("clipseg segment imgs -q --features none -p 'a red circle' -f mask -o plain", expect=3)
    assert content(tmp_path / "second") == content(tmp_path / "plain")
    assert (tmp_path / "second/masks/a-red-circle/6.pgw").exists()
    rows = {row["image"]: row for row in records(tmp_path / "second/manifest.jsonl")}
    assert rows["imgs/8.png"]["error"]["class"] == "corrupt" and rows["imgs/9.png"]["width"] == 60
    clipseg(f"{RUN} -p 'a red circle' -f mask --max-pixels 100 -o small", expect=3)
    assert {row["error"]["class"] for row in records(tmp_path / "small/manifest.jsonl")} == {"too_large", "corrupt"}


def test_a_damaged_cache_changes_nothing(clipseg: Program, imgs: Path, decoded: list[str], tmp_path: Path) -> None:
    """Entries that are cut off, empty, or gone are made again."""
    clipseg(f"{RUN} -p 'a red circle' -f mask -o first", expect=3)
    kept = sorted(path for path in (tmp_path / "cache/features").rglob("*") if path.is_file())
    assert len(kept) == 2 * 13
    whole = [path.read_bytes() for path in kept]
    for index, path in enumerate(kept):
        if index % 3 == 0:
            path.unlink()
        else:
            path.write_bytes(b"" if index % 3 == 1 else whole[index][:-1])
    clipseg(f"{RUN} -p 'a red circle' -f mask -o second", expect=3)
    assert content(tmp_path / "second") == content(tmp_path / "first")
    assert [path.read_bytes() for path in kept] == whole


def test_a_run_without_a_cache_keeps_nothing(clipseg: Program, imgs: Path, decoded: list[str], tmp_path: Path) -> None:
    """With `--features none`, with a limit of nothing, and where the folder cannot be made."""
    for path in [*imgs.iterdir()][4:]:
        path.unlink()
    (tmp_path / "file").touch()
    for index, line in enumerate(("none", "auto --features-limit 0", "file/cache", "file")):
        clipseg(f"clipseg segment imgs -q -p circle -f mask -o {index} --features {line}", expect=None)
        assert content(tmp_path / str(index)) == content(tmp_path / "0")
    assert not [path for path in tmp_path.joinpath("cache").rglob("*") if path.is_file()]


@pytest.fixture
def known(segmenter: Segmenter, tmp_path: Path) -> KnownImages:
    """An empty store of the bundled model."""
    store = FeatureStore.of(Cache(Place(tmp_path / "cache")), segmenter)
    return KnownImages(store, EncodeOptions(), DecodeOptions(), False)


def seen(path: Path, checksum: bool = False) -> tuple[Source, Mark | None]:
    """A source, and its mark."""
    source = Source(str(path), path.name, path.stem)
    return source, mark(source, identify(source, checksum), checksum)


def test_a_file_that_has_just_changed_is_not_known_by_its_time(tmp_path: Path) -> None:
    """It might change again within the same tick of a clock. Its content tells it at once."""
    path = save(tmp_path / "a.png", picture())
    assert seen(path)[1] is None
    other = shutil.copy(path, tmp_path / "b.png")
    assert seen(path, checksum=True)[1] == seen(Path(other), checksum=True)[1] is not None


def test_a_frame_and_an_image_on_stdin_are_not_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The former is decoded in turn with its file, the latter is no file."""
    monkeypatch.setattr(known_images, "SETTLED", 0.0)
    path = save(tmp_path / "a.png", picture())
    assert mark(Source(str(path), "a", "a", frame=0), identify(seen(path)[0], False), False) is None
    assert mark(Source("-", "-", "-", path.read_bytes()), None, False) is None


def test_an_object_in_a_bucket_is_known_by_its_tag() -> None:
    """Where the store has tags that change with the content. Elsewhere it is read."""
    for url, expected in (("s3://b/a.jpg", ["s3://b/a.jpg", 9, "etag"]), ("http://b/a.jpg", None)):
        source = Source(url, "a.jpg", "a", tag=(9, "etag"))
        assert mark(source, identify(source, False), False) == expected


def test_an_image_that_changes_before_its_pixels_are_read_fails(
    segmenter: Segmenter, known: KnownImages, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As `changed`, as if it had changed while it was decoded. Without a change it has its pixels."""
    monkeypatch.setattr(known_images, "SETTLED", 0.0)
    path = save(tmp_path / "a.png", picture(60, 50))
    source, first = seen(path)
    image = decode.load(source)
    _, names = known.store.encode(segmenter, [segmenter.resize(image.pixels)])
    assert known.find(first, source) is None
    known.keep(first, image, names)
    for change in (False, True):
        found = known.find(first, source)
        assert found is not None
        if not change:
            assert (found[0].pixels == image.pixels).all() and found[0].size == (50, 60)
            continue
        save(path, picture(60, 50, 7))
        with pytest.raises(ImageError) as raised:
            _ = found[0].pixels
        assert raised.value.kind == "changed"
