"""The document as one HTML page that needs nothing else: its style inside, its mathematics as MathML."""

from html import escape

from attngen.explain.boxes import Sign, row
from attngen.explain.document import Block, Document, Equation, Equations, Line, Paragraph, Section, Table
from attngen.explain.layout import typeset
from attngen.explain.mathml import formula
from attngen.explain.symbols import Symbols

_STYLE = """
:root { color-scheme: light dark; --text: #1c1c1e; --soft: #5f6368; --line: #d6d6da; --page: #ffffff; --box: #f6f6f8; }
@media (prefers-color-scheme: dark) {
  :root { --text: #e8e8ea; --soft: #a0a4aa; --line: #3c3c40; --page: #17171a; --box: #212125; }
}
body { margin: 0 auto; padding: 2rem 1rem 4rem; max-width: 60rem; background: var(--page); color: var(--text);
       font: 1rem/1.55 system-ui, sans-serif; }
h1 { margin-bottom: 0.2rem; }
h2 { margin-top: 2.4rem; padding-bottom: 0.2rem; border-bottom: 1px solid var(--line); font-size: 1.2rem; }
.reference, footer { color: var(--soft); }
footer { margin-top: 3rem; font-size: 0.85rem; }
.equations, .table { overflow-x: auto; }
.equations { padding: 0.4rem 1rem; border-radius: 0.4rem; background: var(--box); }
.equations math { margin: 0.5rem 0; text-align: left; }
math { font-size: 1.05em; }
table { border-collapse: collapse; }
mtable { border-collapse: separate; }
th, td { padding: 0.4rem 1rem 0.4rem 0; border-bottom: 1px solid var(--line); text-align: left; vertical-align: top; }
th { color: var(--soft); font-weight: 600; }
"""


def as_html(document: Document) -> str:
    """The document as one HTML page."""
    title = escape(document.title)
    reference = f'<p class="reference">{escape(document.reference)}</p>\n' if document.reference else ""
    body = "\n".join(_section(section, document.symbols) for section in document.sections)
    head = '<meta charset="utf-8">\n<meta name="viewport" content="width=device-width, initial-scale=1">\n'
    head += f"<title>{title}</title>\n<style>{_STYLE}</style>\n"
    footer = f"<footer>Written by {escape(document.made_by)}.</footer>"
    page = f"<main>\n<h1>{title}</h1>\n{reference}{body}\n</main>\n{footer}"
    return f'<!DOCTYPE html>\n<html lang="en">\n<head>\n{head}</head>\n<body>\n{page}\n</body>\n</html>\n'


def _section(section: Section, symbols: Symbols) -> str:
    blocks = "\n".join(_block(block, symbols) for block in section.blocks)
    return f"<section>\n<h2>{escape(section.title)}</h2>\n{blocks}\n</section>"


def _block(block: Block, symbols: Symbols) -> str:
    match block:
        case Paragraph(parts):
            return f"<p>{_line(parts, symbols)}</p>"
        case Equations(items):
            return '<div class="equations">\n' + "\n".join(_equation(e, symbols) for e in items) + "\n</div>"
        case Table():
            return _table(block, symbols)


def _line(parts: Line, symbols: Symbols) -> str:
    return "".join(escape(part) if isinstance(part, str) else formula(typeset(part, symbols)) for part in parts)


def _equation(equation: Equation, symbols: Symbols) -> str:
    left, right = (typeset(side, symbols) for side in (equation.left, equation.right))
    return formula(row(left, Sign("="), right), display=True)


def _table(table: Table, symbols: Symbols) -> str:
    head = "".join(f"<th>{escape(title)}</th>" for title in table.header)
    rows = ["<tr>" + "".join(f"<td>{_line(cell, symbols)}</td>" for cell in cells) + "</tr>" for cells in table.rows]
    body = "\n".join(rows)
    return f'<div class="table"><table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody>\n</table></div>'
