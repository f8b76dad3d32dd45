"""A formula as it is written: what the grammar makes of text, before any name in it has a meaning.

    Syntax = Literal(value) | Identifier(id) | Operation(op, args) | Call(name, args)

`Operation.op` is one of `ir.ARITY`; `Call.name` is whatever stood before the parenthesis.
"""

from dataclasses import dataclass
from fractions import Fraction

from attngen.diagnostics import Span


@dataclass(frozen=True, slots=True)
class Literal:
    value: Fraction
    span: Span
    depth: int = 1


@dataclass(frozen=True, slots=True)
class Identifier:
    id: str
    span: Span
    depth: int = 1


@dataclass(frozen=True, slots=True)
class Operation:
    op: str
    args: tuple["Syntax", ...]
    span: Span
    depth: int


@dataclass(frozen=True, slots=True)
class Call:
    name: str
    name_span: Span
    args: tuple["Syntax", ...]
    span: Span
    depth: int


Syntax = Literal | Identifier | Operation | Call


def joined(first: Span, last: Span) -> Span:
    """From `first` to the end of `last`; `first` alone if they stand on different lines."""
    if first.line != last.line:
        return first
    return Span(first.line, first.column, last.column + last.length - first.column)
