"""The bundled model's network: configuration, tokenizer, initial weights, and a fast decoder for training.

The network is an unchanged `CLIPSegForImageSegmentation` of transformers with a small configuration.
"""

import json
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import CLIPSegConfig, CLIPSegForImageSegmentation

from shapes.vocabulary import all_words

SIDE = 224  # pixels: 14 patches of 16
PATCH = 16
FILM_BIAS = 1.0  # the initial multiplier: with transformers' default of about zero, the decoder sees almost nothing
INITIAL_LOGIT = -3.0  # a probability of 5 %: about the mean share of the pixels that a prompt means


def byte_symbols() -> list[str]:
    """Returns CLIP's printable symbols for the 256 bytes, in CLIP's order: printable bytes first."""
    plain = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    spare = iter(range(256, 512))
    table = {byte: chr(byte) if byte in plain else chr(next(spare)) for byte in range(256)}
    order = plain + [byte for byte in range(256) if byte not in plain]
    return [table[byte] for byte in order]


def learn_merges(words: list[str]) -> list[tuple[str, str]]:
    """Returns byte-pair merges that make each word one symbol: the most frequent pair first, ties alphabetically."""
    spelled = [[*word[:-1], word[-1] + "</w>"] for word in words]
    merges: list[tuple[str, str]] = []
    while True:
        counts: dict[tuple[str, str], int] = {}
        for symbols in spelled:
            for pair in pairwise(symbols):
                counts[pair] = counts.get(pair, 0) + 1
        if not counts:
            return merges
        best = min(counts, key=lambda pair: (-counts[pair], pair))
        merges.append(best)
        for index, symbols in enumerate(spelled):
            joined: list[str] = []
            for symbol in symbols:
                if joined and (joined[-1], symbol) == best:
                    joined[-1] += symbol
                else:
                    joined.append(symbol)
            spelled[index] = joined


def write_tokenizer(folder: Path) -> int:
    """Writes the tokenizer and image processor files to `folder`; returns the number of tokens."""
    symbols = byte_symbols()
    merges = learn_merges(all_words())
    tokens = symbols + [symbol + "</w>" for symbol in symbols]
    tokens += [a + b for a, b in merges if a + b not in tokens] + ["<|startoftext|>", "<|endoftext|>"]
    vocabulary = {token: index for index, token in enumerate(tokens)}
    special = {"bos_token": "<|startoftext|>", "eos_token": "<|endoftext|>"}
    special |= {"unk_token": "<|endoftext|>", "pad_token": "<|endoftext|>"}
    files: dict[str, object] = {
        "vocab.json": vocabulary,
        "special_tokens_map.json": special,
        "tokenizer_config.json": {"tokenizer_class": "CLIPTokenizer", "model_max_length": 77, **special},
        "preprocessor_config.json": {
            "image_processor_type": "ViTImageProcessor",
            "do_resize": True,
            "size": {"height": SIDE, "width": SIDE},
            "resample": 2,
            "do_rescale": True,
            "rescale_factor": 1 / 255,
            "do_normalize": True,
            "image_mean": [0.485, 0.456, 0.406],
            "image_std": [0.229, 0.224, 0.225],
        },
    }
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content, indent=None, ensure_ascii=False) + "\n", "utf-8")
    lines = ["#version: 0.2", *(f"{a} {b}" for a, b in merges)]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", "utf-8")
    return len(tokens)


def configuration(tokens: int) -> CLIPSegConfig:
    """Returns the configuration for a vocabulary of `tokens` tokens, the last two of which mark start and end."""
    return CLIPSegConfig(
        text_config={
            "vocab_size": tokens,
            "hidden_size": 128,
            "intermediate_size": 512,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "max_position_embeddings": 77,
            "bos_token_id": tokens - 2,
            "eos_token_id": tokens - 1,
            "pad_token_id": tokens - 1,
        },
        vision_config={
            "hidden_size": 192,
            "intermediate_size": 768,
            "num_hidden_layers": 8,
            "num_attention_heads": 6,
            "image_size": SIDE,
            "patch_size": PATCH,
        },
        projection_dim=128,
        extract_layers=[1, 4, 7],
        reduce_dim=64,
        decoder_num_attention_heads=4,
        decoder_intermediate_size=256,
        conditional_layer=0,
        use_complex_transposed_convolution=True,
    )


def position_waves(side: int, width: int) -> Tensor:
    """Returns sines and cosines of each patch's row and column: float32 (side * side, width) in [-1, 1]."""
    quarter = width // 4
    frequency = torch.exp(torch.linspace(0, 1, quarter) * torch.log(torch.tensor(side / 2.0))) * torch.pi / side
    angle = torch.arange(side).float()[:, None] * frequency
    line = torch.cat((angle.sin(), angle.cos()), 1)
    rows = line[:, None].expand(side, side, -1)
    columns = line[None].expand(side, side, -1)
    return torch.cat((rows, columns), 2).reshape(side * side, -1)


def patch_cosines(width: int) -> Tensor:
    """Returns an initial patch embedding: the lowest cosine frequencies of a patch, with about equal gain.

    float32 (width, 3, PATCH, PATCH). Half of the filters respond to lightness, a quarter to each of two colour
    contrasts. Random filters respond to little but the mean colour, and learn shapes late.
    """
    at = (torch.arange(PATCH) + 0.5) * torch.pi / PATCH
    frequencies = torch.cos(torch.arange(PATCH)[:, None] * at) * (2 / PATCH) ** 0.5
    frequencies[0] = PATCH**-0.5
    order = sorted(((u, v) for u in range(PATCH) for v in range(PATCH)), key=lambda uv: (uv[0] ** 2 + uv[1] ** 2, uv))
    tints = torch.tensor([[1.0, 1.0, 1.0], [1.0, -1.0, 0.0], [1.0, 1.0, -2.0]])
    rows = []
    for tint, count in zip(tints / tints.norm(dim=1, keepdim=True), (width // 2, width // 4, width // 4), strict=True):
        for u, v in order[:count]:
            gain = min(0.8, (1 + 1.5 * (u * u + v * v) ** 0.5) / PATCH)
            rows.append(gain * tint[:, None, None] * torch.outer(frequencies[u], frequencies[v]))
    return torch.stack(rows)


def initialise(model: CLIPSegForImageSegmentation) -> None:
    """Sets initial weights, in place, from which training progresses at once; see FILM_BIAS."""
    decoder = model.decoder
    for name, parameter in decoder.named_parameters():
        if parameter.ndim == 2:
            nn.init.xavier_uniform_(parameter)
        elif parameter.ndim == 4:
            nn.init.kaiming_uniform_(
                parameter, nonlinearity="relu", mode="fan_in" if "convolution.0" in name else "fan_out"
            )
        elif name.endswith("bias"):
            nn.init.zeros_(parameter)
    nn.init.constant_(decoder.film_mul.bias, FILM_BIAS)
    nn.init.constant_(decoder.transposed_convolution[4].bias, INITIAL_LOGIT)
    embeddings = model.clip.vision_model.embeddings
    with torch.no_grad():
        embeddings.position_embedding.weight[1:] = 0.9 * position_waves(SIDE // PATCH, embeddings.embed_dim)
        embeddings.patch_embedding.weight.copy_(patch_cosines(embeddings.embed_dim))
        for tower in (model.clip.vision_model, model.clip.text_model):
            for layer in tower.encoder.layers:
                for linear in (layer.self_attn.q_proj, layer.self_attn.k_proj, layer.self_attn.v_proj):
                    nn.init.xavier_uniform_(linear.weight)


def build(folder: Path, seed: int) -> CLIPSegForImageSegmentation:
    """Returns a new model and writes its tokenizer and processor files to `folder`."""
    torch.manual_seed(seed)
    model = CLIPSegForImageSegmentation(configuration(write_tokenizer(folder)))
    initialise(model)
    return model


def copy_weights(model: CLIPSegForImageSegmentation, start: CLIPSegForImageSegmentation) -> None:
    """Copies the weights of `start`, in place. Vision layers that `start` lacks become identities.

    New layers come last before the extracted layer that follows them, so that the outputs stay the same.
    """
    layers = model.clip.vision_model.encoder.layers
    sources: list[int | None] = []
    for (low, high), (first, last) in zip(
        pairwise((-1, *model.extract_layers)), pairwise((-1, *start.extract_layers)), strict=True
    ):
        old = range(first + 1, last + 1)
        sources += [*old, *[None] * (high - low - len(old))]
    state = {k: v for k, v in start.state_dict().items() if ".vision_model.encoder.layers." not in k}
    model.load_state_dict(state, strict=False)
    for layer, source in zip(layers, sources, strict=True):
        if source is not None:
            layer.load_state_dict(start.clip.vision_model.encoder.layers[source].state_dict())
            continue
        for last_of_branch in (layer.self_attn.out_proj, layer.mlp.fc2):
            nn.init.zeros_(last_of_branch.weight)
            nn.init.zeros_(last_of_branch.bias)


def encode(model: CLIPSegForImageSegmentation, pixels: Tensor) -> tuple[list[Tensor], Tensor]:
    """Returns activations of images and their visual embeddings, (N, projection).

    The activations: those of each extracted layer reduced to (N, tokens, reduce_dim), deepest layer first, then the
    unreduced ones, (N, tokens, width), of the two deepest. The reduction is the decoder's first step, done once per
    image instead of once per prompt.
    """
    vision = model.clip.vision_model(pixels, output_hidden_states=True)
    extracted = [vision.hidden_states[index + 1] for index in model.extract_layers][::-1]
    reduced = [reduce(state) for reduce, state in zip(model.decoder.reduces, extracted, strict=True)]
    return [*reduced, extracted[0], extracted[1]], model.clip.visual_projection(vision.pooler_output)


def decode(
    model: CLIPSegForImageSegmentation, reduced: list[Tensor], image_of: Tensor, condition: Tensor
) -> tuple[Tensor, list[Tensor]]:
    """Returns the logits of each prompt and the input of each decoder layer, (P, tokens, reduce_dim).

    condition: (P, projection), a conditional embedding per prompt. image_of: (P,), the index of its image.
    Logits are float (P, patches, 4, 4, 4, 4), in the order of `patch_order`.
    They equal those of `model.decoder` up to rounding and order. The transposed convolutions, whose stride equals their
    kernel, are computed as matrix products, which is several times faster on a CPU.
    """
    decoder = model.decoder
    output = decoder.film_mul(condition)[:, None] * reduced[0][image_of] + decoder.film_add(condition)[:, None]
    inputs = [output]
    output = decoder.layers[0](output, attention_mask=None)
    for layer, extra in zip(decoder.layers[1:], reduced[1:], strict=False):
        inputs.append(output + extra[image_of])
        output = layer(inputs[-1], attention_mask=None)
    count, tokens, width = output.shape
    side = round((tokens - 1) ** 0.5)
    grid = output[:, 1:].transpose(1, 2).reshape(count, width, side, side)
    convolve, _, widen, _, finish = decoder.transposed_convolution
    grid = functional.relu(convolve(grid)).flatten(2).transpose(1, 2)
    first = grid @ widen.weight.flatten(1) + widen.bias.repeat_interleave(16)
    first = functional.relu(first).view(count, side * side, -1, 16).transpose(2, 3)
    last = first @ finish.weight.flatten(1) + finish.bias
    return torch.as_tensor(last).view(count, side * side, 4, 4, 4, 4), inputs


def patch_order(pixels: Tensor) -> Tensor:
    """Returns pixels (N, S, S) in the order of the logits of `decode`: (N, patches, 4, 4, 4, 4)."""
    count, side = pixels.shape[0], pixels.shape[1] // PATCH
    split = pixels.view(count, side, 4, 4, side, 4, 4)
    return split.permute(0, 1, 4, 2, 5, 3, 6).reshape(count, side * side, 4, 4, 4, 4)
