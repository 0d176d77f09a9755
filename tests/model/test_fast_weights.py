"""A weights file must hold exactly the tensors that config.json describes."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from checkpoints import write_checkpoint
from clipseg_cli.errors import ModelError
from clipseg_cli.model.segmenter import Segmenter
from oracle import as_checkpoint


def test_other_tensors_are_refused(tmp_path: Path) -> None:
    """Missing, additional, misshapen or damaged ones. The buffers of old checkpoints are ignored."""
    known = as_checkpoint(write_checkpoint(tmp_path))
    tensors = load_file(known.weights)
    name = "decoder.film_mul.weight"
    old = {"clip.text_model.embeddings.position_ids": torch.arange(77)[None]}
    save_file(tensors | old, known.weights)
    Segmenter.load(known, device="cpu")
    for wrong, message in [
        ({key: value for key, value in tensors.items() if key != name}, f"{name} is missing"),
        (tensors | {name: tensors[name][:, :5].contiguous()}, r"is \(16, 5\), config.json requires \(16, 24\)"),
        (tensors | {"decoder.reduce.weight": tensors[name] + 1}, r"does not describe: decoder.reduce.weight"),
    ]:
        save_file(wrong, known.weights)
        with pytest.raises(ModelError, match=message + r".*--backend transformers"):
            Segmenter.load(known, device="cpu")
    known.weights.write_bytes(known.weights.read_bytes()[:1000])
    for backend in ("fast", "transformers"):
        with pytest.raises(ModelError, match="cannot"):
            Segmenter.load(known, device="cpu", backend=backend)  # type: ignore[arg-type]
