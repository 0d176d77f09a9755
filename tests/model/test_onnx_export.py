"""`clipseg models export --onnx`: ONNX Runtime gives the Segmenter's results, without torch; all files or none."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import onnxruntime
import pytest
from tokenizers import Tokenizer

from clipseg_cli.errors import ModelError, OutputError
from clipseg_cli.model import onnx_export, onnx_graphs
from clipseg_cli.model.registry import locate
from clipseg_cli.model.segmenter import Segmenter
from machine import file_size_limit
from oracle import edit, variant
from pictures import ROOT, SAMPLES, Program, iou

FILES = {"image.onnx", "text.onnx", "exemplar.onnx", "decoder.onnx", "tokenizer.json", "preprocess.json"}
EXAMPLE = re.search(r"```python onnx\n(.*?)```", (ROOT / "docs/onnx.md").read_text(encoding="utf-8"), re.DOTALL)
PROMPTS = ["a red circle", "everything that is green in the upper left corner", "star"]


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundled model as ONNX files."""
    out = tmp_path_factory.mktemp("export") / "onnx"
    onnx_export.export(locate("shapes"), out)
    return out


def run(folder: Path, name: str, **inputs: Any) -> np.ndarray:
    """Returns the output of one file, by ONNX Runtime."""
    session = onnxruntime.InferenceSession(folder / f"{name}.onnx", providers=["CPUExecutionProvider"])
    return session.run(None, inputs)[0]


def ids(folder: Path, prompts: list[str]) -> np.ndarray:
    """Returns the token ids of the exported tokenizer, int64 (P, T)."""
    encoded = Tokenizer.from_file(str(folder / "tokenizer.json")).encode_batch(prompts)
    return np.array([each.ids for each in encoded])


def test_the_files_are_valid_and_described(exported: Path) -> None:
    """onnx's own checker accepts every file, and preprocess.json names the shapes that the files have."""
    assert {file.name for file in exported.iterdir()} == FILES
    settings = json.loads((exported / "preprocess.json").read_text())
    for name, described in settings["files"].items():
        model = onnx.load(exported / name)
        onnx.checker.check_model(model, full_check=True)
        assert model.opset_import[0].version == settings["opset"]
        session = onnxruntime.InferenceSession(exported / name, providers=["CPUExecutionProvider"])
        assert {each.name: each.shape for each in session.get_inputs()} == described["inputs"]
        assert {each.name: each.shape for each in session.get_outputs()} == described["outputs"]
    assert settings["files"].keys() == {name for name in FILES if name.endswith(".onnx")}
    assert settings["deviation"]["logit"] < 1e-4 and settings["deviation"]["pixels"] < 1e-4


@pytest.mark.parametrize(("images", "prompts"), [(1, 1), (1, 3), (3, 1), (2, 3)])
def test_any_number_of_images_and_prompts_fits(exported: Path, images: int, prompts: int) -> None:
    """Features, embeddings and logits are the Segmenter's, and prompts of several lengths may stand in one batch."""
    segmenter = Segmenter.load("shapes", device="cpu", dtype="fp32")
    photos = [cv2.imread(str(path))[..., ::-1] for path in sorted((SAMPLES / "images").iterdir())[:images]]
    encoded, embedded = segmenter.encode(photos, pooled=True), segmenter.embed(PROMPTS[:prompts])
    pixels = segmenter.pixels(photos).numpy()
    features = run(exported, "image", pixels=pixels)
    embeddings = run(exported, "text", ids=ids(exported, PROMPTS[:prompts]))
    np.testing.assert_allclose(features, encoded.tensor.numpy(), atol=1e-4)
    np.testing.assert_allclose(embeddings, embedded.values, atol=1e-4)
    np.testing.assert_allclose(run(exported, "exemplar", pixels=pixels), encoded.pooled, atol=1e-4)
    logits = run(exported, "decoder", features=features, embeddings=embeddings)
    expected = segmenter.logits(encoded, embedded)
    assert logits.shape == expected.shape == (images, prompts, 224, 224)
    np.testing.assert_allclose(logits, expected, atol=1e-4)


def test_the_example_of_the_docs_runs_without_torch(exported: Path, clipseg: Program, tmp_path: Path) -> None:
    """In a process that cannot import torch, it writes the masks of `clipseg segment`."""
    assert EXAMPLE is not None and len(EXAMPLE[1].splitlines()) <= 40
    blocked = "import sys; sys.modules['torch'] = sys.modules['clipseg_cli'] = None\n"
    (tmp_path / "segment_onnx.py").write_text(blocked + EXAMPLE[1], encoding="utf-8")
    photo = SAMPLES / "images/twins.jpg"
    words = ["segment_onnx.py", str(exported), str(photo), "a red circle", "a blue star"]
    subprocess.run([sys.executable, *words], cwd=tmp_path, check=True, timeout=120)
    clipseg(f"clipseg segment {photo} -p one='a red circle' -p two='a blue star' --dtype fp32 -f mask -o out")
    for number, label in ((1, "one"), (2, "two")):
        (file,) = (tmp_path / "out/masks" / label).rglob("twins.*")
        ours = cv2.imread(str(file), cv2.IMREAD_GRAYSCALE)
        theirs = cv2.imread(str(tmp_path / f"mask-{number}.png"), cv2.IMREAD_GRAYSCALE)
        assert ours.shape == theirs.shape
        assert iou(ours, theirs) > 0.98 if ours.any() else np.mean(theirs > 0) < 1e-3
    assert cv2.imread(str(tmp_path / "mask-1.png"), cv2.IMREAD_GRAYSCALE).any()


@pytest.mark.slow
def test_int8_files_are_small_and_their_deviation_is_printed(clipseg: Program, tmp_path: Path) -> None:
    """A third of the size or less for both towers. The decoder keeps float32; a sample's mask stays."""
    done = clipseg("clipseg models export shapes -o small --onnx --int8")
    assert done.stdout == "small\n"
    assert re.findall(r"(\w+) files: .* mask pixels", done.stderr) == ["float32", "int8"]
    small, network = tmp_path / "small", Segmenter.load("shapes", device="cpu", dtype="fp32").network
    assert isinstance(network, onnx_graphs.Network)
    for name, model in onnx_graphs.build(network, 224):
        ratio = (small / f"{name}.onnx").stat().st_size / model.ByteSize()
        assert ratio < 0.35 if name != "decoder" else ratio == 1
    settings = json.loads((small / "preprocess.json").read_text())
    assert settings["weights"] == "int8" and 1e-3 < settings["deviation"]["logit"] < 2
    assert settings["deviation"]["pixels"] < 1e-3


def test_files_that_deviate_are_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Another activation moves the logits by more than 1e-4: an error, and no folder."""
    monkeypatch.setitem(onnx_graphs.ACTIVATE, "swish", onnx_graphs.gelu)
    with pytest.raises(ModelError, match="differ from this program's by"):
        onnx_export.export(locate("shapes"), tmp_path / "onnx")
    assert not (tmp_path / "onnx").exists()


def test_a_full_disk_leaves_nothing(tmp_path: Path) -> None:
    """A file that cannot be written whole: an error that names it, and the folder is as before."""
    (tmp_path / "onnx").mkdir()
    (tmp_path / "onnx/mine.txt").touch()
    with file_size_limit(5_000_000), pytest.raises(OutputError, match=r"image\.onnx"):
        onnx_export.export(locate("shapes"), tmp_path / "onnx")
    assert [file.name for file in (tmp_path / "onnx").iterdir()] == ["mine.txt"]


def test_a_killed_export_is_completed_and_a_finished_one_kept(clipseg: Program, tmp_path: Path) -> None:
    """What a kill left is replaced; a folder with preprocess.json is refused; the flag and the extra are named."""
    out = tmp_path / "onnx"
    (out / ".export").mkdir(parents=True)
    (out / ".export/text.onnx").write_bytes(b"half")
    (out / "image.onnx").write_bytes(b"old")
    clipseg("clipseg models export shapes -o onnx --onnx")
    assert {file.name for file in out.iterdir()} == FILES and (out / "image.onnx").stat().st_size > 1_000_000
    assert "holds an export" in clipseg("clipseg models export shapes -o onnx --onnx", expect=1).stderr
    assert "--onnx" in clipseg("clipseg models export shapes -o other", expect=2).stderr
    assert not (tmp_path / "other").exists()


def test_a_missing_extra_is_named(clipseg: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the line that installs it, exit 2, before anything is written."""
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert "clipseg-cli[onnx]" in clipseg("clipseg models export shapes -o onnx --onnx", expect=2).stderr


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"use_complex_transposed_convolution": False},
        {"conditional_layer": 1, "extract_layers": [3, 0, 2]},
        {"text_config": {"hidden_act": "gelu", "eos_token_id": 813}, "vision_config": {"hidden_act": "gelu"}},
        {"vision_config": {"patch_size": 32, "image_size": 96}, "use_complex_transposed_convolution": False},
    ],
    ids=["refined", "plain", "order", "gelu", "patch"],
)
def test_every_architecture_is_exported(tmp_path: Path, changes: dict[str, Any]) -> None:
    """Both upsamplings, any extracted layers, any activation, either rule for the end token, any patch and side."""
    model = variant(tmp_path / "model", **changes)
    edit(model.path / "preprocessor_config.json", size={"height": 160, "width": 160})
    exact, rough = onnx_export.export(model, tmp_path / "onnx")
    assert exact.logit < 1e-4 and rough is None
    settings = json.loads((tmp_path / "onnx/preprocess.json").read_text())
    assert settings["image"]["side"] == 160
    assert settings["files"]["decoder.onnx"]["outputs"]["logits"] == ["N", "P", 160, 160]


@pytest.mark.slow
def test_a_full_size_model_is_exported(find: Any, tmp_path: Path) -> None:
    """The shape of rd64-refined: within 1e-4, and no file is left over."""
    exact, _ = onnx_export.export(find("full"), tmp_path / "onnx")
    assert exact.logit < 1e-4
    sizes = {file.name: file.stat().st_size / 1e6 for file in (tmp_path / "onnx").iterdir()}
    assert sizes.keys() == FILES and 280 < sizes["image.onnx"] < 300 and sizes["decoder.onnx"] < 5


@pytest.mark.slow
def test_wide_layers_keep_their_accuracy_in_int8(find: Any, tmp_path: Path) -> None:
    """The widths of rd64-refined, with fewer layers."""
    exact, rough = onnx_export.export(find("wide"), tmp_path / "onnx", int8=True)
    assert exact.logit < 1e-4 and rough is not None and exact.mean_logit < rough.mean_logit < 0.3
