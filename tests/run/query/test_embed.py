"""Embeddings of queries, against means that are computed here."""

from dataclasses import replace
from pathlib import Path

import numpy as np

from clipseg_cli.model.segmenter import Segmenter
from clipseg_cli.prompts.text import Prompt
from clipseg_cli.run.query.embed import embed
from clipseg_cli.run.query.embedding_file import SavedEmbedding
from clipseg_cli.run.query.exemplars import parse, visual_prompt
from clipseg_cli.run.query.terms import build
from clipseg_cli.settings.prompts import RECIPE
from pictures import picture, save


def test_exemplars_are_averaged_and_blended_with_the_text(segmenter: Segmenter, reference: Path) -> None:
    """The embedding is w * text + (1 - w) * mean of the exemplars, in raw CLIP space."""
    other = save(reference.with_name("other.png"), picture(160, 160, 6))
    both = parse([f"it={reference}", f"it={other}"], [], [], "x")
    images = [visual_prompt(segmenter, each, RECIPE, None) for each in both]
    mean = np.mean([segmenter.embed_images(image[None]).values[0] for image in images], axis=0)
    texts = segmenter.embed(["a red circle", "a star"]).values
    mixed = embed(segmenter, replace(build([Prompt("it", "a red circle"), Prompt("s", "a star")], [], both), mix=0.3))
    np.testing.assert_allclose(mixed.values[0], 0.3 * texts[0] + 0.7 * mean, atol=1e-5)
    np.testing.assert_allclose(mixed.values[1], texts[1], atol=1e-6)
    np.testing.assert_allclose(embed(segmenter, build([], [], both)).values[0], mean, atol=1e-5)


def test_templates_are_averaged(segmenter: Segmenter) -> None:
    """The embedding of a text is the mean over the templates."""
    found = embed(segmenter, build([Prompt("s", "star")], templates=("a photo of a {}", "the {}"))).values
    mean = segmenter.embed(["a photo of a star", "the star"]).values.mean(0)
    np.testing.assert_allclose(found[0], mean, atol=1e-6)


def test_a_saved_embedding_is_used_as_it_is(segmenter: Segmenter) -> None:
    """Templates do not change it."""
    row = np.arange(512, dtype=np.float32)
    saved = SavedEmbedding("a", "cat", "shapes", "0", row)
    found = embed(segmenter, build([], saved=[saved], templates=["the {}"])).values
    assert np.array_equal(found, row[None]) and found.dtype == np.float32
