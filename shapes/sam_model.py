"""The bundled SAM: its configuration, its initial weights, and its losses in training.

The network is an unchanged `Sam2Model` of transformers with a small configuration.
"""

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import (
    Sam2Config,
    Sam2HieraDetConfig,
    Sam2MaskDecoderConfig,
    Sam2Model,
    Sam2PromptEncoderConfig,
    Sam2VisionConfig,
)

from shapes.sam_batches import CELL, COLOURS, FULL, Questions, SamBatch

WIDTHS, BLOCKS, HEADS = (32, 64, 96, 160), (1, 2, 3, 1), (1, 2, 3, 5)  # of the image encoder's four stages
HIDDEN = 96  # channels of prompts and of the mask decoder
PARTS_SHARE = 0.7  # of the loss that the questions about parts have; the rest is that of single objects
MEAN_SHARE = 0.5  # of the loss of all candidates; the rest is that of the best one
LOSS_WEIGHTS = {"edges": 1.0, "dice": 1.0, "iou": 0.5, "object": 0.05}


def configuration() -> Sam2Config:
    """Returns the configuration of the bundled model."""
    grid = FULL // CELL
    backbone = Sam2HieraDetConfig(
        hidden_size=WIDTHS[0],
        num_attention_heads=HEADS[0],
        image_size=[FULL, FULL],
        patch_stride=[CELL, CELL],
        window_positional_embedding_background_size=[8, 8],
        blocks_per_stage=list(BLOCKS),
        embed_dim_per_stage=list(WIDTHS),
        num_attention_heads_per_stage=list(HEADS),
        window_size_per_stage=[8, 8, 8, 8],
        global_attention_blocks=[sum(BLOCKS) - 2],  # 32 x 32 tokens: the last block of the third stage
        mlp_ratio=3.0,
    )
    vision = Sam2VisionConfig(
        backbone_config=backbone,
        backbone_channel_list=list(WIDTHS[::-1]),
        backbone_feature_sizes=[[grid >> level] * 2 for level in range(3)],
        fpn_hidden_size=HIDDEN,
    )
    prompts = Sam2PromptEncoderConfig(hidden_size=HIDDEN, image_size=FULL, patch_size=4 * CELL)
    decoder = Sam2MaskDecoderConfig(
        hidden_size=HIDDEN, mlp_dim=2 * HIDDEN, num_attention_heads=4, iou_head_hidden_dim=HIDDEN
    )
    return Sam2Config(vision_config=vision, prompt_encoder_config=prompts, mask_decoder_config=decoder)


def build(folder: Path, seed: int) -> Sam2Model:
    """Returns a new model and writes its image processor's file to `folder`."""
    torch.manual_seed(seed)
    model = Sam2Model(configuration())
    with torch.no_grad():
        # points and image positions share one code
        model.prompt_encoder.shared_embedding.positional_embedding.copy_(
            model.shared_image_embedding.positional_embedding
        )
        for block in model.vision_encoder.backbone.blocks:  # near the identity at first, so that a deep stack learns
            for last_of_branch in (block.attn.proj, block.mlp.proj_out):
                last_of_branch.weight.mul_(0.3)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "preprocessor_config.json").write_text(json.dumps(image_processor(), indent=2) + "\n", "utf-8")
    return model


def image_processor() -> dict[str, Any]:
    """Returns the settings of transformers' Sam2ImageProcessor, whose class itself needs torchvision."""
    grid = FULL // CELL
    return {
        "image_processor_type": "Sam2ImageProcessor",
        "do_convert_rgb": True,
        "do_normalize": True,
        "do_rescale": True,
        "do_resize": True,
        **COLOURS,
        "mask_size": {"height": grid, "width": grid},
        "resample": 2,
        "rescale_factor": 1 / 255,
        "size": {"height": FULL, "width": FULL},
    }


def set_side(model: Sam2Model, side: int) -> None:
    """Makes the model see images of another side, in pixels: a multiple of 256."""
    grid = side // CELL
    model.backbone_feature_sizes = [[grid >> level] * 2 for level in range(3)]
    encoder = model.prompt_encoder
    encoder.input_image_size, encoder.mask_input_size = side, (grid, grid)
    encoder.image_embedding_size = (grid // 4, grid // 4)


class SamTraining(nn.Module):
    """A model and the losses of its answers."""

    def __init__(self, model: Sam2Model) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: SamBatch) -> dict[str, Tensor]:
        """Returns the loss terms of a batch, see LOSS_WEIGHTS."""
        maps = image_maps(self.model, batch.images)
        terms = [
            losses(*answers(self.model, maps, asked, given), asked)
            for asked, given in zip((batch.parts, batch.single), batch.given, strict=True)
        ]
        return {name: PARTS_SHARE * terms[0][name] + (1 - PARTS_SHARE) * terms[1][name] for name in LOSS_WEIGHTS}


def image_maps(model: Sam2Model, images: Tensor) -> list[Tensor]:
    """Returns what `get_image_embeddings` returns, with gradients: three maps (N, channels, h, w), the finest first."""
    flat = list(model.get_image_features(images, return_dict=True).fpn_hidden_states)
    flat[-1] = flat[-1] + model.no_memory_embedding
    sizes = model.backbone_feature_sizes
    return [each.permute(1, 2, 0).unflatten(2, size) for each, size in zip(flat, sizes, strict=True)]


def answers(
    model: Sam2Model, maps: list[Tensor], asked: Questions, given: frozenset[str]
) -> tuple[Tensor, Tensor, Tensor]:
    """Returns the logits of C candidates per question, (Q, C, G, G), their predicted IoUs, (Q, C), and object scores.

    given: what the network is told, see SamBatch. There are three candidates, or one if "one" is in `given`.
    """
    output = model(
        image_embeddings=[each[asked.image_of] for each in maps],
        input_points=asked.points[:, None] if "points" in given else None,
        input_labels=asked.labels[:, None] if "points" in given else None,
        input_boxes=asked.boxes[:, None] if "box" in given else None,
        input_masks=asked.soft[:, None] if "soft" in given else None,
        multimask_output="one" not in given,
    )
    return output.pred_masks[:, 0], output.iou_scores[:, 0], output.object_score_logits[:, 0]


def losses(logits: Tensor, predicted: Tensor, present: Tensor, asked: Questions) -> dict[str, Tensor]:
    """Returns the loss terms of answers: cross entropy and Dice of the masks, and errors of the scores.

    The masks' terms are those of the best candidate of each question and, in part, the mean over all candidates.
    """
    targets, weights = asked.targets[:, None].expand_as(logits), asked.weights[:, None]
    edges = functional.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    edges = (edges * weights).sum((2, 3)) / weights.sum((2, 3))
    probability = logits.sigmoid()
    dice = 1 - (2 * (probability * targets).sum((2, 3)) + 1) / ((probability + targets).sum((2, 3)) + 1)
    best = (edges + dice).detach().argmin(1, keepdim=True)

    def mixed(term: Tensor) -> Tensor:
        return MEAN_SHARE * term.mean() + (1 - MEAN_SHARE) * term.gather(1, best).mean()

    with torch.no_grad():
        mask, whole = logits > 0, targets > 0.5
        iou = (mask & whole).sum((2, 3)) / (mask | whole).sum((2, 3)).clamp(min=1)
    return {
        "edges": mixed(edges),
        "dice": mixed(dice),
        "iou": (predicted - iou).abs().mean(),
        "object": functional.softplus(-present).mean(),
    }
