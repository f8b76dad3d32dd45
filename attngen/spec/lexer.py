"""The text of a formula into tokens, each with its place in the spec file.

Tokens are read from the file's own characters, not from what YAML makes of them, so that places are exact in every
style of YAML scalar; line breaks and indentation inside a formula are white space. Numbers are bounded here.
"""

import re
import unicodedata
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

from attngen import ir
from attngen.diagnostics import Diagnostic, Span
from attngen.spec import limits
from attngen.spec.source import Source, described

Kind = Literal["number", "name", "operator", "end"]

_TOKEN = re.compile(
    r"(?P<space>[ \t\r\n]+)"
    r"|(?P<number>(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?)"
    r"|(?P<name>[A-Za-z_][A-Za-z0-9_]*(?![^\W]))"
    r"|(?P<foreign>\w+)"
    r"|(?P<operator>\*\*|<=|>=|==|!=|[-+*/()<>,])"
    r"|(?P<other>&&|\|\||.)",
    re.DOTALL,
)

_GREEK = re.compile(r"GREEK (SMALL|CAPITAL) LETTER (FINAL )?(?P<letter>[A-Z]+)")

# Characters of other notations -> what to write here.
_ADVICE = {
    "^": "** for powers",
    "=": "== to compare",
    "&&": "and",
    "&": "and",
    "||": "or",
    "|": "or; abs(x) for an absolute value",
    "!": "not, or != to compare",
    "?": "where(condition, a, b)",
    "%": "the functions of the language; there is no remainder",
    "@": "qk for the dot product of query and key",
    ".": "a number such as 0.5; formulas have no attributes",
    "[": "an input whose shape lists its axes; formulas have no indices",
    "{": "parentheses ( )",
    ";": "one formula",
    ":": "one formula",
    "\\": "the formula itself; it has no escapes",
    "'": "a formula; it has no strings",
    '"': "a formula; it has no strings",
    "#": "the formula alone; a comment stands outside of quotes and block text",
    "\u00a0": "a plain space",
    "\u2212": "- (hyphen-minus)",
    "\u2013": "- (hyphen-minus)",
    "\u00d7": "*",
    "\u00b7": "*",
    "\u22c5": "*",
    "\u00f7": "/",
    "\u2264": "<=",
    "\u2265": ">=",
    "\u2260": "!=",
    "\u221a": "sqrt(x)",
    "\u2211": "sum(x)",
    "\u221e": "a finite number",
}


class FormulaMistake(Exception):
    """The first mistake of a formula, which ends its reading."""

    def __init__(self, diagnostic: Diagnostic) -> None:
        self.diagnostic = diagnostic
        super().__init__(diagnostic.message)


@dataclass(frozen=True, slots=True)
class Token:
    kind: Kind
    text: str
    span: Span


def tokens(read: Source, start: int, end: int) -> tuple[Token, ...]:
    """The tokens of the formula between two offsets, with an `end` token last. Raises FormulaMistake."""
    found = []
    for match in _TOKEN.finditer(read.text, start, end):
        span = read.span(match.start(), match.end())
        token = _token(match, span)
        found += [token] if token else []
    return (*found, _end(read, start, end))


def _token(match: re.Match[str], span: Span) -> Token | None:
    text = match.group()
    match match.lastgroup:
        case "space":
            return None
        case "number":
            _check_number(text, span)
            return Token("number", text, span)
        case "name":
            return Token("name", text, span)
        case "operator":
            return Token("operator", text, span)
        case _:
            raise FormulaMistake(_foreign(text, span))


def _end(read: Source, start: int, end: int) -> Token:
    """Just behind the last character that is not white space."""
    last = start + len(read.text[start:end].rstrip())
    before = read.span(max(start, last - 1), last)
    return Token("end", "", Span(before.line, before.column + (last > start), 1))


def _check_number(text: str, span: Span) -> None:
    if len(text) > limits.LITERAL_CHARACTERS:
        message = f"a number of {len(text)} characters"
        raise FormulaMistake(Diagnostic(message, span, f"at most {limits.LITERAL_CHARACTERS} characters"))
    exponent = re.split("[eE]", text)[1:]
    if exponent and abs(int(exponent[0])) > limits.LITERAL_EXPONENT:
        raise FormulaMistake(_out_of_range(text, span))
    if not ir.in_range(Fraction(text)):
        raise FormulaMistake(_out_of_range(text, span))


def _out_of_range(text: str, span: Span) -> Diagnostic:
    return Diagnostic(f"the number {text} is out of range", span, ir.RANGE)


def value(token: Token) -> Fraction:
    """The exact value of a number token."""
    return Fraction(token.text)


def _foreign(text: str, span: Span) -> Diagnostic:
    if len(text) > 1 and text.isidentifier():
        odd = next(c for c in text if not c.isascii())
        message = f"the name '{_short(text)}' holds {described(odd)}"
        return Diagnostic(message, span, "ASCII letters, digits and underscores")
    shown = f"'{text}'" if text.isascii() else described(text[0])
    shown = "a quotation mark" if text in "'\"" else shown
    expected = _ADVICE.get(text, "ASCII letters, digits and operators")
    return Diagnostic(f"{shown} has no meaning in a formula", span, expected, None if text.isascii() else _plain(text))


def _plain(text: str) -> str | None:
    """What a character of another alphabet stands for: a Greek letter's name, a wide letter's usual form."""
    usual = unicodedata.normalize("NFKC", text)
    if usual.isascii() and not usual.isspace():
        return usual
    found = _GREEK.fullmatch(unicodedata.name(text[0], ""))
    return found["letter"].lower() if found and len(text) == 1 else None


def _short(text: str) -> str:
    return text if len(text) <= limits.IDENTIFIER_CHARACTERS else text[: limits.IDENTIFIER_CHARACTERS] + "..."
