"""What a run looks for, as embeddings: from phrases, exemplars and kept files; and the file that keeps them.

A label is a term, or an expression over terms; each distinct term is embedded and decoded once. A term is a phrase, or
exemplars, or both blended as `w * text + (1 - w) * exemplars`, or an embedding that was kept. All means are taken in
the raw embedding space: CLIPSeg was trained so, nothing is normalised on the way.
"""

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from clipseg_cli.errors import UsageError
from clipseg_cli.prompts import expressions
from clipseg_cli.prompts.expressions import Expression
from clipseg_cli.prompts.text import Prompt, distinct
from clipseg_cli.run.exemplars import Exemplar, Show, shown

if TYPE_CHECKING:
    from clipseg_cli.model.segmenter import Embeddings, Segmenter

CLIP_TENSORS = ("clip.text_projection.weight", "clip.visual_projection.weight")  # equal tensors, equal embeddings
FORMAT = "clipseg-embedding"
MOST_BYTES = 100_000_000  # of an embedding file: some 50,000 labels


@dataclass(frozen=True, slots=True, eq=False)
class Kept:
    """One embedding of a file."""

    label: str
    source: str  # the phrase, or what the exemplar was
    model: str  # that made it, for people
    clip: str  # fingerprint of the CLIP that made it: see `fingerprint`
    values: NDArray[np.float32]  # (dim,)


@dataclass(frozen=True, slots=True)
class Term:
    """One thing to embed: a phrase, exemplars, both, or what a file kept."""

    text: str | None = None
    exemplars: tuple[Exemplar, ...] = ()
    kept: Kept | None = None


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a run looks for: its labels, the rule of each, and the terms that the rules speak of."""

    prompts: tuple[Prompt, ...]
    rules: tuple[int | Expression, ...]  # of each label: the index of its term, or an expression over texts
    terms: tuple[Term, ...]
    templates: tuple[str, ...] = ()  # a phrase's embedding is the mean of its embeddings in these; empty: as it is

    @property
    def texts(self) -> tuple[str | None, ...]:
        """The phrase of each term; None where it is not the phrase alone, so that no expression speaks of it."""
        return tuple(None if term.exemplars else term.text for term in self.terms)

    def settings(self) -> dict[str, Any]:
        """What decides the embeddings beyond the prompts themselves, as JSON types."""
        kept = [[term.kept.label, _digest(term.kept.values.tobytes())] for term in self.terms if term.kept is not None]
        return ({"templates": list(self.templates)} if self.templates else {}) | ({"embeddings": kept} if kept else {})


def check_templates(templates: Sequence[str]) -> None:
    """Raises UsageError for a template without its {}."""
    for template in templates:
        if template.count("{}") != 1:
            raise UsageError(f"--template {template!r}: write {{}} once, where the phrase goes: 'a photo of a {{}}'")


def want(
    phrases: Sequence[Prompt],
    boolean: Sequence[Prompt] = (),
    exemplars: Sequence[Exemplar] = (),
    kept: Sequence[Kept] = (),
    templates: Sequence[str] = (),
) -> Wanted:
    """Every label once: phrases, exemplars without a phrase, kept embeddings, boolean expressions.

    Raises UsageError for a label given twice, none at all, or a template without its {}.
    """
    check_templates(templates)
    spoken = {each.label for each in phrases}
    terms: dict[Term, int] = {}
    prompts, rules = list(phrases), list[int | Expression]()
    for phrase in phrases:
        own = tuple(each for each in exemplars if each.label == phrase.label)
        rules.append(terms.setdefault(Term(phrase.text, own), len(terms)))
    for label in dict.fromkeys(each.label for each in exemplars if each.label not in spoken):
        own = tuple(each for each in exemplars if each.label == label)
        prompts.append(Prompt(label, "exemplar " + ", ".join(each.path for each in own)))
        rules.append(terms.setdefault(Term(None, own), len(terms)))
    for one in kept:
        prompts.append(Prompt(one.label, one.source))
        rules.append(terms.setdefault(Term(None, (), one), len(terms)))
    for prompt in boolean:
        expression = expressions.parse(prompt.text)
        for text in expressions.terms(expression):
            terms.setdefault(Term(text), len(terms))
        prompts.append(prompt)
        rules.append(expression)
    return Wanted(distinct(prompts), tuple(rules), tuple(terms), tuple(templates))


def embed(segmenter: "Segmenter", wanted: Wanted, show: Show) -> "Embeddings":
    """The embedding of each term, float32 (T, dim).

    Raises UsageError for an exemplar that cannot be used, a text that is too long, and what another model has kept.
    """
    from clipseg_cli.model.segmenter import Embeddings

    rows: list[Any] = []
    for term in wanted.terms:
        if term.kept is not None:
            rows.append(term.kept.values)
            continue
        parts = []
        if term.text is not None:
            texts = [template.replace("{}", term.text) for template in wanted.templates] or [term.text]
            parts.append(segmenter.embed(texts).values)
        if term.exemplars:
            pictures = np.stack([shown(segmenter, each, show) for each in term.exemplars])
            parts.append(np.concatenate([segmenter.embed_images(one[None]).values for one in pictures]))
        shares = (show.mix, 1 - show.mix) if len(parts) == 2 else (1.0,)
        rows.append(sum(share * part.mean(0) for share, part in zip(shares, parts, strict=True)))
    return Embeddings(np.stack(rows).astype(np.float32))


def check(wanted: Wanted, weights: Path, model: str) -> None:
    """Raises UsageError where a kept embedding comes from another CLIP than that of the checkpoint `weights`."""
    kept = [term.kept for term in wanted.terms if term.kept is not None]
    own = fingerprint(weights) if kept else ""
    for one in kept:
        if one.clip != own:
            raise UsageError(
                f"the embedding {one.label!r} was made with the model {one.model}, and {model} has another CLIP: run "
                f"with --model {one.model}, or make the embedding again with `clipseg embed --model {model}`"
            )


def fingerprint(weights: Path) -> str:
    """Identifies the CLIP inside a checkpoint by its projections: 16 hex digits.

    Embeddings fit every checkpoint of equal fingerprint: rd64-refined, rd64 and rd16 share one CLIP, and so does a
    decoder that `clipseg` fitted.
    """
    with weights.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
        digest = hashlib.sha256()
        for name in CLIP_TENSORS:
            begin, end = header[name]["data_offsets"]
            file.seek(8 + length + begin)
            digest.update(file.read(end - begin))
    return digest.hexdigest()[:16]


def pack(wanted: Wanted, embeddings: "Embeddings", model: str, weights: Path) -> bytes:
    """The bytes of an embedding file: a safetensors file with the tensor `embeddings`, float32 (P, dim), and in its
    metadata the labels, their sources, the model and the fingerprint of its CLIP."""
    from safetensors.numpy import save

    labels = [prompt.label for prompt in wanted.prompts]
    about = {"format": FORMAT, "model": model, "clip": fingerprint(weights), "dim": str(embeddings.values.shape[1])}
    about |= {"labels": json.dumps(labels), "sources": json.dumps([prompt.text for prompt in wanted.prompts])}
    rows = [rule for rule in wanted.rules if isinstance(rule, int)]
    return save({"embeddings": np.ascontiguousarray(embeddings.values[rows])}, about)


def read(path: str) -> tuple[Kept, ...]:
    """The embeddings of a file, or with "-" of stdin. Raises UsageError."""
    if path == "-" and os.isatty(0):
        raise UsageError("--embedding - reads stdin, which is a terminal: pipe `clipseg embed` into it")
    try:
        with open(0 if path == "-" else path, "rb", closefd=path != "-") as file:
            data = file.read(MOST_BYTES + 1)
    except OSError as error:
        raise UsageError(f"--embedding {path}: {error.strerror}") from error
    if len(data) > MOST_BYTES:
        raise UsageError(f"--embedding {path} is too large to be a file of `clipseg embed`")
    return unpack(data, path)


def unpack(data: bytes, where: str) -> tuple[Kept, ...]:
    """The embeddings in the bytes of a file. Raises UsageError, naming `where` they come from."""
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        values = load(data)["embeddings"]
        about = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])["__metadata__"]
        labels, sources = json.loads(about["labels"]), json.loads(about["sources"])
        model, clip = str(about["model"]), str(about["clip"])
        fits = about["format"] == FORMAT and values.dtype == np.float32 and values.ndim == 2
        if not fits or len(labels) != len(values) or len(sources) != len(values) or not np.isfinite(values).all():
            raise ValueError("its tensors and labels do not fit")
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise UsageError(f"--embedding {where} is not a file of `clipseg embed`: {error}") from error
    return tuple(
        Kept(str(label), str(source), model, clip, row)
        for label, source, row in zip(labels, sources, values, strict=True)
    )


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]
