"""Phrases joined by AND, OR and NOT: `cat AND NOT (collar OR leash)`. Standard library only.

    or    = and { "OR" and }
    and   = not { "AND" not }
    not   = "NOT" not | "(" or ")" | term
    term  = word { word } [ "*" weight ] [ "@" threshold ]

The operators are upper case; `and` is a word like others. Adjacent words form one phrase, of any script, with single
spaces: `a red cat AND dog` joins "a red cat" and "dog". Words in quotes, "..." or '...', are taken literally, be they
operators or parentheses; \\" \\' and \\\\ mean the sign itself. A quote inside a word is part of it: `a dog's collar`.

    cat*0.8       the probability of "cat" times 0.8; any positive number, the product is clipped to 1
    cat@0.4       1 where the probability is above 0.4, else 0
    cat*0.8@0.4   the weight first
"""

import math
import re
import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias, TypeVar

from clipseg_cli.errors import UsageError

MAX_DEPTH = 50  # parentheses and NOTs inside each other: far more than anyone writes, far fewer than Python's stack
OPERATORS = ("AND", "OR", "NOT")

_ESCAPE = re.compile(r"""\\(["'\\])""")
_NUMBER = re.compile(r"[0-9]*\.?[0-9]+(?:[eE][+-]?[0-9]+)?|[0-9]+\.")
_TOKEN = re.compile(
    r"""
    \s+
    | (?P<sign> [()*@] )
    | "(?P<double> (?: \\["'\\] | \\(?!["'\\]) | [^"\\] )* )"
    | '(?P<single> (?: \\["'\\] | \\(?!["'\\]) | [^'\\] )* )'
    | (?P<open> ["'] )
    | (?P<word> (?: \\["'\\] | [^\s()*@] )+ )
    """,
    re.VERBOSE,
)


@dataclass(frozen=True, slots=True)
class Term:
    """One phrase. weight: positive, 1 for none. threshold: in [0, 1], or None to keep the probability as it is."""

    text: str
    weight: float = 1.0
    threshold: float | None = None


@dataclass(frozen=True, slots=True)
class Not:
    """Where the operand is not."""

    operand: "Expression"


@dataclass(frozen=True, slots=True)
class And:
    """Where all of the operands are, two or more of them."""

    operands: tuple["Expression", ...]


@dataclass(frozen=True, slots=True)
class Or:
    """Where any of the operands is, two or more of them."""

    operands: tuple["Expression", ...]


Expression: TypeAlias = Term | Not | And | Or


class Array(Protocol):
    """What `evaluate` asks of probabilities: floats and numpy arrays have it."""

    def __mul__(self, other: float, /) -> Any:
        """Times a number."""

    def __rsub__(self, other: float, /) -> Any:
        """Taken from a number."""

    def __gt__(self, other: float, /) -> Any:
        """Above a number or not."""


A = TypeVar("A", bound=Array)


def parse(phrase: str) -> Expression:
    """Reads an expression. Raises UsageError that shows the phrase, a caret under the place, and what belongs there."""
    reader = _Reader(phrase)
    expression = reader.either(0)
    if reader.token.kind != "end":
        raise reader.unexpected("expected AND or OR" if reader.token.kind != ")" else "this ) closes nothing")
    return expression


def terms(expression: Expression) -> tuple[str, ...]:
    """The distinct texts of an expression, in the order of their first appearance."""
    return tuple(dict.fromkeys(term.text for term in _walk(expression)))


def evaluate(
    expression: Expression,
    probability: Callable[[str], A],
    minimum: Callable[[Any, Any], Any] = min,
    maximum: Callable[[Any, Any], Any] = max,
) -> A:
    """The probability of an expression, in [0, 1]: AND is the least, OR the greatest, NOT p is 1 - p.

    `probability` gives that of a text, in [0, 1], and is asked once for each of `terms`. For arrays give the
    functions that compare element by element, like numpy.minimum and numpy.maximum; shape and dtype stay.
    """
    known = {text: probability(text) for text in terms(expression)}

    def value(node: Expression) -> Any:
        if isinstance(node, Not):
            return 1 - value(node.operand)
        if isinstance(node, And | Or):
            join = minimum if isinstance(node, And) else maximum
            result = value(node.operands[0])
            for operand in node.operands[1:]:
                result = join(result, value(operand))
            return result
        found: Any = known[node.text]
        if node.weight != 1:
            found = minimum(found * node.weight, 1.0)
        # adding to zeros makes truth a number of the same type
        return found if node.threshold is None else found * 0 + (found > node.threshold)

    answer: A = value(expression)
    return answer


def written(expression: Expression) -> str:
    """The expression as text that `parse` reads back as the same, with no more quotes and parentheses than needed."""
    if isinstance(expression, Term):
        weight = "" if expression.weight == 1 else f"*{expression.weight!r}"
        threshold = "" if expression.threshold is None else f"@{expression.threshold!r}"
        return _quoted(expression.text) + weight + threshold
    if isinstance(expression, Not):
        return f"NOT {_inside(expression.operand, And | Or)}"
    if isinstance(expression, And):
        return " AND ".join(_inside(operand, And | Or) for operand in expression.operands)
    return " OR ".join(_inside(operand, Or) for operand in expression.operands)


def _inside(operand: Expression, looser: Any) -> str:
    return f"({written(operand)})" if isinstance(operand, looser) else written(operand)


def _quoted(text: str) -> str:
    if not set(text) & set("()*@\"'\\") and not set(text.split()) & set(OPERATORS):
        return text
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _walk(expression: Expression) -> Iterator[Term]:
    if isinstance(expression, Term):
        yield expression
    else:
        for operand in (expression.operand,) if isinstance(expression, Not) else expression.operands:
            yield from _walk(operand)


@dataclass(frozen=True, slots=True)
class _Token:
    """kind: word, end, an operator or a sign. text: a word's meaning. at: its place in the phrase, in characters."""

    kind: str
    text: str
    at: int


def _tokens(phrase: str) -> Iterator[_Token]:
    at = 0
    while match := _TOKEN.match(phrase, at):
        if match["open"]:
            raise _error(phrase, at, f"expected a closing {match['open']}; for the sign itself write \\{match['open']}")
        quoted = match["double"] if match["double"] is not None else match["single"]
        if quoted is not None:
            if not quoted.strip():
                raise _error(phrase, at, "expected words between the quotes")
            yield _Token("word", _ESCAPE.sub(r"\1", quoted), at)
        elif match["word"]:
            plain = match["word"]
            yield _Token(plain if plain in OPERATORS else "word", _ESCAPE.sub(r"\1", plain), at)
        elif match["sign"]:
            yield _Token(match["sign"], match["sign"], at)
        at = match.end()
    yield _Token("end", "", len(phrase.rstrip()))


class _Reader:
    """Recursive descent over the tokens; `token` is the one that is looked at."""

    def __init__(self, phrase: str) -> None:
        self.phrase = phrase
        self._rest = _tokens(phrase)
        self.token = next(self._rest)

    def take(self) -> _Token:
        """The token that is looked at; moves on to the next."""
        taken = self.token
        self.token = next(self._rest, taken)
        return taken

    def unexpected(self, expected: str) -> UsageError:
        """The error for the token that is looked at."""
        if self.token.kind == "word" and self.token.text.upper() in OPERATORS:
            expected += "; operators are written in capitals"
        elif self.token.kind == "end":
            expected += ", but here is the end"
        return _error(self.phrase, self.token.at, expected)

    def either(self, depth: int) -> Expression:
        operands = [self.both(depth)]
        while self.token.kind == "OR":
            self.take()
            operands.append(self.both(depth))
        return Or(tuple(operands)) if len(operands) > 1 else operands[0]

    def both(self, depth: int) -> Expression:
        operands = [self.single(depth)]
        while self.token.kind == "AND":
            self.take()
            operands.append(self.single(depth))
        return And(tuple(operands)) if len(operands) > 1 else operands[0]

    def single(self, depth: int) -> Expression:
        if self.token.kind in ("NOT", "(") and depth >= MAX_DEPTH:
            raise self.unexpected(f"expected at most {MAX_DEPTH} parentheses and NOTs inside each other")
        if self.token.kind == "NOT":
            self.take()
            return Not(self.single(depth + 1))
        if self.token.kind == "(":
            opened = self.take()
            inner = self.either(depth + 1)
            if self.token.kind == "end":
                raise _error(self.phrase, opened.at, "expected a ) for this (")
            if self.token.kind != ")":
                raise self.unexpected("expected AND, OR or )")
            self.take()
            if self.token.kind in ("*", "@"):
                raise self.unexpected(f"expected AND or OR; {self.token.kind} belongs to a phrase, not to parentheses")
            return inner
        return self.term()

    def term(self) -> Term:
        if self.token.kind != "word":
            raise self.unexpected("expected a phrase, NOT or (")
        words = []
        while self.token.kind == "word":
            words += self.take().text.split()
        weight, threshold = 1.0, None
        if self.token.kind == "*":
            self.take()
            weight = self.number("expected a positive number after *", lambda value: 0 < value < math.inf)
        if self.token.kind == "@":
            self.take()
            threshold = self.number("expected a number from 0 to 1 after @", lambda value: 0 <= value <= 1)
        if self.token.kind in ("*", "@"):
            raise self.unexpected("expected AND or OR; a phrase has one *weight, then one @threshold")
        return Term(" ".join(words), weight, threshold)

    def number(self, expected: str, allowed: Callable[[float], bool]) -> float:
        plain = self.token.kind == "word" and _NUMBER.fullmatch(self.token.text)
        if not plain or not allowed(float(self.token.text)):
            raise self.unexpected(expected)
        return float(self.take().text)


def _error(phrase: str, at: int, expected: str) -> UsageError:
    """Shows the part of the phrase around a place, with a caret under it as a terminal counts columns."""
    start = max(0, at - 60) if len(phrase) > 100 else 0
    end = at + 40 if len(phrase) > 100 else len(phrase)
    before = ("…" if start else "") + _shown(phrase[start:at])
    after = _shown(phrase[at:end]) + ("…" if end < len(phrase) else "")
    columns = sum(_columns(character) for character in before)
    return UsageError(f"{expected}:\n  {(before + after).rstrip()}\n  {' ' * columns}^")


def _shown(text: str) -> str:
    """One line: tabs, line ends and other control characters as spaces."""
    return "".join(" " if c.isspace() or unicodedata.category(c) in ("Cc", "Cs") else c for c in text)


def _columns(character: str) -> int:
    if unicodedata.category(character) in ("Mn", "Me", "Cf"):  # drawn over the letter before, or not at all
        return 0
    return 2 if unicodedata.east_asian_width(character) in ("W", "F") else 1
