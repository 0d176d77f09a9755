"""Encoded training data: arrays on disk, and the split into held-out and training examples."""

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from clipseg_cli.errors import OutputError, UsageError
from clipseg_cli.settings.training import Recipe
from clipseg_cli.training.encoded_data import open_array, split
from labelled import encoded_data
from machine import file_size_limit


@pytest.mark.parametrize("reserves", [True, False])
def test_an_array_has_its_disk_space_before_it_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reserves: bool
) -> None:
    """The file is not sparse, also where the system cannot reserve space. It keeps its content when it is opened again,
    and is an error, which leaves nothing, if it cannot be made or the disk is too small (here: a limit on its size)."""
    if not reserves:
        monkeypatch.delattr(os, "posix_fallocate", raising=False)
    array = open_array(tmp_path / "a.npy", np.float32, (1000, 1000))
    assert (tmp_path / "a.npy").stat().st_blocks * 512 >= 4_000_000
    array[3] = 7
    array.flush()
    again = open_array(tmp_path / "a.npy", np.float32, (1000, 1000))
    assert again.dtype == np.float32 and again.sum() == 7000
    with pytest.raises(OutputError, match="gone"):
        open_array(tmp_path / "gone/a.npy", np.float32, (10,))
    with file_size_limit(10_000), pytest.raises(OutputError, match=r"b\.npy"):
        open_array(tmp_path / "b.npy", np.float32, (10_000,))
    assert [path.name for path in tmp_path.iterdir()] == ["a.npy"]


def test_images_with_and_without_an_object_are_both_held_out() -> None:
    """If few images show an object, at least one is held out and one is left for training; a single one is an error."""
    data = encoded_data()
    for showing in (1, 2, 5):
        targets = data.targets.copy()
        targets[2 * showing :] = 0
        few = replace(data, targets=targets)
        for seed in range(20):
            recipe = Recipe(hold=0.1, seed=seed)
            if showing == 1:
                with pytest.raises(UsageError, match="not empty"):
                    split(few, recipe)
            else:
                held_out, training = split(few, recipe)
                assert targets[held_out].any() and targets[training].any()
                assert len(held_out) + len(training) == 40 and not set(few.image[held_out]) & set(few.image[training])
