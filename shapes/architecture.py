"""The network of the bundled model: its configuration, its words, its first weights, and a decoder for many prompts.

The network is transformers' own `CLIPSegForImageSegmentation`, unchanged; only its numbers are small.
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
FILM_BIAS = 1.0  # the multiplier starts at one: with transformers' default of about zero, the prompt hardly passes
FIRST_LOGIT = -3.0  # the share of pixels that a prompt means is about 5 %


def byte_symbols() -> list[str]:
    """CLIP's printable stand-ins for the 256 bytes, in byte order."""
    plain = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    spare = iter(range(256, 512))
    table = {byte: chr(byte) if byte in plain else chr(next(spare)) for byte in range(256)}
    order = plain + [byte for byte in range(256) if byte not in plain]
    return [table[byte] for byte in order]


def learn_merges(words: list[str]) -> list[tuple[str, str]]:
    """Byte-pair merges, most frequent pair first (ties: alphabetical), until every word is one symbol."""
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
    """Writes the tokenizer and image processor files of the model; returns the number of tokens."""
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
    """The model's configuration for a vocabulary of `tokens`, whose last two are the start and the end."""
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


def waves(side: int, width: int) -> Tensor:
    """Sines and cosines of the row and the column of a square of patches: float32 (side * side, width) in [-1, 1]."""
    quarter = width // 4
    frequency = torch.exp(torch.linspace(0, 1, quarter) * torch.log(torch.tensor(side / 2.0))) * torch.pi / side
    angle = torch.arange(side).float()[:, None] * frequency
    one = torch.cat((angle.sin(), angle.cos()), 1)
    rows = one[:, None].expand(side, side, -1)
    columns = one[None].expand(side, side, -1)
    return torch.cat((rows, columns), 2).reshape(side * side, -1)


def cosines(width: int) -> Tensor:
    """A patch embedding to begin with: the lowest frequencies of a patch, all about equally loud.

    float32 (width, 3, PATCH, PATCH): half of the rows see lightness, a quarter each of two colour contrasts.
    Random rows hear little but the mean colour, and learn shapes late.
    """
    at = (torch.arange(PATCH) + 0.5) * torch.pi / PATCH
    waves_1d = torch.cos(torch.arange(PATCH)[:, None] * at) * (2 / PATCH) ** 0.5
    waves_1d[0] = PATCH**-0.5
    order = sorted(((u, v) for u in range(PATCH) for v in range(PATCH)), key=lambda uv: (uv[0] ** 2 + uv[1] ** 2, uv))
    tints = torch.tensor([[1.0, 1.0, 1.0], [1.0, -1.0, 0.0], [1.0, 1.0, -2.0]])
    rows = []
    for tint, count in zip(tints / tints.norm(dim=1, keepdim=True), (width // 2, width // 4, width // 4), strict=True):
        for u, v in order[:count]:
            gain = min(0.8, (1 + 1.5 * (u * u + v * v) ** 0.5) / PATCH)
            rows.append(gain * tint[:, None, None] * torch.outer(waves_1d[u], waves_1d[v]))
    return torch.stack(rows)


def first_weights(model: CLIPSegForImageSegmentation) -> None:
    """Starting values from which training moves at once, in place; see FILM_BIAS."""
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
    nn.init.constant_(decoder.transposed_convolution[4].bias, FIRST_LOGIT)
    embeddings = model.clip.vision_model.embeddings
    with torch.no_grad():
        embeddings.position_embedding.weight[1:] = 0.9 * waves(SIDE // PATCH, embeddings.embed_dim)
        embeddings.patch_embedding.weight.copy_(cosines(embeddings.embed_dim))
        for tower in (model.clip.vision_model, model.clip.text_model):
            for layer in tower.encoder.layers:
                for linear in (layer.self_attn.q_proj, layer.self_attn.k_proj, layer.self_attn.v_proj):
                    nn.init.xavier_uniform_(linear.weight)


def build(folder: Path, seed: int) -> CLIPSegForImageSegmentation:
    """A new model whose tokenizer files are written to `folder`."""
    torch.manual_seed(seed)
    model = CLIPSegForImageSegmentation(configuration(write_tokenizer(folder)))
    first_weights(model)
    return model


def adopt(model: CLIPSegForImageSegmentation, start: CLIPSegForImageSegmentation) -> None:
    """Takes over the weights of `start`, in place. The vision layers that it lacks begin as identities.

    Each new layer stands after those that lead to the same extracted one, so that the answers stay the same.
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
    """Reduced activations per extracted layer, each (N, tokens, reduce_dim), and visual embeddings (N, projection).

    The reduction is the decoder's own first step, taken once per picture instead of once per prompt.
    """
    vision = model.clip.vision_model(pixels, output_hidden_states=True)
    kept = [vision.hidden_states[index + 1] for index in model.extract_layers][::-1]
    reduced = [reduce(state) for reduce, state in zip(model.decoder.reduces, kept, strict=True)]
    return [*reduced, kept[0], kept[1]], model.clip.visual_projection(vision.pooler_output)


def decode(
    model: CLIPSegForImageSegmentation, reduced: list[Tensor], owner: Tensor, condition: Tensor
) -> tuple[Tensor, list[Tensor]]:
    """Logits of prompts `condition` (P, projection) on the pictures owner[p]: (P, patches, 4, 4, 4, 4), see `unfold`.
    Also what each layer reads, (P, tokens, reduce_dim).

    Equal to `model.decoder` up to rounding and the order of the pixels; transposed convolutions whose stride is their
    kernel are written as matrix products, which the processor does several times faster.
    """
    decoder = model.decoder
    output = decoder.film_mul(condition)[:, None] * reduced[0][owner] + decoder.film_add(condition)[:, None]
    inputs = [output]
    output = decoder.layers[0](output, attention_mask=None)
    for layer, extra in zip(decoder.layers[1:], reduced[1:], strict=False):
        inputs.append(output + extra[owner])
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


def unfold(owners: Tensor) -> Tensor:
    """Pixels (N, S, S) in the order in which `decode` gives logits: (N, patches, 4, 4, 4, 4)."""
    count, side = owners.shape[0], owners.shape[1] // PATCH
    split = owners.view(count, side, 4, 4, side, 4, 4)
    return split.permute(0, 1, 4, 2, 5, 3, 6).reshape(count, side * side, 4, 4, 4, 4)
