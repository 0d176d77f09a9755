"""Phrases joined by AND, OR and NOT."""

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
    ("phrase", "expression"),
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
def test_a_phrase_is_read_as_it_is_meant(phrase: str, expression: Expression) -> None:
    """Words, quotes, operators, weights and thresholds."""
    assert expressions.parse(phrase) == expression


@pytest.mark.parametrize(
    ("phrase", "same"),
    [
        ("a OR b AND c", "a OR (b AND c)"),
        ("a AND b OR c AND d", "(a AND b) OR (c AND d)"),
        ("NOT a AND b", "(NOT a) AND b"),
        ("NOT a OR b", "(NOT a) OR b"),
        ("a AND NOT b OR c", "(a AND (NOT b)) OR c"),
        ("NOT NOT a", "NOT (NOT a)"),
    ],
)
def test_not_binds_closer_than_and_and_and_than_or(phrase: str, same: str) -> None:
    """Without parentheses NOT comes first, then AND, then OR."""
    assert expressions.parse(phrase) == expressions.parse(same)


@pytest.mark.parametrize(
    ("phrase", "column", "expected"),
    [
        ("", 0, "a phrase"),
        ("  ", 0, "a phrase"),
        ("cat AND", 7, "a phrase, NOT or (, but here is the end"),
        ("cat AND  ", 7, "a phrase"),
        ("AND cat", 0, "a phrase"),
        ("cat AND OR dog", 8, "a phrase"),
        ("cat NOT dog", 4, "AND or OR"),
        ("cat (dog)", 4, "AND or OR"),
        ("(cat OR dog", 0, "a ) for this ("),
        ("cat AND ()", 9, "a phrase"),
        ("cat)", 3, "closes nothing"),
        ("(cat) and dog", 6, "operators are written in capitals"),
        ("(cat dog (b))", 9, "AND, OR or )"),
        ("(cat)*2", 5, "belongs to a phrase"),
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
        ("a\tcat\nAND", 9, "a phrase"),
    ],
)
def test_an_error_points_at_its_place(phrase: str, column: int, expected: str) -> None:
    """The message says what was expected and shows the phrase on one line, with a caret under the place."""
    with pytest.raises(UsageError) as caught:
        expressions.parse(phrase)
    says, shown, caret = str(caught.value).split("\n")
    assert expected in says
    assert shown.strip() == " ".join(phrase.split("\t")).replace("\n", " ").strip()
    assert caret == "  " + " " * column + "^"


@pytest.mark.parametrize(("phrase", "column"), [("猫 だ AND", 9), ("ｃａｔ OR", 9), ("cafe\u0301 OR", 7)])
def test_the_caret_counts_columns_and_not_characters(phrase: str, column: int) -> None:
    """Wide characters take two columns of a terminal, combining marks none."""
    with pytest.raises(UsageError) as caught:
        expressions.parse(phrase)
    assert str(caught.value).split("\n")[2] == "  " + " " * column + "^"


@pytest.mark.parametrize("phrase", ["(" * 100_000 + "a", "NOT " * 100_000 + "a", "NOT (" * 26 + "a" + ")" * 26])
def test_deep_nesting_is_refused_in_a_short_message(phrase: str) -> None:
    """However deep, it is an error of the user's and shows only the part around the place."""
    with pytest.raises(UsageError, match="at most 50") as caught:
        expressions.parse(phrase)
    says, shown, caret = str(caught.value).split("\n")
    assert max(len(says), len(shown), len(caret)) < 120
    assert shown[len(caret) - 1] in "N("


def test_nesting_up_to_the_limit_and_long_chains_are_read() -> None:
    """Fifty levels are read, and operators side by side are no nesting."""
    expressions.parse("NOT (" * 25 + "a" + ")" * 25)
    chain = expressions.parse(" AND ".join(f"thing {i}" for i in range(5000)))
    assert len(expressions.terms(chain)) == 5000


def test_terms_are_distinct_and_in_order() -> None:
    """A text that occurs twice, be it with another weight, is asked for once."""
    expression = expressions.parse("b AND NOT (a*0.5 OR b@0.2) OR 'c' AND a")
    assert expressions.terms(expression) == ("b", "a", "c")
    asked: list[str] = []

    def probability(text: str) -> float:
        asked.append(text)
        return 0.5

    expressions.evaluate(expression, probability)
    assert asked == ["b", "a", "c"]


@pytest.mark.parametrize(
    ("phrase", "value"),
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
def test_plain_numbers_are_evaluated_too(phrase: str, value: float) -> None:
    """Weight, clip, then threshold; a threshold counts only what is above it."""
    got = expressions.evaluate(expressions.parse(phrase), {"low": 0.25, "high": 0.75}.__getitem__)
    assert got == value
    assert isinstance(got, float)


words = st.one_of(
    st.sampled_from(["cat", "a", "AND", "NOT", "OR", "and", "0.8", "*", "@", "(", ")", '"', "'", "\\", "\\'", "猫"]),
    st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=5),
)
texts = st.lists(words, min_size=1, max_size=4).map(lambda found: " ".join(" ".join(found).split())).filter(bool)
weights = st.one_of(st.just(1.0), st.floats(0, 1e300, exclude_min=True))
leaves = st.builds(Term, texts, weights, st.none() | st.floats(0, 1).map(abs))
trees: st.SearchStrategy[Expression] = st.recursive(
    leaves,
    lambda inner: st.one_of(
        st.builds(Not, inner),
        st.builds(And, st.lists(inner, min_size=2, max_size=3).map(tuple)),
        st.builds(Or, st.lists(inner, min_size=2, max_size=3).map(tuple)),
    ),
    max_leaves=8,
)


@given(trees)
def test_what_is_written_is_read_back_as_the_same(expression: Expression) -> None:
    """Any tree of any texts survives being written and parsed."""
    assert expressions.parse(expressions.written(expression)) == expression


@given(st.text())
def test_any_text_is_read_or_refused(phrase: str) -> None:
    """No text crashes the reader; what it reads it also writes."""
    try:
        expression = expressions.parse(phrase)
    except UsageError:
        return
    assert expressions.parse(expressions.written(expression)) == expression


def maps(texts: tuple[str, ...]) -> dict[str, Pixels]:
    """A map of random probabilities for each text: float32 (5, 7), both ends included."""
    rng = np.random.default_rng(len(texts))
    return {text: np.clip(rng.uniform(-0.2, 1.2, (5, 7)), 0, 1).astype(np.float32) for text in texts}


def value(expression: Expression, of: dict[str, Pixels]) -> Pixels:
    """The same sums in numpy, all operands at once."""
    match expression:
        case Term(text, weight, threshold):
            weighted = np.minimum(of[text] * np.float32(weight), np.float32(1))
            return weighted if threshold is None else (weighted > np.float32(threshold)).astype(np.float32)
        case Not(operand):
            return np.float32(1) - value(operand, of)
        case And(operands):
            return np.min([value(operand, of) for operand in operands], axis=0)
        case Or(operands):
            return np.max([value(operand, of) for operand in operands], axis=0)


tame = st.builds(Term, st.sampled_from("abcd"), st.floats(0.125, 4, width=32), st.none() | st.floats(0, 1, width=32))


@given(st.data())
def test_an_expression_is_the_same_in_plain_numpy(data: st.DataObject) -> None:
    """AND is the least, OR the greatest, NOT the rest to 1; float32 maps stay float32 in [0, 1] to the bit."""
    joined = st.lists(st.deferred(lambda: tree), min_size=2, max_size=3).map(tuple)
    tree: st.SearchStrategy[Expression] = st.one_of(
        tame, tame, tame, st.builds(Not, st.deferred(lambda: tree)), st.builds(And, joined), st.builds(Or, joined)
    )
    expression = data.draw(tree)
    of = maps(expressions.terms(expression))
    got = expressions.evaluate(expression, of.__getitem__, np.minimum, np.maximum)
    assert got.dtype == np.float32
    assert got.shape == (5, 7)
    assert got.min() >= 0 and got.max() <= 1
    assert np.array_equal(got, value(expression, of))


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
def test_the_laws_of_de_morgan_and_company_hold(one: str, other: str) -> None:
    """Two ways to say the same give the same map, to the bit."""
    of = maps(("a", "b", "c"))
    left, right = (
        expressions.evaluate(expressions.parse(phrase), of.__getitem__, np.minimum, np.maximum)
        for phrase in (one, other)
    )
    assert np.array_equal(left, right)
