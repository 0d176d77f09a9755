"""Boolean expressions over text prompts: `cat AND NOT (collar OR leash)`. Standard library only.

    or    = and { "OR" and }
    and   = not { "AND" not }
    not   = "NOT" not | "(" or ")" | term
    term  = word { word } [ "*" weight ] [ "@" threshold ]

Operators are upper case; `and` is an ordinary word. Adjacent words, in any script, form one prompt, joined by single
spaces: `a red cat AND dog` has the terms "a red cat" and "dog". Words in quotes, "..." or '...', are literal, even
operators and parentheses; \\" \\' and \\\\ stand for the character itself. A quote inside a word belongs to the word:
`a dog's collar`.

    cat*0.8       the probability of "cat" times 0.8, clipped to 1; the weight is any positive number
    cat@0.4       1 where the probability is above 0.4, else 0
    cat*0.8@0.4   applies the weight first
"""

import math
import re
import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias, TypeVar

from clipseg_cli.errors import UsageError

MAX_DEPTH = 50  # nested parentheses and NOTs: more than anyone writes, and well within Python's recursion limit
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
    """A text prompt. weight: positive, 1 for none. threshold: in [0, 1]; None keeps the probability."""

    text: str
    weight: float = 1.0
    threshold: float | None = None


@dataclass(frozen=True, slots=True)
class Not:
    """NOT: 1 minus the operand."""

    operand: "Expression"


@dataclass(frozen=True, slots=True)
class And:
    """AND: the minimum of two or more operands."""

    operands: tuple["Expression", ...]


@dataclass(frozen=True, slots=True)
class Or:
    """OR: the maximum of two or more operands."""

    operands: tuple["Expression", ...]


Expression: TypeAlias = Term | Not | And | Or


class Array(Protocol):
    """The operations that `evaluate` needs; floats and numpy arrays have them."""

    def __mul__(self, other: float, /) -> Any:
        """Returns self * other."""

    def __rsub__(self, other: float, /) -> Any:
        """Returns other - self."""

    def __gt__(self, other: float, /) -> Any:
        """Returns self > other."""


A = TypeVar("A", bound=Array)


def parse(source: str) -> Expression:
    """Parses an expression. Raises UsageError, which says what was expected and marks the place with a caret."""
    parser = _Parser(source)
    expression = parser.disjunction(0)
    if parser.token.kind != "end":
        raise parser.error("expected AND or OR" if parser.token.kind != ")" else "this ) has no matching (")
    return expression


def terms(expression: Expression) -> tuple[str, ...]:
    """Returns the distinct texts of an expression, in order of first appearance."""
    return tuple(dict.fromkeys(term.text for term in _walk(expression)))


def evaluate(
    expression: Expression,
    probability: Callable[[str], A],
    minimum: Callable[[Any, Any], Any] = min,
    maximum: Callable[[Any, Any], Any] = max,
) -> A:
    """Returns the probability of an expression, in [0, 1]: AND is the minimum, OR the maximum, NOT p is 1 - p.

    `probability` returns the probability of a text, in [0, 1]; it is called once per entry of `terms`. For arrays, pass
    numpy.minimum and numpy.maximum; shape and dtype are kept.
    """
    by_text = {text: probability(text) for text in terms(expression)}

    def value(node: Expression) -> Any:
        if isinstance(node, Not):
            return 1 - value(node.operand)
        if isinstance(node, And | Or):
            join = minimum if isinstance(node, And) else maximum
            result = value(node.operands[0])
            for operand in node.operands[1:]:
                result = join(result, value(operand))
            return result
        weighted: Any = by_text[node.text]
        if node.weight != 1:
            weighted = minimum(weighted * node.weight, 1.0)
        # adding the comparison to zeros keeps the type: bool becomes a float or an array of the same dtype
        return weighted if node.threshold is None else weighted * 0 + (weighted > node.threshold)

    answer: A = value(expression)
    return answer


def _walk(expression: Expression) -> Iterator[Term]:
    if isinstance(expression, Term):
        yield expression
    else:
        for operand in (expression.operand,) if isinstance(expression, Not) else expression.operands:
            yield from _walk(operand)


@dataclass(frozen=True, slots=True)
class _Token:
    """kind: "word", "end", an operator or a sign. text: without quotes and escapes. at: offset in characters."""

    kind: str
    text: str
    at: int


def _tokens(source: str) -> Iterator[_Token]:
    at = 0
    while match := _TOKEN.match(source, at):
        if match["open"]:
            raise _error(source, at, f"expected a closing {match['open']}; for a literal quote write \\{match['open']}")
        quoted = match["double"] if match["double"] is not None else match["single"]
        if quoted is not None:
            if not quoted.strip():
                raise _error(source, at, "expected words between the quotes")
            yield _Token("word", _ESCAPE.sub(r"\1", quoted), at)
        elif match["word"]:
            plain = match["word"]
            yield _Token(plain if plain in OPERATORS else "word", _ESCAPE.sub(r"\1", plain), at)
        elif match["sign"]:
            yield _Token(match["sign"], match["sign"], at)
        at = match.end()
    yield _Token("end", "", len(source.rstrip()))


class _Parser:
    """Recursive descent with one token of lookahead, `token`. `depth` counts nested parentheses and NOTs."""

    def __init__(self, source: str) -> None:
        self.source = source
        self._rest = _tokens(source)
        self.token = next(self._rest)

    def take(self) -> _Token:
        """Returns the current token and advances."""
        taken = self.token
        self.token = next(self._rest, taken)
        return taken

    def error(self, expected: str) -> UsageError:
        """Returns the error for the current token."""
        if self.token.kind == "word" and self.token.text.upper() in OPERATORS:
            expected += "; operators are upper case"
        elif self.token.kind == "end":
            expected += ", but the expression ends here"
        return _error(self.source, self.token.at, expected)

    def disjunction(self, depth: int) -> Expression:
        operands = [self.conjunction(depth)]
        while self.token.kind == "OR":
            self.take()
            operands.append(self.conjunction(depth))
        return Or(tuple(operands)) if len(operands) > 1 else operands[0]

    def conjunction(self, depth: int) -> Expression:
        operands = [self.factor(depth)]
        while self.token.kind == "AND":
            self.take()
            operands.append(self.factor(depth))
        return And(tuple(operands)) if len(operands) > 1 else operands[0]

    def factor(self, depth: int) -> Expression:
        if self.token.kind in ("NOT", "(") and depth >= MAX_DEPTH:
            raise self.error(f"expected at most {MAX_DEPTH} nested parentheses and NOTs")
        if self.token.kind == "NOT":
            self.take()
            return Not(self.factor(depth + 1))
        if self.token.kind == "(":
            opened = self.take()
            inner = self.disjunction(depth + 1)
            if self.token.kind == "end":
                raise _error(self.source, opened.at, "expected a ) for this (")
            if self.token.kind != ")":
                raise self.error("expected AND, OR or )")
            self.take()
            if self.token.kind in ("*", "@"):
                raise self.error(f"expected AND or OR; {self.token.kind} applies to a prompt, not to parentheses")
            return inner
        return self.term()

    def term(self) -> Term:
        if self.token.kind != "word":
            raise self.error("expected a prompt, NOT or (")
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
            raise self.error("expected AND or OR; a prompt takes one *weight, then one @threshold")
        return Term(" ".join(words), weight, threshold)

    def number(self, expected: str, allowed: Callable[[float], bool]) -> float:
        is_number = self.token.kind == "word" and _NUMBER.fullmatch(self.token.text)
        if not is_number or not allowed(float(self.token.text)):
            raise self.error(expected)
        return float(self.take().text)


def _error(source: str, at: int, expected: str) -> UsageError:
    """Returns an error that shows the source around the offset `at`, with a caret in the matching terminal column."""
    start = max(0, at - 60) if len(source) > 100 else 0
    end = at + 40 if len(source) > 100 else len(source)
    before = ("…" if start else "") + _one_line(source[start:at])
    after = _one_line(source[at:end]) + ("…" if end < len(source) else "")
    columns = sum(_columns(character) for character in before)
    return UsageError(f"{expected}:\n  {(before + after).rstrip()}\n  {' ' * columns}^")


def _one_line(text: str) -> str:
    """Replaces tabs, line ends and other control characters by spaces."""
    return "".join(" " if c.isspace() or unicodedata.category(c) in ("Cc", "Cs") else c for c in text)


def _columns(character: str) -> int:
    if unicodedata.category(character) in ("Mn", "Me", "Cf"):  # combines with the letter before it, or is invisible
        return 0
    return 2 if unicodedata.east_asian_width(character) in ("W", "F") else 1
