"""The document as plain text for a terminal of 100 columns; formulas in the notation of specs."""

import io
from textwrap import wrap

from rich import box
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from attngen import ir, notation
from attngen.explain.document import Block, Document, Equation, Equations, Line, Paragraph, Section, Table
from attngen.explain.symbols import Symbols
from attngen.ir import Apply, Expr, Name, Reduce

WIDTH = 100
_INDENT = " " * 4


def as_text(document: Document) -> str:
    head = [document.title, "=" * min(len(document.title), WIDTH)]
    head += [document.reference] if document.reference else []
    sections = ["\n\n".join(_section(section, document.symbols)) for section in document.sections]
    return "\n".join(head) + "\n\n" + "\n\n\n".join(sections) + "\n"


def _section(section: Section, symbols: Symbols) -> list[str]:
    return [f"{section.title}\n{'-' * len(section.title)}", *(_block(block, symbols) for block in section.blocks)]


def _block(block: Block, symbols: Symbols) -> str:
    match block:
        case Paragraph(parts):
            return "\n".join(wrap(_line(parts, symbols), WIDTH, break_long_words=False, break_on_hyphens=False))
        case Equations(items):
            return "\n".join(_equation(equation, symbols) for equation in items)
        case Table():
            return _table(block, symbols)


def _line(parts: Line, symbols: Symbols) -> str:
    return "".join(part if isinstance(part, str) else formula_text(part, symbols) for part in parts)


def _equation(equation: Equation, symbols: Symbols) -> str:
    text = f"{formula_text(equation.left, symbols)} = {formula_text(equation.right, symbols)}"
    lines = wrap(text, WIDTH, initial_indent=_INDENT, subsequent_indent=_INDENT * 2, break_long_words=False)
    return "\n".join(lines)


def _table(table: Table, symbols: Symbols) -> str:
    """Set by rich, which breaks what is too wide for its column."""
    grid = RichTable(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for title in table.header:
        grid.add_column(title, overflow="fold")
    for cells in table.rows:
        grid.add_row(*(Text(_line(cell, symbols)) for cell in cells))
    output = io.StringIO()
    Console(file=output, width=WIDTH, color_system=None, force_terminal=False, legacy_windows=False).print(grid)
    return "\n".join(line.rstrip() for line in output.getvalue().splitlines())


def formula_text(expr: Expr, symbols: Symbols) -> str:
    """A formula in the spec language, with indices at what sums over them."""
    return notation.text(_plain(expr, symbols))


def _plain(expr: Expr, symbols: Symbols) -> Expr:
    match expr:
        case Name(name):
            return Name(symbols[name].text)
        case Reduce(_, None):
            return Name("n")
        case Reduce("csum", body) if body is not None:
            return Apply("sum_c", (_plain(body, symbols),))
        case Reduce(kind, body) if body is not None:
            return Apply(f"{kind.removeprefix('a')}_j", (_plain(body, symbols),))
        case Apply("dot", (left, right)):
            return Name(f"{formula_text(left, symbols)} . {formula_text(right, symbols)}")
    return ir.with_children(expr, tuple(_plain(child, symbols) for child in ir.children(expr)))
