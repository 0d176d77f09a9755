"""Boolean expressions over prompts, against plain numpy."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from clipseg_cli.errors import UsageError
from clipseg_cli.prompts import expressions
from clipseg_cli.prompts.expressions import And, Expression, Not, Or, Term

A, B, C, D = (Term(letter) for letter in "abcd")
Pixels = NDArray[np.float32]


@pytest.mark.parametrize(
    ("text", "expression"),
    [
        ("cat", Term("cat")),
        ("  a red \t cat  ", Term("a red cat")),
        ("a red cat AND dog", And((Term("a red cat"), Term("dog")))),
        ("salt and pepper OR not a cat", Or((Term("salt and pepper"), Term("not a cat")))),
        ("cat AND NOT (collar OR leash)", And((Term("cat"), Not(Or((Term("collar"), Term("leash"))))))),
        ("NOT(a)AND(b)", And((Not(A), B))),
        ("ANDROID OR NOTE", Or((Term("ANDROID"), Term("NOTE")))),
        ("猫 AND　größe OR кот", Or((And((Term("猫"), Term("größe"))), Term("кот")))),
        ("a child's toy AND b", And((Term("a child's toy"), B))),
        ('a "NOT" sign', Term("a NOT sign")),
        ("'(AND) * @ OR'", Term("(AND) * @ OR")),
        (r'"say \"a\" or \\ or \n"', Term(r'say "a" or \ or \n')),
        (r"'it\'s' OR \'tis", Or((Term("it's"), Term("'tis")))),
        ("cat*0.8", Term("cat", 0.8)),
        ("a cat * 2 AND b @ .5", And((Term("a cat", 2.0), Term("b", 1.0, 0.5)))),
        ("cat*8e-1@0", Term("cat", 0.8, 0.0)),
        ("'cat*0.8'@1", Term("cat*0.8", 1.0, 1.0)),
        ("24 cats", Term("24 cats")),
    ],
)
def test_a_source_parses_to_its_expression(text: str, expression: Expression) -> None:
    """Covers words, quotes, operators, weights and thresholds."""
    assert expressions.parse(text) == expression


@pytest.mark.parametrize(
    ("text", "same"),
    [
        ("a OR b AND c", "a OR (b AND c)"),
        ("a AND b OR c AND d", "(a AND b) OR (c AND d)"),
        ("NOT a AND b", "(NOT a) AND b"),
        ("NOT a OR b", "(NOT a) OR b"),
        ("a AND NOT b OR c", "(a AND (NOT b)) OR c"),
        ("NOT NOT a", "NOT (NOT a)"),
    ],
)
def test_not_binds_tighter_than_and_which_binds_tighter_than_or(text: str, same: str) -> None:
    """Without parentheses, NOT applies first, then AND, then OR."""
    assert expressions.parse(text) == expressions.parse(same)


@pytest.mark.parametrize(
    ("text", "column", "expected"),
    [
        ("", 0, "a prompt"),
        ("  ", 0, "a prompt"),
        ("cat AND", 7, "a prompt, NOT or (, but the expression ends here"),
        ("cat AND  ", 7, "a prompt"),
        ("AND cat", 0, "a prompt"),
        ("cat AND OR dog", 8, "a prompt"),
        ("cat NOT dog", 4, "AND or OR"),
        ("cat (dog)", 4, "AND or OR"),
        ("(cat OR dog", 0, "a ) for this ("),
        ("cat AND ()", 9, "a prompt"),
        ("cat)", 3, "no matching ("),
        ("(cat) and dog", 6, "operators are upper case"),
        ("(cat dog (b))", 9, "AND, OR or )"),
        ("(cat)*2", 5, "applies to a prompt"),
        ("cat*", 4, "a positive number"),
        ("cat*0", 4, "a positive number"),
        ("cat*-1", 4, "a positive number"),
        ("cat*1e999", 4, "a positive number"),
        ("cat*nan", 4, "a positive number"),
        ("cat*٣", 4, "a positive number"),
        ("cat@1.01", 4, "from 0 to 1"),
        ("cat@ x", 5, "from 0 to 1"),
        ("cat@0.5*2", 7, "one *weight, then one @threshold"),
        ("cat*2 dog", 6, "AND or OR"),
        ('cat OR "dog', 7, 'a closing "'),
        (r'"dog\"', 0, 'a closing "'),
        ("cat OR ''", 7, "words between the quotes"),
        ("a\tcat\nAND", 9, "a prompt"),
    ],
)
def test_an_error_points_at_the_mistake(text: str, column: int, expected: str) -> None:
    """The message says what was expected and shows the source on one line, with a caret under the mistake."""
    with pytest.raises(UsageError) as caught:
        expressions.parse(text)
    message, line, caret = str(caught.value).split("\n")
    assert expected in message
    assert line.strip() == " ".join(text.split("\t")).replace("\n", " ").strip()
    assert caret == "  " + " " * column + "^"


@pytest.mark.parametrize(("text", "column"), [("猫 だ AND", 9), ("ｃａｔ OR", 9), ("cafe\u0301 OR", 7)])
def test_the_caret_counts_terminal_columns(text: str, column: int) -> None:
    """Wide characters take two columns, combining marks none."""
    with pytest.raises(UsageError) as caught:
        expressions.parse(text)
    assert str(caught.value).split("\n")[2] == "  " + " " * column + "^"


@pytest.mark.parametrize("text", ["(" * 100_000 + "a", "NOT " * 100_000 + "a", "NOT (" * 26 + "a" + ")" * 26])
def test_deep_nesting_is_refused_with_a_short_message(text: str) -> None:
    """Any depth over the limit is a usage error that shows only the text around the mistake."""
    with pytest.raises(UsageError, match="at most 50") as caught:
        expressions.parse(text)
    message, line, caret = str(caught.value).split("\n")
    assert max(len(message), len(line), len(caret)) < 120
    assert line[len(caret) - 1] in "N("


def test_nesting_up_to_the_limit_and_long_chains_parse() -> None:
    """Fifty levels parse. Chained operators do not count as nesting."""
    expressions.parse("NOT (" * 25 + "a" + ")" * 25)
    chain = expressions.parse(" AND ".join(f"object {i}" for i in range(5000)))
    assert len(expressions.terms(chain)) == 5000


def test_terms_are_distinct_and_in_order() -> None:
    """A text that occurs twice, even with another weight, is one term and is computed once."""
    expression = expressions.parse("b AND NOT (a*0.5 OR b@0.2) OR 'c' AND a")
    assert expressions.terms(expression) == ("b", "a", "c")
    calls: list[str] = []

    def probability(text: str) -> float:
        calls.append(text)
        return 0.5

    expressions.evaluate(expression, probability)
    assert calls == ["b", "a", "c"]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("low AND high", 0.25),
        ("low OR high", 0.75),
        ("NOT low", 0.75),
        ("high*0.5", 0.375),
        ("high*3", 1.0),
        ("high@0.75", 0.0),
        ("high@0.7", 1.0),
        ("high*0.5@0.4", 0.0),
        ("low*4@0.99 AND high", 0.75),
    ],
)
def test_expressions_of_plain_numbers(text: str, value: float) -> None:
    """Weight, clip, then threshold; a value equal to the threshold is below it."""
    got = expressions.evaluate(expressions.parse(text), {"low": 0.25, "high": 0.75}.__getitem__)
    assert got == value
    assert isinstance(got, float)


any_words = st.one_of(
    st.sampled_from(["cat", "a", "AND", "NOT", "OR", "and", "0.8", "*", "@", "(", ")", '"', "'", "\\", "\\'", "猫"]),
    st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=5),
)
texts = st.lists(any_words, min_size=1, max_size=4).map(lambda drawn: " ".join(" ".join(drawn).split())).filter(bool)
weights = st.one_of(st.just(1.0), st.floats(0, 1e300, exclude_min=True))
any_terms = st.builds(Term, texts, weights, st.none() | st.floats(0, 1).map(abs))


def trees(leaves: st.SearchStrategy[Term]) -> st.SearchStrategy[Expression]:
    """Returns a strategy that draws expressions over the leaves."""
    return st.recursive(
        leaves,
        lambda inner: st.one_of(
            st.builds(Not, inner),
            st.builds(And, st.lists(inner, min_size=2, max_size=3).map(tuple)),
            st.builds(Or, st.lists(inner, min_size=2, max_size=3).map(tuple)),
        ),
        max_leaves=8,
    )


def source(expression: Expression) -> str:
    """Returns a source of the expression, with no more quotes and parentheses than needed."""
    if isinstance(expression, Term):
        weight = "" if expression.weight == 1 else f"*{expression.weight!r}"
        threshold = "" if expression.threshold is None else f"@{expression.threshold!r}"
        return quoted(expression.text) + weight + threshold
    if isinstance(expression, Not):
        return f"NOT {bracketed(expression.operand, And | Or)}"
    if isinstance(expression, And):
        return " AND ".join(bracketed(operand, And | Or) for operand in expression.operands)
    return " OR ".join(bracketed(operand, Or) for operand in expression.operands)


def bracketed(operand: Expression, looser: Any) -> str:
    """Returns the source of an operand, in parentheses if its operator is one of the `looser` ones."""
    return f"({source(operand)})" if isinstance(operand, looser) else source(operand)


def quoted(text: str) -> str:
    """Returns a text as the parser takes it, in quotes where it needs them."""
    if not set(text) & set("()*@\"'\\") and not set(text.split()) & set(expressions.OPERATORS):
        return text
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


@given(trees(any_terms))
def test_every_expression_has_a_source(expression: Expression) -> None:
    """The source of any tree over any texts parses to the same tree."""
    assert expressions.parse(source(expression)) == expression


@given(st.text())
def test_any_text_parses_or_is_refused(text: str) -> None:
    """No text crashes the parser."""
    try:
        expression = expressions.parse(text)
    except UsageError:
        return
    assert expressions.parse(source(expression)) == expression


def maps(texts: tuple[str, ...]) -> dict[str, Pixels]:
    """Returns random probabilities for each text: float32 (5, 7), with some 0 and 1."""
    rng = np.random.default_rng(len(texts))
    return {text: np.clip(rng.uniform(-0.2, 1.2, (5, 7)), 0, 1).astype(np.float32) for text in texts}


def expected_value(expression: Expression, of: dict[str, Pixels]) -> Pixels:
    """Evaluates an expression in plain numpy, all operands at once."""
    match expression:
        case Term(text, weight, threshold):
            weighted = np.minimum(of[text] * np.float32(weight), np.float32(1))
            return weighted if threshold is None else (weighted > np.float32(threshold)).astype(np.float32)
        case Not(operand):
            return np.float32(1) - expected_value(operand, of)
        case And(operands):
            return np.min([expected_value(operand, of) for operand in operands], axis=0)
        case Or(operands):
            return np.max([expected_value(operand, of) for operand in operands], axis=0)


tame_terms = st.builds(
    Term, st.sampled_from("abcd"), st.floats(0.125, 4, width=32), st.none() | st.floats(0, 1, width=32)
)


@given(trees(tame_terms))
def test_arrays_evaluate_as_in_plain_numpy(expression: Expression) -> None:
    """AND is the minimum, OR the maximum, NOT 1 - p. Equal to the bit; float32 stays float32 in [0, 1]."""
    of = maps(expressions.terms(expression))
    got = expressions.evaluate(expression, of.__getitem__, np.minimum, np.maximum)
    assert got.dtype == np.float32
    assert got.shape == (5, 7)
    assert got.min() >= 0 and got.max() <= 1
    assert np.array_equal(got, expected_value(expression, of))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("NOT (a AND b)", "NOT a OR NOT b"),
        ("NOT (a OR b)", "NOT a AND NOT b"),
        ("a AND (b OR c)", "a AND b OR a AND c"),
        ("a@0.4 AND NOT b@0.4", "NOT (b@0.4 OR NOT a@0.4)"),
        ("a OR a AND b", "a"),
    ],
)
def test_boolean_laws_hold(one: str, other: str) -> None:
    """Equivalent expressions give the same map, to the bit."""
    of = maps(("a", "b", "c"))
    left, right = (
        expressions.evaluate(expressions.parse(text), of.__getitem__, np.minimum, np.maximum) for text in (one, other)
    )
    assert np.array_equal(left, right)
