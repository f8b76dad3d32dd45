"""The document as a LaTeX article, complete with preamble; needs amsmath and packages of every distribution."""

from attngen.explain import boxes as bx
from attngen.explain.boxes import Box
from attngen.explain.document import Block, Document, Equation, Equations, Line, Paragraph, Section, Table
from attngen.explain.layout import typeset
from attngen.explain.symbols import Symbols

_PREAMBLE = r"""\documentclass{article}
\usepackage{iftex}
\ifPDFTeX\usepackage[T1]{fontenc}\usepackage[utf8]{inputenc}\fi
\usepackage[a4paper, margin=2.2cm]{geometry}
\usepackage{amsmath, amssymb, array, booktabs}
\allowdisplaybreaks
\setlength{\parindent}{0pt}
\setlength{\parskip}{6pt}
\renewcommand{\arraystretch}{1.5}
"""
_ESCAPES = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "#": r"\#", "_": r"\_", "%": r"\%",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "|": r"\textbar{}", '"': r"\textquotedbl{}",
}  # fmt: skip
_COMMANDS = {
    "α": "alpha", "β": "beta", "γ": "gamma", "δ": "delta", "ε": "varepsilon", "ζ": "zeta", "η": "eta", "θ": "theta",
    "ι": "iota", "κ": "kappa", "λ": "lambda", "μ": "mu", "ν": "nu", "ξ": "xi", "π": "pi", "ρ": "rho", "σ": "sigma",
    "τ": "tau", "υ": "upsilon", "φ": "varphi", "χ": "chi", "ψ": "psi", "ω": "omega", "ℓ": "ell", "∞": "infty",
    "⊤": "top", "∇": "nabla", "∑": "sum", "max": "max", "min": "min", "≤": "le", "≥": "ge", "≠": "ne",
    "≐": "doteq", "∈": "in", "·": "cdot", "∧": "wedge", "∨": "vee", "¬": "neg", " ": ",", "′": "prime",
}  # fmt: skip
_FUNCTIONS = frozenset({"exp", "log", "max", "min", "tanh", "sin", "cos", "arctan"})
_SIGNS = {"−": "-", "+": "+", "<": "<", ">": ">", "=": "=", ",": ","}
_LONG = 45  # letters and signs that about fill a line of the page
_WIDTHS = {2: (0.3, 0.6), 3: (0.2, 0.25, 0.45), 4: (0.08, 0.16, 0.34, 0.32), 5: (0.16, 0.08, 0.12, 0.3, 0.2)}


def as_latex(document: Document) -> str:
    title = f"\\title{{{escape(document.title)}}}\n\\author{{{escape(document.reference)}}}\n\\date{{}}\n"
    body = "\n".join(_section(section, document.symbols) for section in document.sections)
    made_by = f"% Written by {document.made_by}. Compile with any LaTeX.\n"
    return f"{made_by}{_PREAMBLE}{title}\n\\begin{{document}}\n\\maketitle\n\n{body}\n\\end{{document}}\n"


def escape(text: str) -> str:
    return "".join(_ESCAPES.get(character, character) for character in text)


def _section(section: Section, symbols: Symbols) -> str:
    blocks = "\n\n".join(_block(block, symbols) for block in section.blocks)
    return f"\\section*{{{escape(section.title)}}}\n{blocks}\n"


def _block(block: Block, symbols: Symbols) -> str:
    match block:
        case Paragraph(parts):
            return _line(parts, symbols)
        case Equations(items):
            lines = " \\\\\n".join(_equation(equation, symbols) for equation in items)
            return f"\\begin{{align*}}\n{lines}\n\\end{{align*}}"
        case Table():
            return _table(block, symbols)


def _line(parts: Line, symbols: Symbols) -> str:
    return "".join(escape(part) if isinstance(part, str) else f"${latex(typeset(part, symbols))}$" for part in parts)


def _equation(equation: Equation, symbols: Symbols) -> str:
    left, right = (typeset(side, symbols) for side in (equation.left, equation.right))
    return f"{latex(left)} &= {_broken(right)}"


def _broken(box: Box) -> str:
    """A long sum continues on lines of its own."""
    if not isinstance(box, bx.Row) or _width(box) <= _LONG:
        return latex(box)
    parts = []
    for position, item in enumerate(box.items):
        breaks = position and isinstance(item, bx.Sign) and item.text in "+−"
        parts.append(f"\\\\\n&\\quad {latex(item)}" if breaks else latex(item))
    return " ".join(parts)


def _width(box: Box) -> int:
    """About how many characters a formula is wide."""
    match box:
        case bx.Row(items):
            return sum(map(_width, items))
        case bx.Fraction(over, under):
            return max(_width(over), _width(under))
        case bx.Root(body) | bx.Fence(_, body, _):
            return 2 + _width(body)
        case bx.Script(base, below, above):
            return _width(base) + max(_width(part) for part in (below, above) if part) // 2
        case bx.Choice(condition, value, otherwise):
            return 6 + _width(condition) + max(_width(value), _width(otherwise))
        case bx.Letter(text) | bx.Digits(text) | bx.Function(text):
            return len(text)
    return 1


def _table(table: Table, symbols: Symbols) -> str:
    widths = _WIDTHS[len(table.header)]
    columns = "".join(f">{{\\raggedright\\arraybackslash}}p{{{width}\\linewidth}}" for width in widths)
    head = " & ".join(escape(title) for title in table.header)
    rows = [" & ".join(_line(cell, symbols) for cell in cells) + r" \\" for cells in table.rows]
    lines = [f"\\begin{{tabular}}{{@{{}}{columns}@{{}}}}", r"\toprule", rf"{head} \\", r"\midrule", *rows]
    return "{\\small\n" + "\n".join([*lines, r"\bottomrule", r"\end{tabular}", "}"])


def latex(box: Box) -> str:
    """A formula in LaTeX's mathematics."""
    match box:
        case bx.Letter(text, upright):
            return f"\\{_COMMANDS[text]}" if text in _COMMANDS else f"\\mathrm{{{escape(text)}}}" if upright else text
        case bx.Digits(text):
            return text
        case bx.Sign(text):
            return _SIGNS.get(text) or f"\\{_COMMANDS[text]}"
        case bx.Function(name):
            return f"\\{name}" if name in _FUNCTIONS else f"\\operatorname{{{escape(name)}}}"
        case bx.Row(items):
            return " ".join(map(latex, items))
        case bx.Fraction(over, under):
            return f"\\frac{{{latex(over)}}}{{{latex(under)}}}"
        case bx.Root(body):
            return f"\\sqrt{{{latex(body)}}}"
        case bx.Script(base, below, above):
            return f"{{{latex(base)}}}{_script('_', below)}{_script('^', above)}"
        case bx.Fence(left, body, right):
            return f"\\left{left} {latex(body)} \\right{right}"
        case bx.Big(operator, index):
            return f"\\{_COMMANDS[operator]}_{{{latex(index)}}}"
        case bx.Choice(condition, value, otherwise):
            cases = rf"{latex(value)} & \text{{if }} {latex(condition)} \\ {latex(otherwise)} & \text{{otherwise}}"
            return rf"\begin{{cases}} {cases} \end{{cases}}"


def _script(mark: str, box: Box | None) -> str:
    return "" if box is None else f"{mark}{{{latex(box)}}}"
