"""Turns text into CLIP token ids, with a checkpoint's own tokenizer files and the `tokenizers` library.

The steps are those of transformers' CLIPTokenizer: NFC, white space collapsed to single spaces, lower case, words
split by CLIP's pattern, byte-level BPE whose words end in `</w>`, a start and an end token.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, normalizers, pre_tokenizers, processors
from tokenizers.models import BPE

from clipseg_cli.errors import ModelError, UsageError

START, END = "<|startoftext|>", "<|endoftext|>"
WORDS = r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
FILES = ("tokenizer.json", "vocab.json", "merges.txt", "special_tokens_map.json", "tokenizer_config.json")
ROLES = {"bos_token": START, "eos_token": END, "unk_token": END, "pad_token": END}


@dataclass(frozen=True, slots=True)
class ClipTokenizer:
    """Maps prompts to token ids, without truncation or padding."""

    backend: Tokenizer

    def __call__(self, prompts: Sequence[str]) -> list[list[int]]:
        """Returns the token ids of each prompt, with start and end tokens."""
        return [encoding.ids for encoding in self.backend.encode_batch(list(prompts))]


def read_tokenizer(path: Path) -> ClipTokenizer:
    """Reads the tokenizer of a checkpoint directory: tokenizer.json, or the released vocab.json and merges.txt.

    The last one is kept until its files change. Raises ModelError if the files are missing or damaged or do not hold a
    byte-level BPE.
    """
    files = [path / name for name in FILES]
    found = [file.stat() if file.is_file() else None for file in files]
    return _read(path, tuple(each and (each.st_mtime_ns, each.st_size) for each in found))


@lru_cache(1)
def _read(path: Path, identity: tuple[tuple[int, int] | None, ...]) -> ClipTokenizer:
    try:
        whole = read_json(path / "tokenizer.json")
        vocabulary, merges = read_vocabulary(path, whole)
        special = read_special_tokens(path, whole)
        backend = build(vocabulary, merges, special)
    except Exception as error:  # the library's Rust code raises bare Exception
        raise ModelError(f"{path}: cannot read the tokenizer ({error}); download the model again") from error
    return ClipTokenizer(backend)


def read_json(file: Path) -> dict[str, Any]:
    """Returns the JSON object in `file`, or an empty dict if there is no such file."""
    content: dict[str, Any] = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    return content


def read_vocabulary(path: Path, whole: dict[str, Any]) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Returns the ids by token, and the merges in order of priority.

    `whole` is the content of tokenizer.json; if it is empty, vocab.json and merges.txt are read.
    """
    if not whole:
        vocabulary, pairs = BPE.read_file(str(path / "vocab.json"), str(path / "merges.txt"))
        return vocabulary, pairs
    model = whole["model"]
    if model["type"] != "BPE":
        raise ValueError(f"tokenizer.json holds {model['type']}, not BPE")
    merges = (merge.split(" ") if isinstance(merge, str) else merge for merge in model["merges"])
    return model["vocab"], [(left, right) for left, right in merges]


def read_special_tokens(path: Path, whole: dict[str, Any]) -> dict[str, AddedToken]:
    """Returns the special tokens by role. Flags come from tokenizer.json if it lists the token, else from the role."""
    named: dict[str, Any] = dict(ROLES)
    for file in ("special_tokens_map.json", "tokenizer_config.json"):
        settings = read_json(path / file)
        named.update({role: settings[role] for role in ROLES if settings.get(role) is not None})
    listed = {token["content"]: token for token in whole.get("added_tokens", ())}
    plain = {role: token if isinstance(token, str) else token["content"] for role, token in named.items()}
    return {role: special_token(listed.get(plain[role], named[role])) for role in ROLES}


def special_token(token: str | dict[str, Any]) -> AddedToken:
    """Builds a special token from its text, or from a dict with `content` and the flags."""
    if isinstance(token, str):
        return AddedToken(token, special=True, normalized=False)
    flags = {flag: bool(token.get(flag, False)) for flag in ("normalized", "lstrip", "rstrip", "single_word")}
    return AddedToken(token["content"], special=True, **flags)


def build(vocabulary: dict[str, int], merges: list[tuple[str, str]], special: dict[str, AddedToken]) -> Tokenizer:
    """Builds the pipeline of CLIPTokenizer (transformers, models/clip/tokenization_clip.py) for one vocabulary."""
    start, end = special["bos_token"].content, special["eos_token"].content
    for token in (start, end):
        if token not in vocabulary:
            raise ValueError(f"the vocabulary lacks {token}")
    unknown = special["unk_token"].content
    backend = Tokenizer(
        BPE(vocabulary, merges, continuing_subword_prefix="", end_of_word_suffix="</w>", unk_token=unknown)
    )
    backend.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(WORDS), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    distinct = {
        token.content: token for token in special.values()
    }  # a token with several roles gets the flags of the last
    backend.add_special_tokens(list(distinct.values()))
    backend.post_processor = processors.RobertaProcessing(
        (end, vocabulary[end]), (start, vocabulary[start]), trim_offsets=False, add_prefix_space=False
    )
    return backend


def refuse_blank(prompts: Sequence[str]) -> None:
    """Raises UsageError if there is no prompt, or if one is blank or not valid Unicode."""
    if not prompts:
        raise UsageError("there is no prompt: describe what to segment")
    for prompt in prompts:
        if not prompt.strip():
            raise UsageError(f"the prompt {prompt!r} is empty: describe what to segment")
        if any("\ud800" <= character <= "\udfff" for character in prompt):
            raise UsageError(f"the prompt {prompt!r} is not valid Unicode text")


def refuse_long(prompts: Sequence[str], ids: Sequence[Sequence[int]], longest: int) -> None:
    """Raises UsageError for a prompt with more than `longest` tokens, or with start and end tokens only."""
    for prompt, tokens in zip(prompts, ids, strict=True):
        if len(tokens) <= 2:
            raise UsageError(f"the prompt {prompt!r} has no words: describe what to segment")
        if len(tokens) > longest:
            raise UsageError(
                f"the prompt {prompt!r} has {len(tokens)} tokens, including start and end; "
                f"the model reads at most {longest}: shorten it"
            )
