"""Files that cover the whole run: read by their consumers, and the same bytes however the run was divided."""

import gc
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml

from clipseg_cli.outputs.writers import per_run
from mask_shapes import MASKS, ODD_LABELS, assemble, read_yolo, result, ring
from pictures import records


def test_yolo_names_its_classes(tmp_path: Path) -> None:
    """data.yaml is valid YAML that names folders and classes, whatever the labels. Every label file lies where trainers
    look for it, even if a folder of the input has the name of one of theirs."""
    stems = ("a", "images/b", "x/images/images/c", "labels/d")
    out = assemble(
        tmp_path, "yolo", dict.fromkeys(stems, replace(result(*[ring()] * len(ODD_LABELS)), labels=ODD_LABELS))
    )
    data = yaml.safe_load((out / "yolo/data.yaml").read_text())
    assert data["names"] == dict(enumerate(ODD_LABELS))
    photos = sorted((out / "yolo" / data["train"]).rglob("*.jpg"))
    assert [str(photo.relative_to(out / "yolo/images")) for photo in photos] == sorted(f"{stem}.jpg" for stem in stems)
    # the rule of Ultralytics' `img2label_paths`
    lines = ["/labels/".join(str(photo).rsplit("/images/", 1)).rsplit(".", 1)[0] + ".txt" for photo in photos]
    assert all(set(read_yolo(Path(line).read_text(), 130, 90)) == {*range(len(ODD_LABELS))} for line in lines)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # webdataset leaves files open
def test_webdataset_reads_its_shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """webdataset's own loader yields each sample once, with photo, masks and JSON under one key. Shards have a limit,
    and are not written again if nothing changed. Each record names the shard that holds its image."""
    import webdataset

    monkeypatch.setattr(per_run, "SHARD", 5)
    masks = {f"sub.d/{i // 2:02}{'._'[i % 2]}p": mask for i, mask in enumerate(MASKS.values())}  # 00.p, 00_p, 01.p
    images = {stem: result(mask, ring()) for stem, mask in masks.items()}
    out = assemble(tmp_path, "webdataset", images)
    shards = sorted((out / "webdataset").iterdir())
    assert [shard.name for shard in shards] == ["000000.tar", "000001.tar", "000002.tar"]
    before = [(shard.stat().st_mtime_ns, shard.read_bytes()) for shard in shards]
    per_run.assemble(out, ("webdataset",), ())
    assert before == [(shard.stat().st_mtime_ns, shard.read_bytes()) for shard in shards]
    samples = list(webdataset.WebDataset([str(shard) for shard in shards], shardshuffle=False).decode("rgb8"))
    keys = [sample["__key__"] for sample in samples]
    assert len({*keys}) == len(keys) and keys[1::2] == [*masks][1::2]
    assert [key.partition("~")[0] for key in keys] == [f"sub.d/{i // 2:02}_p" for i in range(len(masks))]
    shard_of = {row["image"]: row["files"]["webdataset"] for row in records(out / "manifest.jsonl")}
    assert len(shard_of) == len(masks) and {*shard_of.values()} == {f"webdataset/{shard.name}" for shard in shards}
    for stem in [*masks][1::2]:
        with tarfile.open(out / shard_of[f"imgs/{stem}.jpg"]) as shard:
            assert f"{stem}.jpg" in shard.getnames()
    for sample, mask in zip(samples, masks.values(), strict=True):
        assert sample["jpg"].shape == (90, 130, 3) and np.array_equal(sample["label-0.png"][..., 0], mask)
        assert np.array_equal(sample["label-1.png"][..., 0], ring())
        assert [each["mask"] for each in sample["json"]["masks"]] == ["label-0.png", "label-1.png"]
    gc.collect()  # closes what the loader left open, here where its warning is expected
