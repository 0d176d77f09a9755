"""Embeds the terms of a query.

All means are taken of raw embeddings, before any normalisation: CLIPSeg was trained on raw CLIP projections (reference
code, training.py:161-173).
"""

from typing import TYPE_CHECKING, Any

import numpy as np

from clipseg_cli.inputs.decode import DEFAULTS
from clipseg_cli.run.query.exemplars import visual_prompt
from clipseg_cli.run.query.terms import Query, Term
from clipseg_cli.settings.inputs import DecodeOptions

if TYPE_CHECKING:
    from clipseg_cli.model.segmenter import Embeddings, Segmenter


def embed(segmenter: "Segmenter", query: Query, decoding: DecodeOptions = DEFAULTS) -> "Embeddings":
    """Returns the embedding of each term, float32 (T, dim). Exemplars are decoded like images.

    Raises UsageError for an exemplar that cannot be used, a text that is too long, or an embedding of another model.
    """
    from clipseg_cli.model.segmenter import Embeddings

    return Embeddings(np.stack([_row(segmenter, term, query, decoding) for term in query.terms]).astype(np.float32))


def _row(segmenter: "Segmenter", term: Term, query: Query, decoding: DecodeOptions) -> Any:
    """Returns (dim,): `mix * text + (1 - mix) * exemplars`, or the only embedding that the term has."""
    if term.saved is not None:
        return term.saved.values
    parts = []
    if term.text is not None:
        texts = [template.replace("{}", term.text) for template in query.templates] or [term.text]
        parts.append(segmenter.embed(texts).values)
    if term.exemplars:
        images = np.stack(
            [visual_prompt(segmenter, each, query.recipe, query.region_prompt, decoding) for each in term.exemplars]
        )
        parts.append(np.concatenate([segmenter.embed_images(image[None]).values for image in images]))
    weights = (query.mix, 1 - query.mix) if len(parts) == 2 else (1.0,)
    return sum(weight * part.mean(0) for weight, part in zip(weights, parts, strict=True))
