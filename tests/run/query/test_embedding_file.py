"""Files of embeddings: what they contain, and which are refused."""

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import save as packed

from checkpoints import write_checkpoint
from clipseg_cli.errors import UsageError
from clipseg_cli.model import registry
from clipseg_cli.run.query import embedding_file
from clipseg_cli.run.query.embedding_file import SavedEmbedding

WEIGHTS = registry.BUNDLED / "model.safetensors"
ABOUT = {"format": embedding_file.FORMAT, "labels": '["a"]', "sources": '["a cat"]', "model": "m", "clip": "c"}
ROWS = {"embeddings": np.zeros((1, 4), np.float32)}


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The weights of a model with another CLIP."""
    return write_checkpoint(tmp_path_factory.mktemp("other")) / "model.safetensors"


def test_what_is_packed_is_read_back(tmp_path: Path) -> None:
    """Rows to the bit, labels, sources and model; safetensors' own reader opens the file."""
    rows = np.random.default_rng(0).normal(size=(2, 512)).astype(np.float32)
    path = tmp_path / "e.safetensors"
    labels, sources = ["red", "caf\u00e9"], ["a", "exemplar b.png"]
    path.write_bytes(embedding_file.pack(rows, labels, sources, "shapes", WEIGHTS))
    found = embedding_file.read(str(path))
    assert [(each.label, each.source) for each in found] == [*zip(labels, sources, strict=True)]
    assert {each.model for each in found} == {"shapes"}
    assert np.array_equal([each.values for each in found], rows)
    embedding_file.check(found, WEIGHTS, "shapes")
    with safe_open(str(path), "np") as file:
        assert file.get_tensor("embeddings").shape == (2, int(file.metadata()["dim"]))
        assert json.loads(file.metadata()["labels"]) == labels


def test_an_embedding_of_another_clip_is_refused(other: Path) -> None:
    """The message names both models. Without embeddings the weights are not read."""
    saved = SavedEmbedding("red", "red", "shapes", embedding_file.fingerprint(WEIGHTS), np.zeros(4, np.float32))
    assert embedding_file.fingerprint(other) != saved.clip
    with pytest.raises(UsageError, match=r"model shapes, but \./other has another CLIP"):
        embedding_file.check([saved], other, "./other")
    embedding_file.check([], Path("none"), "none")


@pytest.mark.parametrize("key", ABOUT)
def test_a_file_without_a_key_is_refused(key: str) -> None:
    """Every key of the metadata is needed."""
    assert embedding_file.unpack(packed(ROWS, ABOUT), "x")[0].label == "a"
    with pytest.raises(UsageError, match=r"--embedding x is not a file of `clipseg embed`"):
        embedding_file.unpack(packed(ROWS, {name: ABOUT[name] for name in ABOUT if name != key}), "x")


@pytest.mark.parametrize(
    ("rows", "about"),
    [
        (np.zeros((2, 4), np.float32), {}),
        (np.zeros((1, 4), np.float64), {}),
        (np.zeros(4, np.float32), {}),
        (np.full((1, 4), np.nan, np.float32), {}),
        (ROWS["embeddings"], {"sources": "[]"}),
        (ROWS["embeddings"], {"labels": "7"}),
        (ROWS["embeddings"], {"format": "another"}),
    ],
)
def test_tensors_that_do_not_match_are_refused(rows: np.ndarray, about: dict[str, str]) -> None:
    """Another number of rows than of labels, another dtype, other axes, and numbers that are not finite."""
    with pytest.raises(UsageError, match="not a file of"):
        embedding_file.unpack(packed({"embeddings": rows}, ABOUT | about), "x")


def test_other_files_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that is cut short, an image, a file that is too large, and none at all."""
    whole = packed(ROWS, ABOUT)
    for name, data in (("cut", whole[:-3]), ("image", b"\x89PNG\r\n\x1a\n" * 9), ("empty", b"")):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(UsageError, match=f"{name} is not a file of"):
            embedding_file.read(str(tmp_path / name))
    with pytest.raises(UsageError, match="none: No such file"):
        embedding_file.read(str(tmp_path / "none"))
    monkeypatch.setattr(embedding_file, "LARGEST", 3)
    with pytest.raises(UsageError, match="too large"):
        embedding_file.read(str(tmp_path / "cut"))
