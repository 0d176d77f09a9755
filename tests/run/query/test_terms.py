"""Queries: labels, the terms that are embedded for them, and what run.json records of them."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from clipseg_cli.errors import UsageError
from clipseg_cli.prompts.text import Prompt
from clipseg_cli.run.query import terms
from clipseg_cli.run.query.embedding_file import SavedEmbedding
from clipseg_cli.run.query.exemplars import Exemplar
from clipseg_cli.settings.prompts import PromptOptions


def test_each_distinct_term_is_embedded_once() -> None:
    """Two labels with one text, and expressions over it, share one term."""
    found = terms.build([Prompt("a", "a cat"), Prompt("b", "a cat")], [Prompt("c", "a cat AND NOT (dog OR a cat)")])
    assert found.texts == ("a cat", "dog") and found.rules[:2] == (0, 0)
    assert [prompt.label for prompt in found.prompts] == ["a", "b", "c"]


def test_an_expression_ignores_the_exemplars_of_a_label() -> None:
    """A text that is blended with exemplars for its own label is embedded alone for expressions."""
    found = terms.build([Prompt("a", "a cat")], [Prompt("b", "NOT a cat")], [Exemplar("a", "ref.png")])
    assert found.texts == (None, "a cat")


def test_labels_come_in_a_fixed_order() -> None:
    """Text prompts, exemplars without a text, saved embeddings, expressions."""
    saved = SavedEmbedding("s", "a mug", "shapes", "0", np.zeros(4, np.float32))
    supports = [Exemplar("t", "t.png"), Exemplar("e", "e.png"), Exemplar("e", "f.png")]
    found = terms.build([Prompt("t", "a cat")], [Prompt("x", "dog")], supports, [saved])
    assert [prompt.label for prompt in found.prompts] == ["t", "e", "s", "x"]
    assert found.prompts[1].text == "exemplar e.png, f.png" and found.saved == (saved,)
    assert [each.path for each in found.exemplars] == ["t.png", "e.png", "f.png"]


@pytest.mark.parametrize("template", ["a photo", "{} and {}", ""])
def test_a_template_has_one_place_for_the_prompt(template: str) -> None:
    """A template without {} or with two is a usage error."""
    with pytest.raises(UsageError, match=r"\{\}"):
        terms.build([Prompt("s", "star")], templates=[template])


def test_a_label_is_given_once_and_at_least_one() -> None:
    """Two prompts of one label, and no prompt at all, are usage errors."""
    for texts, message in (([Prompt("a", "cat"), Prompt("a", "dog")], "given twice"), ([], "no prompt")):
        with pytest.raises(UsageError, match=message):
            terms.build(texts)


def test_options_become_a_query(tmp_path: Path) -> None:
    """Prompts, a prompts file, expressions, exemplars and how they are shown."""
    (tmp_path / "ref.png").touch()
    (tmp_path / "prompts.csv").write_text("label,text,threshold\ncup,a cup,0.7\n")
    options = PromptOptions(
        ("a mug",), str(tmp_path / "prompts.csv"), ("both=a mug AND a cup",), (f"logo={tmp_path}/ref.png",),
        support_prompt="a sign", template=("a photo of a {}",), highlight="dim", mix=0.2,
    )  # fmt: skip
    found = terms.read(options)
    assert [prompt.label for prompt in found.prompts] == ["a mug", "cup", "logo", "both"]
    assert found.prompts[1].threshold == 0.7
    assert (found.recipe, found.region_prompt, found.mix) == ("dim", "a sign", 0.2)
    with pytest.raises(UsageError, match="choose from crop-blur-dim"):
        replace(options, highlight="none of these")


def test_an_exemplar_without_a_label_belongs_to_the_only_text(tmp_path: Path) -> None:
    """With one text prompt its label is that of the exemplar. Otherwise it is `exemplar`."""
    image = tmp_path / "ref.png"
    image.touch()
    assert len(terms.read(PromptOptions(("mug=a cup",), support=(str(image),))).prompts) == 1
    two = terms.read(PromptOptions(("a cup", "a cat"), support=(str(image),)))
    assert [prompt.label for prompt in two.prompts] == ["a cup", "a cat", "exemplar"]


def test_settings_name_all_that_decides_an_embedding(tmp_path: Path) -> None:
    """A query of texts has no settings. Templates, exemplars and saved embeddings have some; another mix, another
    content of the exemplar's file and another embedding change them."""
    assert terms.build([Prompt("a", "cat")]).settings() == {}
    assert terms.build([Prompt("a", "cat")], templates=["the {}"]).settings() == {"templates": ["the {}"]}
    image = tmp_path / "ref.png"
    image.write_bytes(b"1")
    shown = terms.build([], supports=[Exemplar("a", str(image), box=(1, 2, 3, 4))])
    before = shown.settings()
    assert before.keys() == {"exemplars", "highlight", "support_prompt", "mix"}
    assert replace(shown, mix=0.1).settings() != before and replace(shown, recipe="dim").settings() != before
    image.write_bytes(b"22")
    assert shown.settings() != before
    rows = [np.full(4, value, np.float32) for value in (0, 0, 1)]
    saved = [terms.build([], saved=[SavedEmbedding("a", "cat", "m", "0", row)]).settings() for row in rows]
    assert saved[0] == saved[1] != saved[2]
