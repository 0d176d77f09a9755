"""`clipseg models info`: what a checkpoint is, for the hub's, a directory, a plain CLIP, and another network."""

import json
from pathlib import Path

import pytest

from checkpoints import write_checkpoint, write_clip, write_json
from clipseg_cli.errors import ModelError, UsageError
from clipseg_cli.model.architecture import Tower
from clipseg_cli.model.description import Clip, describe
from oracle import edit
from pictures import Program

COMMIT = "0123456789abcdef" * 2 + "01234567"


def test_a_directory_is_described(released: Path) -> None:
    """Sizes are those that transformers has; parameters are counted as torch counts them."""
    found = describe(str(released))
    assert (found.kind, found.repo, found.commit, found.missing) == ("clipseg", None, None, None)
    assert found.parameters == 187_482 and found.dtype == "float32" and found.licence == found.terms == ""
    assert found.size == sum(file.stat().st_size for file in released.iterdir())
    assert found.clip is not None and found.decoder is not None
    assert found.clip.vision == Tower(4, 48, 96, 4, 1e-5, "quick_gelu") and found.clip.dim == 24
    assert found.decoder.extract == (1, 2, 3) and found.decoder.reduce_dim == 16 and found.decoder.refined
    assert (found.decoder.side, found.decoder.threshold) == (352, 0.3)


def test_a_plain_clip_is_described(clipseg: Program, tmp_path: Path) -> None:
    """Its towers, without a decoder."""
    found = describe(str(write_clip(tmp_path / "clip")))
    assert found.kind == "clip" and found.decoder is None and found.missing is None
    vision, text = Tower(5, 48, 96, 6, 1e-5, "quick_gelu"), Tower(3, 32, 64, 4, 1e-5, "quick_gelu")
    assert found.clip == Clip(vision, text, patch=16, trained_side=64, vocabulary=814, positions=77, dim=24)
    assert "CLIP without a decoder: train one" in clipseg("clipseg models info clip").stdout
    assert "needs a decoder" in clipseg("clipseg segment x -m clip -p cat", expect=1).stderr


def test_another_network_is_named(clipseg: Program, tmp_path: Path) -> None:
    """Its kind, size and licence, whatever its config.json holds beside them; also one that this program cannot run."""
    write_json(tmp_path / "config.json", {"model_type": "sam2_video", "vision_config": {"hidden_size": "?"}})
    (tmp_path / "README.md").write_text("---\nlicense: other\nlicense_name: mine\nlicense_link: LICENSE\n---\n# A\n")
    shown = clipseg("clipseg models info .").stdout
    assert "SAM 2, for --refine sam" in shown and "other mine LICENSE (its card)" in shown and "decoder" not in shown
    write_json(tmp_path / "config.json", {"model_type": "vit"})
    assert "., vit\n" in clipseg("clipseg models info .").stdout


@pytest.mark.parametrize(
    ("card", "licence"),
    [
        ("---\nlicense: apache-2.0\n---\n", "apache-2.0"),
        ("---\ntags: [a]\nlicense:   'mit' \nlanguage: en\n---\nlicense: gpl\n", "mit"),
        ("# A model\nlicense: gpl\n", ""),
        ("---\nlicense:\n---\n", ""),
        ("\ufeff", ""),
        ("", ""),
    ],
)
def test_the_licence_is_the_field_of_the_card(tmp_path: Path, card: str, licence: str) -> None:
    """Only that of the YAML block at its start; a card without one has none."""
    write_json(tmp_path / "config.json", {"model_type": "vit"})
    (tmp_path / "README.md").write_text(card)
    assert describe(str(tmp_path)).licence == licence


def test_a_cached_model_of_the_hub_is_described(
    clipseg: Program, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """With its commit, and without any request. One that is not here: exit 1, with the line that downloads it."""
    repo = tmp_path / "hf/hub/models--CIDAS--clipseg-rd64"
    write_checkpoint(repo / "snapshots" / COMMIT, layout="saved")
    (repo / "refs").mkdir()
    (repo / "refs/main").write_text(COMMIT)
    (repo / "snapshots" / COMMIT / "README.md").write_text("---\nlicense: apache-2.0\n---\n")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hf/hub"))
    found = json.loads(clipseg("clipseg models info rd64 --json").stdout)
    shown = clipseg(f"clipseg models info CIDAS/clipseg-rd64@{COMMIT}").stdout
    assert "models pull rd16" in clipseg("clipseg models info rd16", expect=1).stderr
    assert (found["commit"], found["repo"], found["licence"]) == (COMMIT, "CIDAS/clipseg-rd64", "apache-2.0")
    assert "no licence for the weights" in found["terms"] and found["decoder"]["side"] == 352
    assert f"commit      {COMMIT}" in shown and "apache-2.0 (its card)" in shown


def test_what_is_no_checkpoint_is_an_error(tmp_path: Path, released: Path) -> None:
    """An invalid name, an empty folder, damaged weights, a configuration that contradicts itself."""
    with pytest.raises(UsageError, match="no model"):
        describe("no such model")
    with pytest.raises(ModelError, match="no readable config"):
        describe(str(tmp_path))
    model = write_checkpoint(tmp_path / "model")
    (model / "model.safetensors").write_bytes(b"x" * 100)
    with pytest.raises(ModelError, match="cannot read the weights"):
        describe(str(model))
    model = write_checkpoint(tmp_path / "other")
    edit(model / "config.json", extract_layers=[1, 9])
    with pytest.raises(ModelError, match="extract_layers"):
        describe(str(model))
    edit(model / "config.json", vision_config=[1])
    with pytest.raises(ModelError, match="usable"):
        describe(str(model))


def test_an_incomplete_checkpoint_names_what_it_lacks(clipseg: Program, tmp_path: Path) -> None:
    """And is described as far as it goes."""
    model = write_checkpoint(tmp_path / "model")
    (model / "preprocessor_config.json").unlink()
    shown = clipseg("clipseg models info model").stdout
    assert "it has no preprocessor_config.json" in shown and "vision      4 layers" in shown
