"""The network of `--refine sam`: SAM 2 or EdgeTAM, by transformers' own classes, used unchanged.

sam = Sam.load("sam2.1-tiny")
embedding = sam.encode([sam.resize(image)])[0]  # once per image
logits, scores = sam.decode(embedding, prompts, height, width)  # once per label
"""

import math
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, Self

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from clipseg_cli.errors import ModelError
from clipseg_cli.model import preprocess
from clipseg_cli.model.checkpoint_files import SAM, read_config
from clipseg_cli.model.devices import DTYPES, pick_device, pick_dtype
from clipseg_cli.model.registry import Checkpoint, locate
from clipseg_cli.settings.model import Dtype

Embedding = tuple[Tensor, ...]  # of one image: three maps (1, channels, h, w), the finest first

PROMPTS_AT_ONCE = 4  # prompts in one pass of the decoder: limits its memory
DEFAULTS: dict[str, Any] = preprocess.DEFAULTS | {  # those of transformers' Sam2ImageProcessor, apart from the size
    "image_mean": [0.485, 0.456, 0.406],
    "image_std": [0.229, 0.224, 0.225],
}


class Prompt(Protocol):
    """What SAM is asked: see `masks.questions.Question`."""

    @property
    def box(self) -> NDArray[np.float32]:
        """(4,): x0, y0, x1, y1, in pixels of the image."""

    @property
    def points(self) -> NDArray[np.float32]:
        """(N, 2): x, y, in pixels of the image."""

    @property
    def positive(self) -> NDArray[np.bool_]:
        """(N,): whether a point is on the object."""

    @property
    def soft(self) -> NDArray[np.float32]:
        """(grid, grid): logits of the mask prompt."""


@dataclass(frozen=True, slots=True, eq=False)
class Sam:
    """A loaded SAM. Create it with `Sam.load`. Its methods may be called by several threads; one at a time works."""

    checkpoint: Checkpoint
    device: str
    dtype: str  # of the image encoder; the decoder, which is small, always runs in fp32
    side: int  # pixels: images are warped to side x side
    grid: int  # cells per side of mask prompts and answers
    edge: float  # the network's logit at the edge of an object; answers have it subtracted, so that theirs is 0
    model: Any = field(repr=False)
    preprocessing: preprocess.Preprocessing = field(repr=False)
    alone: threading.Lock = field(default_factory=threading.Lock, repr=False)  # bounds the memory

    @classmethod
    def load(
        cls, model: str | Checkpoint, *, device: str = "auto", dtype: Dtype = "auto", offline: bool = False
    ) -> Self:
        """Loads a model: an alias, a hub id, a directory, or a result of `registry.locate`.

        Raises ModelError for files that are missing, damaged or not supported, and UsageError for invalid arguments.
        """
        device = pick_device(device)
        precision = pick_dtype(dtype if dtype in DTYPES else "auto", device)  # what only CLIPSeg has counts as auto
        checkpoint = locate(model, offline=offline, kinds=(SAM,)) if isinstance(model, str) else model
        network = _load_network(checkpoint)
        side, grid = network.prompt_encoder.input_image_size, network.prompt_encoder.mask_input_size[0]
        preprocessing = read_preprocessing(checkpoint.path, side)
        edge = read_edge(checkpoint.path)
        return cls(checkpoint, device, precision, side, grid, edge, network.to(device), preprocessing)

    def resize(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Resizes uint8 (H, W, 3) to uint8 (side, side, 3), the resolution that the network sees."""
        return preprocess.resize(image, self.preprocessing)

    @torch.inference_mode()
    def encode(self, images: Sequence[NDArray[np.uint8]]) -> list[Embedding]:
        """Returns the embedding of each image, uint8 (H, W, 3).

        On a CPU, it is bit-identical in every batch.
        """
        pixels = torch.from_numpy(np.stack([preprocess.preprocess(image, self.preprocessing) for image in images]))
        # as in `Segmenter.encode`: on a CPU a batch is not faster, and the last bits may depend on its size
        step = 1 if self.device == "cpu" else len(pixels)
        kind, half = self.device.split(":")[0], self.dtype != "fp32"
        embeddings: list[Embedding] = []
        for part in torch.split(pixels, step):
            with self.alone, torch.autocast(kind, DTYPES[self.dtype], enabled=half):
                maps = self.model.get_image_embeddings(part.to(self.device))
            embeddings += zip(*(each.split(1) for each in maps), strict=True)
        return embeddings

    @torch.inference_mode()
    def decode(
        self, embedding: Embedding, prompts: Sequence[Prompt], height: int, width: int
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Answers P prompts about an image of height x width pixels.

        Returns the logits of C candidates for each, float32 (P, C, grid, grid), unbounded, and the IoU that the network
        predicts for them, float32 (P, C).
        """
        with self.alone:
            maps = [each.to(self.device, torch.float32) for each in embedding]
            answers = [self._answer(maps, each, height, width) for each in groups(prompts)]
        logits, scores = (torch.cat(each).float().cpu().numpy() for each in zip(*answers, strict=True))
        return logits, scores

    def _answer(self, maps: list[Tensor], prompts: Sequence[Prompt], height: int, width: int) -> tuple[Tensor, Tensor]:
        """Answers prompts with equal numbers of points. Each is a batch of its own, since each has a mask prompt."""

        def stacked(arrays: list[NDArray[Any]]) -> Tensor:
            return torch.from_numpy(np.stack(arrays)[:, None]).to(self.device)

        scale = np.array([self.side / width, self.side / height], np.float32)
        output = self.model(
            image_embeddings=[each.expand(len(prompts), -1, -1, -1) for each in maps],
            input_points=stacked([prompt.points * scale for prompt in prompts]),
            input_labels=stacked([prompt.positive.astype(np.int64) for prompt in prompts]),
            input_boxes=stacked([prompt.box * np.tile(scale, 2) for prompt in prompts]),
            input_masks=stacked([prompt.soft for prompt in prompts]),
        )
        return output.pred_masks[:, 0] - self.edge, output.iou_scores[:, 0]


def groups(prompts: Sequence[Prompt]) -> Iterator[Sequence[Prompt]]:
    """Yields the prompts in order, up to PROMPTS_AT_ONCE at a time, each time with equal numbers of points.

    So no prompt needs points that only fill up, which would change its answer.
    """
    start = 0
    while start < len(prompts):
        count = len(prompts[start].points)
        end = start + 1
        while end < min(len(prompts), start + PROMPTS_AT_ONCE) and len(prompts[end].points) == count:
            end += 1
        yield prompts[start:end]
        start = end


def read_edge(path: Path) -> float:
    """Returns the logit at the edge of an object: 0, unless config.json says otherwise. Raises ModelError."""
    value = read_config(path).get("clipseg_mask_threshold", 0.0)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ModelError(f"{path}/config.json: clipseg_mask_threshold is {value!r}, and should be a number like -1.0")
    return float(value)


def read_preprocessing(path: Path, side: int) -> preprocess.Preprocessing:
    """Returns the image settings of the checkpoint in `path`, whose network sees side x side pixels.

    Raises ModelError if they are unreadable or contradict the network.
    """
    try:
        settings = DEFAULTS | {"size": side} | _own_settings(path)
        if preprocess.square(settings["size"]) != side:
            raise ValueError(f'"size" is {settings["size"]}; the network needs {side} x {side} pixels')
        return preprocess.Preprocessing(side, int(settings["resample"]), preprocess.grey_levels(settings))
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise ModelError(f"{path}: the image settings of this model are not supported: {error}") from error


def _own_settings(path: Path) -> dict[str, Any]:
    """Returns the settings of the image processor; none if processor_config.json has none, as in the released models.

    That file then belongs to the video processor.
    """
    try:
        return preprocess.read_settings(path)
    except KeyError:
        return {}


def _load_network(checkpoint: Checkpoint) -> Any:
    """Returns transformers' model in eval mode, in fp32. Runs no code of the checkpoint.

    Raises ModelError if transformers cannot read it, or would fill a missing tensor with random numbers.
    """
    from transformers import EdgeTamConfig, EdgeTamModel, Sam2Config, Sam2Model

    from clipseg_cli.model.reference import quiet

    edge = str(read_config(checkpoint.path)["model_type"]).startswith("edgetam")
    config_of, network_of = (EdgeTamConfig, EdgeTamModel) if edge else (Sam2Config, Sam2Model)
    untyped: Any = network_of
    path, weights = checkpoint.path, checkpoint.weights
    with quiet():
        try:
            config = config_of.from_pretrained(path, local_files_only=True)
            model, info = untyped.from_pretrained(
                None, config=config, state_dict=load_file(weights), dtype=torch.float32, output_loading_info=True
            )
        except ImportError as error:
            raise ModelError(f"{checkpoint.name} needs another package: pip install 'clipseg-cli[edgetam]'") from error
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError, SafetensorError) as error:
            raise ModelError(f"{path}: transformers cannot read this model: {error}") from error
    missing = sorted(info["missing_keys"])
    if missing:
        raise ModelError(f"{weights}: {len(missing)} tensors are missing, including {missing[0]}")
    return model.eval()
