"""Random CLIPSeg checkpoints with the same files as the released repositories, for tests that need real weights.

The network is transformers' own, so code that reads these files also reads the released ones. The weights are drawn
from a seed. The last layer is then adjusted on a drawing, so that the logits have both signs and depend on image and
prompt.
"""

import json
from collections.abc import Mapping
from itertools import chain, islice, product
from pathlib import Path
from string import ascii_lowercase
from typing import Any, Literal

Size = Literal["tiny", "wide", "full"]
START, END = "<|startoftext|>", "<|endoftext|>"
FULL_VOCABULARY = 49408  # CLIP: 512 byte tokens, 48,894 merges, start and end
TINY_MERGES = 300
SIDE = 352  # pixels
LOGIT_MEAN, LOGIT_STD = -0.7, 2.0  # so that an image has logits on both sides of 0 and of logit(0.3) = -0.85


def write_checkpoint(
    path: Path,
    *,
    size: Size = "tiny",
    seed: int = 0,
    layout: Literal["released", "saved"] = "released",
    weights: Literal["safetensors", "bin"] = "safetensors",
    changes: Mapping[str, Any] = {},
) -> Path:
    """Writes a checkpoint directory and returns it. The same arguments give the same tensors.

    `tiny`: 187,482 parameters, patch 16, side 352. `full`: the shape of rd64-refined, 150,747,746 parameters.
    `wide`: the widths of `full`, with the depth and the vocabulary of `tiny`.
    `released`: the files of the CIDAS repositories, without tokenizer.json and with the legacy preprocessor key.
    `saved`: the files that transformers 5 writes with `save_pretrained`: tokenizer.json and processor_config.json.
    `bin`: pytorch_model.bin with the position_ids buffers of old checkpoints, and no safetensors.
    `changes`: other values for keys of config.json; a dict changes some keys of a section.
    """
    import torch
    from safetensors.torch import save_file

    path.mkdir(parents=True, exist_ok=True)
    write_tokenizer(path, FULL_VOCABULARY - 514 if size == "full" else TINY_MERGES)
    write_json(path / "preprocessor_config.json", PREPROCESSOR)
    config = configuration(path, size)
    for key, value in changes.items():
        config[key] = config[key] | value if isinstance(value, dict) else value
    write_json(path / "config.json", config)
    model = network(path, seed)
    if layout == "saved":
        save_like_transformers(path, model)
        return path
    state = {name: tensor.detach().contiguous() for name, tensor in model.state_dict().items()}
    if weights == "safetensors":
        save_file(state, path / "model.safetensors", metadata={"format": "pt"})
    else:
        for name in ("text", "vision"):
            count = len(state[f"clip.{name}_model.embeddings.position_embedding.weight"])
            state[f"clip.{name}_model.embeddings.position_ids"] = torch.arange(count)[None]
        torch.save(state, path / "pytorch_model.bin")
    return path


def write_clip(path: Path, **vision: Any) -> Path:
    """Writes a plain CLIP with random weights, as transformers saves it. `vision` changes its vision tower."""
    import torch
    from transformers import CLIPConfig, CLIPModel

    path.mkdir(parents=True, exist_ok=True)
    write_tokenizer(path, TINY_MERGES)
    write_json(path / "preprocessor_config.json", {"image_processor_type": "CLIPImageProcessor", "crop_size": 64})
    text = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 64}
    tower = {"hidden_size": 48, "num_hidden_layers": 5, "num_attention_heads": 6, "intermediate_size": 96}
    tower |= {"patch_size": 16, "image_size": 64} | vision
    tokens = {"vocab_size": 514 + TINY_MERGES, "bos_token_id": 512 + TINY_MERGES, "eos_token_id": 513 + TINY_MERGES}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        CLIPModel(CLIPConfig(text_config=text | tokens, vision_config=tower, projection_dim=24)).save_pretrained(path)
    return path


def network(path: Path, seed: int) -> Any:
    """Returns the CLIPSeg of `path`/config.json with random weights, in eval mode.

    The state of torch's global random generator does not change.
    """
    import torch
    from transformers import CLIPSegConfig, CLIPSegForImageSegmentation

    config = CLIPSegConfig.from_pretrained(path)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        model = CLIPSegForImageSegmentation(config).eval()
        model.decoder.film_mul.weight.normal_(std=2 * config.projection_dim**-0.5)
        model.decoder.film_add.weight.normal_(std=4 * config.projection_dim**-0.5)
        for name, tensor in model.named_parameters():
            if name.startswith("decoder.") and tensor.ndim == 2 and "film" not in name:
                tensor.normal_(std=tensor.shape[1] ** -0.5)
            elif name.startswith("decoder.transposed_convolution") and tensor.ndim == 4:
                grain = torch.randn_like(tensor)  # kept low: a patch is mostly one value, not a lattice
                plane = torch.randn(*tensor.shape[:2], 1, 1)
                tensor.copy_((plane + 0.25 * grain) * tensor.shape[1] ** -0.5)
        level(model, path)
    return model


def level(model: Any, path: Path) -> None:
    """Scales and shifts the last layer so that the logits of a drawing have LOGIT_MEAN and LOGIT_STD."""
    import torch

    pixels, ids = drawing(), prompts(path)
    last = [module for module in model.decoder.transposed_convolution.modules() if hasattr(module, "bias")][-1]
    logits = model(pixel_values=pixels.expand(len(ids), -1, -1, -1), input_ids=ids).logits
    scale = LOGIT_STD / logits.std()
    last.weight.mul_(scale)
    last.bias.copy_(scale * (last.bias - logits.mean()) + LOGIT_MEAN)
    assert torch.isfinite(last.weight).all()


def drawing() -> Any:
    """Returns a red disc and a blue bar on a shaded background: float32 (1, 3, SIDE, SIDE), normalised."""
    import torch

    y, x = torch.meshgrid(torch.linspace(-1, 1, SIDE), torch.linspace(-1, 1, SIDE), indexing="ij")
    image = torch.stack([0.5 + 0.4 * x, 0.5 + 0.4 * y, 0.5 - 0.4 * x])
    image[:, (x + 0.4) ** 2 + (y + 0.3) ** 2 < 0.1] = torch.tensor([0.9, 0.1, 0.1])[:, None]
    image[:, (y - 0.5).abs() < 0.15] = torch.tensor([0.1, 0.1, 0.9])[:, None]
    mean, std = (torch.tensor(PREPROCESSOR[key])[:, None, None] for key in ("image_mean", "image_std"))
    return ((image - mean) / std)[None]


def prompts(path: Path) -> Any:
    """Returns three tokenised prompts: int64 (3, tokens), padded with the end token."""
    from transformers import CLIPTokenizer

    tokenizer = CLIPTokenizer.from_pretrained(path)
    return tokenizer(["a cat", "the red disc", "a photo of a bar."], padding=True, return_tensors="pt").input_ids


def save_like_transformers(path: Path, model: Any) -> None:
    """Replaces the released files in `path` by those that `save_pretrained` writes."""
    from transformers import CLIPSegProcessor

    processor = CLIPSegProcessor.from_pretrained(path, backend="pil")
    for file in path.iterdir():
        file.unlink()
    processor.save_pretrained(path)
    model.save_pretrained(path)


def write_tokenizer(path: Path, merge_count: int) -> None:
    """Writes a valid CLIP byte-level BPE: 256 bytes, 256 word-ending bytes, merges, start, end (the largest id)."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [byte for byte in range(256) if byte not in printable]
    symbols = [*map(chr, printable), *(chr(256 + index) for index in range(len(hidden)))]
    merges = list(islice(chain(*(filler_merges(length) for length in (2, 3, 4))), merge_count))
    tokens = [*symbols, *(symbol + "</w>" for symbol in symbols), *("".join(merge) for merge in merges), START, END]
    write_json(path / "vocab.json", {token: index for index, token in enumerate(tokens)})
    lines = ["#version: 0.2", *(" ".join(merge) for merge in merges)]
    (path / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    special = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": True}
    marks = {"bos_token": {"content": START, **special}, "eos_token": {"content": END, **special}}
    marks["unk_token"] = {"content": END, **special}
    write_json(path / "special_tokens_map.json", {**marks, "pad_token": END})
    typed = {name: {**mark, "__type": "AddedToken"} for name, mark in marks.items()}
    write_json(path / "tokenizer_config.json", {**typed, **TOKENIZER})


def filler_merges(length: int) -> Any:
    """Yields the merges that build all tokens of `length` letters, inner and word-ending, from shorter ones."""
    for ending in ("", "</w>"):
        for letters in product(ascii_lowercase, repeat=length):
            yield "".join(letters[:-1]), letters[-1] + ending


def configuration(path: Path, size: Size) -> dict[str, Any]:
    """Returns config.json as the conversion of 2022 wrote it, with the legacy token ids (start 0, end 2)."""
    deep, wide = size == "full", size != "tiny"
    vocabulary = len(json.loads((path / "vocab.json").read_text(encoding="utf-8")))
    shared = {"hidden_act": "quick_gelu", "layer_norm_eps": 1e-05, "attention_dropout": 0.0, "initializer_factor": 1.0}
    text = {
        "model_type": "clipseg_text_model",
        "vocab_size": vocabulary,
        "max_position_embeddings": 77,
        "hidden_size": 512 if wide else 32,
        "intermediate_size": 2048 if wide else 64,
        "num_hidden_layers": 12 if deep else 2,
        "num_attention_heads": 8 if wide else 4,
        "bos_token_id": 0,
        "eos_token_id": 2,
        "pad_token_id": 1,
        **shared,
    }
    vision = {
        "model_type": "clipseg_vision_model",
        "image_size": 224,
        "patch_size": 16,
        "num_channels": 3,
        "hidden_size": 768 if wide else 48,
        "intermediate_size": 3072 if wide else 96,
        "num_hidden_layers": 12 if deep else 4,
        "num_attention_heads": 12 if wide else 4,
        **shared,
    }
    return {
        "architectures": ["CLIPSegForImageSegmentation"],
        "model_type": "clipseg",
        "conditional_layer": 0,
        "decoder_attention_dropout": 0.0,
        "decoder_hidden_act": "quick_gelu",
        "decoder_intermediate_size": 2048 if wide else 64,
        "decoder_num_attention_heads": 4,
        "extract_layers": [3, 6, 9] if deep else [1, 2, 3],
        "initializer_factor": 1.0,
        "logit_scale_init_value": 2.6592,
        "projection_dim": 512 if wide else 24,
        "reduce_dim": 64 if wide else 16,
        "text_config": text,
        "text_config_dict": None,
        "torch_dtype": "float32",
        "transformers_version": None,
        "use_complex_transposed_convolution": True,
        "vision_config": vision,
        "vision_config_dict": None,
    }


def write_json(path: Path, value: Any) -> None:
    """Writes indented JSON, UTF-8."""
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


PREPROCESSOR: dict[str, Any] = {
    "do_normalize": True,
    "do_rescale": True,
    "do_resize": True,
    "feature_extractor_type": "ViTImageProcessor",
    "image_mean": [0.485, 0.456, 0.406],
    "image_std": [0.229, 0.224, 0.225],
    "processor_class": "CLIPSegProcessor",
    "resample": 2,
    "rescale_factor": 0.00392156862745098,
    "size": {"height": SIDE, "width": SIDE},
}
TOKENIZER: dict[str, Any] = {
    "add_prefix_space": False,
    "do_lower_case": True,
    "errors": "replace",
    "model_max_length": 77,
    "pad_token": END,
    "processor_class": "CLIPSegProcessor",
    "tokenizer_class": "CLIPTokenizer",
}


def sam_config(side: int = 128) -> dict[str, Any]:
    """Returns the configuration of a SAM 2 of 118,483 parameters for images of side x side pixels."""
    quarter = side // 4
    backbone = {
        "model_type": "sam2_hiera_det_model", "hidden_size": 8, "image_size": [side, side],
        "embed_dim_per_stage": [8, 16, 32, 64], "num_attention_heads_per_stage": [1, 1, 2, 2],
        "blocks_per_stage": [1, 1, 2, 1], "global_attention_blocks": [3], "window_size_per_stage": [8, 4, 8, 4],
    }  # fmt: skip
    return {
        "vision_config": {
            "backbone_config": backbone, "backbone_channel_list": [64, 32, 16, 8], "fpn_hidden_size": 32,
            "backbone_feature_sizes": [[quarter // step] * 2 for step in (1, 2, 4)],
        },
        "prompt_encoder_config": {"hidden_size": 32, "image_size": side, "mask_input_channels": 8},
        "mask_decoder_config": {
            "hidden_size": 32, "mlp_dim": 32, "num_attention_heads": 2, "iou_head_hidden_dim": 16,
        },
    }  # fmt: skip


def write_sam(path: Path, config: Any = None, seed: int = 1) -> Path:
    """Writes the directory of a random SAM 2 and returns it. `config` is a Sam2Config; None: that of `sam_config`.

    All matrices are drawn with unit gain, so that its answers depend on image and prompts; with the default seed, the
    candidates of its answers have both signs.
    """
    import torch
    from safetensors.torch import save_file
    from transformers import Sam2Config, Sam2Model

    config = config or Sam2Config(**sam_config())
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        model = Sam2Model(config).eval()
        for name, tensor in model.named_parameters():
            if tensor.ndim > 1 and "embed" not in name:
                tensor.normal_(std=(tensor[0].numel()) ** -0.5)
    path.mkdir(parents=True, exist_ok=True)
    config.save_pretrained(path)
    save_file({name: each.contiguous() for name, each in model.state_dict().items()}, path / "model.safetensors")
    side = config.prompt_encoder_config.image_size
    settings = {"image_processor_type": "Sam2ImageProcessorFast", "size": {"height": side, "width": side}}
    write_json(path / "preprocessor_config.json", settings)
    return path
