"""The document that every format prints: sections of paragraphs, equations and tables, with formulas as trees.

Formulas are `ir.Expr` with some more names, which begin with "$" so that no user's name can be one of them (see
`attngen.explain.symbols`), and with operations such as `sum_j` that say over what they sum. Knows no format.
"""

from dataclasses import dataclass

from attngen.explain.symbols import Symbols
from attngen.ir import Expr

Inline = str | Expr
Line = tuple[Inline, ...]


@dataclass(frozen=True, slots=True)
class Paragraph:
    parts: Line


@dataclass(frozen=True, slots=True)
class Equation:
    left: Expr
    right: Expr


@dataclass(frozen=True, slots=True)
class Equations:
    items: tuple[Equation, ...]


@dataclass(frozen=True, slots=True)
class Table:
    header: tuple[str, ...]
    rows: tuple[tuple[Line, ...], ...]


Block = Paragraph | Equations | Table


@dataclass(frozen=True, slots=True)
class Section:
    title: str
    blocks: tuple[Block, ...]


@dataclass(frozen=True, slots=True)
class Document:
    title: str
    reference: str
    made_by: str
    sections: tuple[Section, ...]
    symbols: Symbols
