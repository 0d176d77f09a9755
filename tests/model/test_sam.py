"""The network of `--refine sam`, against transformers' Sam2Model used by hand with the same prompts."""

import json
import shutil
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from transformers import Sam2Config, Sam2Model, Sam2VideoConfig, Sam2VideoModel

from checkpoints import sam_config, write_checkpoint, write_json, write_sam
from clipseg_cli.errors import ModelError, UsageError
from clipseg_cli.masks import soft_maps
from clipseg_cli.masks.questions import Question, ask
from clipseg_cli.model.sam import Sam, groups
from oracle import edit
from pictures import iou, picture

EDGE_ENCODER = {  # that of the released EdgeTAM
    "model_type": "timm_wrapper", "architecture": "repvit_m1", "num_classes": 1000,
    "model_args": {"in_chans": 3, "features_only": True, "out_indices": [0, 1, 2, 3]},
}  # fmt: skip


@pytest.fixture(scope="session")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a small random SAM 2."""
    return write_sam(tmp_path_factory.mktemp("sam"))


@pytest.fixture(scope="session")
def sam(path: Path) -> Sam:
    """The same, loaded in fp32."""
    return Sam.load(str(path), device="cpu", dtype="fp32")


def scene(width: int = 400, height: int = 300) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Returns a photo and a soft map of two objects; one fills its box, the other is a thin line."""
    levels = np.zeros((height, width), np.uint8)
    cv2.circle(levels, (width // 2, height // 2), height // 4, 250, -1)
    cv2.line(levels, (5, height - 5), (width // 3, height - 15), 200, 5)
    return picture(width, height), cv2.GaussianBlur(levels, (0, 0), 3)


def by_hand(model: Any, photo: NDArray[np.uint8], question: Question, inputs: Any) -> tuple[Any, Any]:
    """Returns transformers' logits for one question, (C, H, W), and scores (C,), from a processor's inputs."""
    with torch.inference_mode():
        output = model(**inputs, input_masks=torch.from_numpy(question.soft)[None, None])
        logits = F.interpolate(output.pred_masks[0], photo.shape[:2], mode="bilinear", align_corners=False)[0]
    return logits.numpy(), output.iou_scores[0, 0].numpy()


def processed(photo: NDArray[np.uint8], question: Question, side: int) -> dict[str, Any]:
    """Returns what Sam2Processor gives, by its documentation: a resized, normalised image and scaled coordinates."""
    small = F.interpolate(torch.from_numpy(photo).permute(2, 0, 1)[None], (side, side), mode="bilinear", antialias=True)
    mean, std = (torch.tensor(each)[:, None, None] for each in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    scale = side / torch.tensor(photo.shape[1::-1])
    return {
        "pixel_values": (small / 255 - mean) / std,
        "input_points": torch.from_numpy(question.points)[None, None] * scale,
        "input_labels": torch.from_numpy(question.positive.astype(np.int64))[None, None],
        "input_boxes": (torch.from_numpy(question.box).view(2, 2) * scale).view(1, 1, 4),
    }


def equal(mask: NDArray[np.bool_], logits: NDArray[np.float32]) -> bool:
    """Returns whether a mask is that of logits, apart from pixels at which rounding may decide."""
    return bool((mask == (logits > 0))[np.abs(logits) > 1e-3 * logits.std()].all())


def ours(sam: Sam, photo: NDArray[np.uint8], questions: Sequence[Question]) -> tuple[Any, Any]:
    """Returns this program's masks, bool (Q, C, H, W), and scores (Q, C)."""
    logits, scores = sam.decode(sam.encode([sam.resize(photo)])[0], questions, *photo.shape[:2])
    return [[soft_maps.LogitMap(one, photo.shape[:2]).cut(0.5) > 0 for one in each] for each in logits], scores


def test_masks_are_those_of_transformers(sam: Sam, path: Path) -> None:
    """For several questions in one call, with the model and the prompts used by hand, one by one."""
    photo, levels = scene()
    questions = ask(levels, 0.3, 8, sam.grid)
    assert len(questions) == 2
    masks, scores = ours(sam, photo, questions)
    model = Sam2Model.from_pretrained(path).eval()
    for question, mask, score in zip(questions, masks, scores, strict=True):
        expected, predicted = by_hand(model, photo, question, processed(photo, question, sam.side))
        np.testing.assert_allclose(score, predicted, atol=1e-5)
        for found, logits in zip(mask, expected, strict=True):
            assert 0 < found.mean() < 1 and equal(found, logits)


@pytest.mark.slow
def test_masks_are_those_of_transformers_at_full_size(tmp_path: Path) -> None:
    """A random checkpoint with the sizes of SAM 2.1 tiny, used by hand with Sam2Processor, which needs torchvision."""
    pytest.importorskip("torchvision")
    from transformers import Sam2ImageProcessor, Sam2Processor

    path = write_sam(tmp_path, Sam2Config())
    sam = Sam.load(str(path), device="cpu", dtype="fp32")
    photo, levels = scene(333, 1000)
    questions = ask(levels, 0.3, 1, sam.grid)
    masks, scores = ours(sam, photo, questions)
    model, processor = Sam2Model.from_pretrained(path).eval(), Sam2Processor(Sam2ImageProcessor())
    for question, mask, score in zip(questions, masks, scores, strict=True):
        prompts = {
            "input_points": [[question.points.tolist()]],
            "input_labels": [[question.positive.astype(int).tolist()]],
            "input_boxes": [[question.box.tolist()]],
        }
        inputs = processor(images=photo, return_tensors="pt", **prompts)
        del inputs["original_sizes"]
        expected, predicted = by_hand(model, photo, question, inputs)
        np.testing.assert_allclose(score, predicted, atol=1e-4)
        assert all(equal(*pair) for pair in zip(mask, expected, strict=True))


def test_the_edge_of_an_answer_may_be_at_another_logit(path: Path, tmp_path: Path, sam: Sam) -> None:
    """config.json names it; answers have it subtracted. What is no number is refused."""
    shutil.copytree(path, tmp_path / "other")
    edit(tmp_path / "other/config.json", clipseg_mask_threshold=-1.5)
    other, (photo, levels) = Sam.load(str(tmp_path / "other"), device="cpu", dtype="fp32"), scene()
    asked = ask(levels, 0.5, 1, sam.grid)
    (one, scores), (two, same) = (
        each.decode(each.encode([each.resize(photo)])[0], asked, *levels.shape) for each in (sam, other)
    )
    assert np.array_equal(one + np.float32(1.5), two) and np.array_equal(scores, same) and sam.edge == 0
    edit(tmp_path / "other/config.json", clipseg_mask_threshold="low")
    with pytest.raises(ModelError, match="should be a number"):
        Sam.load(str(tmp_path / "other"), device="cpu")


def test_an_image_has_the_same_bits_in_every_batch(sam: Sam) -> None:
    """Whatever its neighbours are and wherever it stands."""
    small = [sam.resize(picture(90, 70, seed)) for seed in range(3)]
    together = sam.encode(small)
    for image, embedding in zip(small, together, strict=True):
        assert all(torch.equal(*pair) for pair in zip(sam.encode([image])[0], embedding, strict=True))
    assert not torch.equal(together[0][2], together[1][2])


def test_prompts_with_other_numbers_of_points_are_not_filled_up(sam: Sam) -> None:
    """A question has the same answer alone and beside one with more points, up to rounding."""
    photo, levels = scene()
    levels = np.maximum(levels, 60)  # nowhere surely empty: no negative points
    few, more = ask(levels, 0.3, 1, sam.grid)[0], ask(scene()[1], 0.3, 1, sam.grid)[0]
    assert len(few.points) < len(more.points)
    assert [len(each) for each in groups([few, more, more, few])] == [1, 2, 1]
    assert [len(each) for each in groups([few] * 9)] == [4, 4, 1]
    embedding = sam.encode([sam.resize(photo)])[0]
    both, alone = (sam.decode(embedding, each, 300, 400)[0] for each in ([few, more, more, few], [few]))
    np.testing.assert_allclose(both[0], alone[0], atol=1e-4)
    np.testing.assert_array_equal(both[0], both[3])


def test_half_precision_gives_nearly_the_same_masks(path: Path, sam: Sam) -> None:
    """Only the image encoder runs in bf16."""
    half = Sam.load(str(path), device="cpu", dtype="bf16")
    photo, levels = scene()
    questions = ask(levels, 0.3, 8, sam.grid)
    (first, _), (second, _) = ours(sam, photo, questions), ours(half, photo, questions)
    assert half.dtype == "bf16" and half.encode([half.resize(photo)])[0][0].dtype == torch.bfloat16
    assert np.mean([iou(a, b) for pair in zip(first, second, strict=True) for a, b in zip(*pair, strict=True)]) > 0.95


def test_a_video_model_contains_the_image_model(tmp_path: Path) -> None:
    """The released SAM 2.1 are stored as `sam2_video`: its tensors are used, without the memory's."""
    memory = {
        "image_size": 128, "memory_attention_hidden_size": 32, "memory_attention_feed_forward_hidden_size": 32,
        "memory_attention_downsample_rate": 1, "memory_encoder_hidden_size": 32, "memory_encoder_output_channels": 8,
        "mask_downsampler_embed_dim": 32, "memory_fuser_embed_dim": 32,
    }  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        video = Sam2VideoModel(Sam2VideoConfig(**sam_config(), **memory))
    video.save_pretrained(tmp_path)
    write_json(tmp_path / "processor_config.json", {"processor_class": "Sam2VideoProcessor", "target_size": 1024})
    sam = Sam.load(str(tmp_path), device="cpu", dtype="fp32")
    own, loaded = video.state_dict(), sam.model.state_dict()
    assert (
        sam.side == 128 and sam.grid == 32 and loaded and all(torch.equal(own[name], loaded[name]) for name in loaded)
    )


@pytest.mark.slow
def test_an_edgetam_answers_too(tmp_path: Path) -> None:
    """A random one with the released sizes: its masks are those of transformers' model used by hand."""
    pytest.importorskip("timm")
    from transformers import EdgeTamConfig, EdgeTamModel

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = EdgeTamModel(EdgeTamConfig(vision_config={"backbone_config": EDGE_ENCODER})).eval()
    model.save_pretrained(tmp_path)
    write_json(tmp_path / "preprocessor_config.json", {"size": {"height": 1024, "width": 1024}})
    sam = Sam.load(str(tmp_path), device="cpu", dtype="fp32")
    photo, levels = scene()
    questions = ask(levels, 0.3, 1, sam.grid)
    assert (sam.side, sam.grid) == (1024, 256)
    masks, scores = ours(sam, photo, questions)
    for question, mask, score in zip(questions, masks, scores, strict=True):
        expected, predicted = by_hand(model, photo, question, processed(photo, question, sam.side))
        np.testing.assert_allclose(score, predicted, atol=1e-4)
        assert all(equal(*pair) for pair in zip(mask, expected, strict=True))


@pytest.mark.skipif(find_spec("timm") is not None, reason="timm is installed")
def test_an_edgetam_without_timm_names_the_extra(path: Path, tmp_path: Path) -> None:
    """As any package that is missing."""
    shutil.copytree(path, tmp_path / "edge")
    vision = {"model_type": "edgetam_vision_model", "backbone_config": EDGE_ENCODER}
    write_json(tmp_path / "edge/config.json", {"model_type": "edgetam", "vision_config": vision})
    with pytest.raises(ModelError, match=r"pip install 'clipseg-cli\[edgetam\]'"):
        Sam.load(str(tmp_path / "edge"))


@pytest.mark.parametrize(
    ("kind", "told"),
    [("sam", "describes a 'sam' model, not 'sam2': choose a SAM 2 checkpoint"), ("sam3", "'sam3' model"),
     ("clipseg", "'clipseg' model"), (None, "None model")],
)  # fmt: skip
def test_another_network_is_refused(path: Path, tmp_path: Path, kind: str | None, told: str) -> None:
    """A SAM of another generation, a CLIPSeg, and a directory that does not say what it is."""
    shutil.copytree(path, tmp_path / "other")
    edit(tmp_path / "other/config.json", model_type=kind)
    with pytest.raises(ModelError, match=told):
        Sam.load(str(tmp_path / "other"))


def test_damaged_checkpoints_are_refused(path: Path, tmp_path: Path) -> None:
    """Truncated weights, a missing tensor, sizes that do not fit, other image settings, no weights, no directory."""

    def damaged(name: str) -> Path:
        return Path(shutil.copytree(path, tmp_path / name))

    weights = damaged("truncated") / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-9])
    edit(damaged("sizes") / "config.json", mask_decoder_config=sam_config()["mask_decoder_config"] | {"mlp_dim": 16})
    edit(
        damaged("deeper") / "config.json",
        mask_decoder_config=sam_config()["mask_decoder_config"] | {"iou_head_depth": 4},
    )
    edit(damaged("settings") / "preprocessor_config.json", size={"height": 96, "width": 96})
    (damaged("none") / "model.safetensors").unlink()
    (damaged("config") / "config.json").write_text("[1]")
    for name, told in {
        "truncated": "is truncated", "sizes": "transformers cannot read", "deeper": "tensors are missing",
        "settings": "needs 128 x 128 pixels", "none": "has no model.safetensors",
        "config": "config.json cannot be read",
    }.items():  # fmt: skip
        with pytest.raises(ModelError, match=told):
            Sam.load(str(tmp_path / name))
    with pytest.raises(UsageError, match=r"nor one of sam2\.1-tiny, "):
        Sam.load("nothing/here/at/all")


def test_a_hostile_pickle_is_refused_and_not_run(path: Path, tmp_path: Path) -> None:
    """As with CLIPSeg's. A pickle of tensors alone is converted."""
    from safetensors.torch import load_file

    shutil.copytree(path, tmp_path / "sam")
    weights = tmp_path / "sam/model.safetensors"
    state = load_file(weights)
    weights.unlink()

    class Evil:
        def __reduce__(self) -> Any:
            return Path.touch, (tmp_path / "was run",)

    torch.save({"a": Evil()}, tmp_path / "sam/pytorch_model.bin")
    with pytest.raises(ModelError, match="refused and was not executed"):
        Sam.load(str(tmp_path / "sam"))
    assert not (tmp_path / "was run").exists()
    torch.save(state, tmp_path / "sam/pytorch_model.bin")
    assert Sam.load(str(tmp_path / "sam")).grid == 32


def test_an_alias_belongs_to_one_kind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A CLIPSeg is no SAM and the other way round, before anything is downloaded. Offline, the remedy is named."""
    from clipseg_cli.model import registry

    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(UsageError, match="rd64 is a CLIPSeg model; a SAM 2 model is needed here"):
        Sam.load("rd64")
    with pytest.raises(UsageError, match=r"sam2.1-tiny is a SAM 2 model; a CLIPSeg model is needed here"):
        registry.locate("sam2.1-tiny")
    with pytest.raises(ModelError, match=r"clipseg models pull sam2.1-large.*--refine guided"):
        Sam.load("sam2.1-large", offline=True)
    with pytest.raises(ModelError, match="'clipseg' model, not 'sam2'"):
        Sam.load(str(write_checkpoint(tmp_path / "clipseg")))
    assert json.loads((tmp_path / "clipseg/config.json").read_text())["model_type"] == "clipseg"
