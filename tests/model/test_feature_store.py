"""Stored features are identified by content, verified before use, and never change a result."""

import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

from clipseg_cli.masks import tiles
from clipseg_cli.model.feature_store import KIND, FeatureStore, user_place
from clipseg_cli.model.segmenter import Segmenter
from clipseg_cli.storage.cache import Cache, Place
from pictures import Program, Shell, picture, save


@pytest.fixture(scope="module")
def segmenter(load: Callable[..., Segmenter]) -> Segmenter:
    """The bundled model."""
    return load("shapes", dtype="auto")


def entries(folder: Path) -> list[Path]:
    """Returns the files of stored images."""
    return sorted(folder.rglob(f"*.{KIND}"))


def numbers(folder: Path) -> list[int]:
    """Returns the file system's number of each entry. One that is written again has another number."""
    return [entry.stat().st_ino for entry in entries(folder)]


def opened(folder: Path, segmenter: Segmenter) -> FeatureStore:
    """Returns the store of a segmenter in a folder."""
    return FeatureStore.of(Cache(Place(folder)), segmenter)


def content(folder: Path) -> dict[str, bytes]:
    """Returns every mask and the manifest of a run."""
    files = [*folder.rglob("*.png"), folder / "manifest.jsonl"]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


@pytest.mark.parametrize("pooled", [False, True])
def test_stored_features_equal_those_of_the_segmenter(segmenter: Segmenter, tmp_path: Path, pooled: bool) -> None:
    """Written, read, and mixed with new ones: the same bits."""
    images = [segmenter.resize(picture(seed=seed)) for seed in range(4)]
    store = opened(tmp_path, segmenter)
    expected = segmenter.encode(images, pooled=pooled)
    for part in (slice(1, 3), slice(1, 3), slice(0, 4)):
        found, names = store.encode(segmenter, images[part], pooled=pooled)
        assert all((tmp_path / name).exists() for name in names)
        assert torch.equal(found.tensor, expected.tensor[part])
        assert (found.pooled is None) == (not pooled)
        if pooled:
            np.testing.assert_array_equal(found.pooled, expected.pooled[part])
    assert len(entries(tmp_path)) == 4


def test_a_damaged_entry_is_replaced(segmenter: Segmenter, tmp_path: Path) -> None:
    """The features are correct, and the entry is intact again."""
    store, images = opened(tmp_path, segmenter), [segmenter.resize(picture())]
    expected, _ = store.encode(segmenter, images)
    (entry,) = entries(tmp_path)
    whole = entry.read_bytes()
    entry.write_bytes(whole[:-1])
    assert torch.equal(store.encode(segmenter, images)[0].tensor, expected.tensor)
    assert entry.read_bytes() == whole


def test_an_entry_of_another_image_is_not_used(segmenter: Segmenter, tmp_path: Path) -> None:
    """One image's entry under the name of another counts as damaged."""
    store = opened(tmp_path, segmenter)
    first, second = ([segmenter.resize(picture(seed=seed))] for seed in (1, 2))
    expected = segmenter.encode(second)
    store.encode(segmenter, first)
    (entry,) = entries(tmp_path)
    target = tmp_path / store.name(second[0], False)
    target.parent.mkdir(exist_ok=True)
    shutil.copy(entry, target)
    assert torch.equal(store.encode(segmenter, second)[0].tensor, expected.tensor)


def test_the_users_cache_has_a_limit(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Of 2 GB, or another one."""
    monkeypatch.setenv("CLIPSEG_CACHE", str(tmp_path))
    assert user_place() == Place(tmp_path / "features", 2_000_000_000)
    assert user_place(7) == Place(tmp_path / "features", 7)


def test_dtype_and_size_have_entries_of_their_own(load: Callable[..., Segmenter], tmp_path: Path) -> None:
    """Features of one dtype or image size are never used for another."""
    segmenters = [load("shapes"), load("shapes", dtype="bf16"), load("shapes", size=96)]
    assert len({opened(tmp_path, segmenter).setup for segmenter in segmenters}) == 3


def test_a_blocked_path_only_prevents_storing(segmenter: Segmenter, tmp_path: Path) -> None:
    """A folder has the name of an entry: the features are computed and not stored."""
    store, images = opened(tmp_path, segmenter), [segmenter.resize(picture())]
    (tmp_path / store.name(images[0], False)).mkdir(parents=True)
    assert torch.equal(store.encode(segmenter, images)[0].tensor, segmenter.encode(images).tensor)


def test_two_users_of_a_folder_do_not_disturb_each_other(segmenter: Segmenter, tmp_path: Path) -> None:
    """They encode the same images at the same time. Both get the right features, and each image has one entry."""
    images = [segmenter.resize(picture(seed=seed)) for seed in range(5)]
    expected = segmenter.encode(images)
    stores = [opened(tmp_path, segmenter) for _ in range(2)]
    with ThreadPoolExecutor(2) as pool:
        for found, _ in pool.map(lambda store: store.encode(segmenter, images), stores):
            assert torch.equal(found.tensor, expected.tensor)
    assert len(entries(tmp_path)) == 5
    assert torch.equal(stores[0].encode(segmenter, images)[0].tensor, expected.tensor)


@pytest.fixture
def images(tmp_path: Path) -> None:
    """Five images in the folder `imgs`."""
    for index in range(5):
        save(tmp_path / "imgs" / f"{index}.png", picture(seed=index))


RUN = "clipseg segment imgs -f mask -q"


@pytest.mark.usefixtures("images")
def test_stored_features_do_not_change_a_run(clipseg: Program, tmp_path: Path) -> None:
    """Masks and manifest are byte-equal without --features and with it.

    This holds when features are written, read, read for other prompts, and read by a run that resumes.
    """
    clipseg(f"{RUN} -p 'a red circle' -o plain")
    clipseg(f"{RUN} -p 'a blue square' -o other")
    clipseg(f"{RUN} -p 'a red circle' -o written --features stored")
    assert len(entries(tmp_path / "stored")) == 5
    before = numbers(tmp_path / "stored")
    clipseg(f"{RUN} -p 'a red circle' -o read --features stored")
    clipseg(f"{RUN} -p 'a blue square' -o reused --features stored")
    plain = content(tmp_path / "plain")
    assert len(plain) == 6
    assert content(tmp_path / "written") == content(tmp_path / "read") == plain
    assert content(tmp_path / "reused") == content(tmp_path / "other")
    (tmp_path / "read/masks/a-red-circle/3.png").unlink()
    clipseg(f"{RUN} -p 'a red circle' -o read --features stored")
    assert content(tmp_path / "read") == plain
    assert numbers(tmp_path / "stored") == before, "no entry was written again"


@pytest.mark.slow
@pytest.mark.usefixtures("images")
def test_two_runs_share_a_folder_of_features(shell: Shell, tmp_path: Path) -> None:
    """Two processes that run at the same time give the masks of a run without --features. Each image has one entry."""
    shell(f"{RUN} -p 'a red circle' -o plain")  # a process too: the last bits may depend on its number of threads
    shell(f"{RUN} -p 'a red circle' -o one --features both & {RUN} -p 'a red circle' -o two --features both; wait")
    assert content(tmp_path / "one") == content(tmp_path / "two") == content(tmp_path / "plain")
    assert len(entries(tmp_path / "both")) == 5


def test_tiles_and_mirrored_views_are_stored_too(clipseg: Program, tmp_path: Path) -> None:
    """With --tile and --flip each view is stored once, and masks do not change. A run without tiles finds its view."""
    save(tmp_path / "imgs/a.png", picture(300, 200))
    run = f"{RUN} -p 'a red circle'"
    clipseg(f"{run} --tile 2 --flip -o plain")
    clipseg(f"{run} --tile 2 --flip --features stored -o written")
    assert len(entries(tmp_path / "stored")) == len(tiles.views(200, 300, 2, True))
    before = numbers(tmp_path / "stored")
    clipseg(f"{run} --tile 2 --flip --features stored -o read")
    clipseg(f"{run} --features stored -o whole")
    assert numbers(tmp_path / "stored") == before, "no entry was written again"
    assert content(tmp_path / "written") == content(tmp_path / "read") == content(tmp_path / "plain")
