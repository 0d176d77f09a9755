"""The samples of the paper's data sets, read from small folders in their layouts."""

import pickle
from pathlib import Path

import numpy as np
import pytest

import labelled
from clipseg_cli.datasets import paper_datasets
from clipseg_cli.errors import UsageError


def test_phrasecut_leaves_out_what_the_paper_leaves_out(tmp_path: Path) -> None:
    """A phrase without a box and an image of another size are no samples; every other phrase is a group."""
    tasks = labelled.phrasecut(tmp_path)
    samples = [*paper_datasets.phrasecut(tmp_path, "test")]
    assert [sample.phrase for sample in samples] == [task["phrase"] for task in tasks[:4]]
    assert [sample.group for sample in samples] == [0, 1, 2, 3]
    assert [sample.true_mask().shape for sample in samples] == [(90, 120)] * 2 + [(100, 80)] * 2
    areas = [int(sample.true_mask().sum()) for sample in samples]
    assert 0 < areas[0] < areas[1], "a task's mask is the union of its instances"


def test_pascal_5i_draws_a_support_of_the_same_class(tmp_path: Path) -> None:
    """Each image of the fold is a query; its support is another image of that class; the seed decides which."""
    labelled.voc(tmp_path)
    samples = [*paper_datasets.pascal_5i(tmp_path, 0, 1)]
    assert [sample.image.stem for sample in samples] == [f"2007_{number:06}" for number in range(6)]
    for sample in samples:
        assert sample.support not in (None, sample.image) and sample.group in (1, 2)
        assert (sample.support_mask() == 1).sum() >= paper_datasets.MIN_AREA
        assert {*np.unique(sample.true_mask())} == {0, 1, 255}
    assert {sample.phrase for sample in samples} <= {"a photo of a airplane.", "a photo of a bicycle."}
    again, other = ([each.support for each in paper_datasets.pascal_5i(tmp_path, 0, seed)] for seed in (1, 2))
    assert again == [sample.support for sample in samples] != other
    assert not [*paper_datasets.pascal_5i(tmp_path, 1, 1)], "the only image of its class has no support"


def test_coco_20i_draws_two_images_of_a_class(tmp_path: Path) -> None:
    """Query and support are different images of one class of the fold; a class of fewer than two images is not
    drawn."""
    labelled.coco(tmp_path)
    samples = [*paper_datasets.coco_20i(tmp_path, 0, 0, 40)]
    assert len(samples) == 40 and {sample.group for sample in samples} == {0, 4}
    for sample in samples:
        assert sample.support != sample.image and sample.support.parent == sample.image.parent == tmp_path / "val2014"
        assert {*np.unique(sample.true_mask())} == {0, 1} and (sample.support_mask() == 1).any()


def test_a_split_file_is_never_run(tmp_path: Path) -> None:
    """A pickle that would call something is refused, and nothing is called."""
    labelled.coco(tmp_path)

    class Harm:
        def __reduce__(self) -> tuple[object, ...]:
            return (Path.touch, (tmp_path / "harm",))

    (tmp_path / "splits/coco/val/fold0.pkl").write_bytes(pickle.dumps({0: Harm()}))
    with pytest.raises(UsageError, match="only plain lists"):
        [*paper_datasets.coco_20i(tmp_path, 0, 0)]
    assert not (tmp_path / "harm").exists()
