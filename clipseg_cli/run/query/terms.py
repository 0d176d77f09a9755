"""What a run looks for: labels, and the terms to embed for them.

A term is a text prompt, or exemplars, or both blended, or a saved embedding. A label is one term, or an expression over
text prompts. Each distinct term is embedded and decoded once, however many labels use it.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, BinaryIO

from clipseg_cli.errors import UsageError
from clipseg_cli.prompts import expressions, text
from clipseg_cli.prompts.expressions import Expression
from clipseg_cli.prompts.text import Prompt
from clipseg_cli.run.query import embedding_file, exemplars
from clipseg_cli.run.query.embedding_file import SavedEmbedding
from clipseg_cli.run.query.exemplars import DEFAULT_LABEL, Exemplar
from clipseg_cli.settings.prompts import RECIPE, PromptOptions


@dataclass(frozen=True, slots=True)
class Term:
    """What gets one embedding: a text prompt, exemplars, both, or a saved embedding."""

    text: str | None = None
    exemplars: tuple[Exemplar, ...] = ()
    saved: SavedEmbedding | None = None


@dataclass(frozen=True, slots=True)
class Query:
    """The labels of a run, the rule of each, and the terms that the rules refer to."""

    prompts: tuple[Prompt, ...]  # one per label
    rules: tuple[int | Expression, ...]  # one per label: the index of its term, or an expression over text prompts
    terms: tuple[Term, ...]
    templates: tuple[str, ...] = ()  # a text's embedding is the mean over these sentences; empty: the text itself
    recipe: str = RECIPE  # how exemplars are shown to the model
    region_prompt: str | None = None  # finds the object in exemplars that have no mask and no box
    mix: float = 0.5  # weight of the text where a term has text and exemplars

    @property
    def texts(self) -> tuple[str | None, ...]:
        """The text of each term, as expressions refer to it; None unless the term is only text."""
        return tuple(None if term.exemplars else term.text for term in self.terms)

    @property
    def exemplars(self) -> tuple[Exemplar, ...]:
        """All exemplars, in the order of the terms."""
        return tuple(exemplar for term in self.terms for exemplar in term.exemplars)

    @property
    def saved(self) -> tuple[SavedEmbedding, ...]:
        """The saved embeddings."""
        return tuple(term.saved for term in self.terms if term.saved is not None)

    def settings(self) -> dict[str, Any]:
        """Returns what affects the embeddings besides the prompts' texts, as JSON types."""
        settings: dict[str, Any] = {"templates": list(self.templates)} if self.templates else {}
        if self.saved:
            settings["embeddings"] = [[saved.label, _digest(saved.values.tobytes())] for saved in self.saved]
        if self.exemplars:
            settings |= {
                "exemplars": [each.settings() for each in self.exemplars],
                "highlight": self.recipe,
                "support_prompt": self.region_prompt,
                "mix": self.mix,
            }
        return settings


def read(options: PromptOptions, stdin: BinaryIO | None = None) -> Query:
    """Returns the query of the prompt options, and reads the files they name. Raises UsageError.

    `stdin` is None if it is missing or a terminal.
    """
    texts = [*map(text.parse, options.prompt)]
    if options.prompts_file:
        texts += text.read_file(options.prompts_file)
    # an exemplar without a label belongs to the only text prompt, if there is just one
    default = texts[0].label if len(texts) == 1 else DEFAULT_LABEL
    supports = exemplars.parse(options.support, options.support_mask, options.support_box, default)
    saved = [each for path in options.embedding for each in embedding_file.read(path, stdin)]
    boolean = [*map(text.parse_expression, options.expr)]
    query = build(texts, boolean, supports, saved, options.template)
    return replace(query, recipe=options.highlight, region_prompt=options.support_prompt, mix=options.mix)


def build(
    texts: Sequence[Prompt],
    boolean: Sequence[Prompt] = (),
    supports: Sequence[Exemplar] = (),
    saved: Sequence[SavedEmbedding] = (),
    templates: Sequence[str] = (),
) -> Query:
    """Returns a query whose labels are text prompts, exemplars without text, saved embeddings, and expressions.

    Raises UsageError if a label is given twice, if there is none, or if a template does not have one {}.
    """
    check_templates(templates)
    terms: dict[Term, int] = {}
    prompts, rules = list(texts), list[int | Expression]()
    for prompt in texts:
        own = tuple(each for each in supports if each.label == prompt.label)
        rules.append(terms.setdefault(Term(prompt.text, own), len(terms)))
    with_text = {prompt.label for prompt in texts}
    for label in dict.fromkeys(each.label for each in supports if each.label not in with_text):
        own = tuple(each for each in supports if each.label == label)
        prompts.append(Prompt(label, "exemplar " + ", ".join(each.path for each in own)))
        rules.append(terms.setdefault(Term(None, own), len(terms)))
    for embedding in saved:
        prompts.append(Prompt(embedding.label, embedding.source))
        rules.append(terms.setdefault(Term(None, (), embedding), len(terms)))
    for prompt in boolean:
        expression = expressions.parse(prompt.text)
        for word in expressions.terms(expression):
            terms.setdefault(Term(word), len(terms))
        prompts.append(prompt)
        rules.append(expression)
    return Query(text.distinct(prompts), tuple(rules), tuple(terms), tuple(templates))


def check_templates(templates: Sequence[str]) -> None:
    """Raises UsageError if a template does not have exactly one {}."""
    for template in templates:
        if template.count("{}") != 1:
            raise UsageError(f"--template {template!r}: write {{}} once, where the prompt goes: 'a photo of a {{}}'")


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]
