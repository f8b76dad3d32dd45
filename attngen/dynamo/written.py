"""A lifted formula as a spec that people can read: what it repeats gets a name, as a `let`. Nothing is simplified."""

import hashlib
from collections import Counter

from attngen import ir, notation
from attngen.ir import Apply, Expr, Input, Name, Reduce

_LONG, _MOST_LETS = 36, 6  # characters from which on a repeated part gets a name


def spec_text(inputs: tuple[Input, ...], weights: Expr) -> str:
    """A spec that `attngen build` takes. Equal formulas get equal texts, and so one place in the cache."""
    lines = ["inputs:"] if inputs else []
    for entry in inputs:
        grad = "" if entry.grad else ", grad: false"
        lines.append(f"  {entry.name}: {{shape: [{', '.join(entry.axes)}]{grad}}}")
    lets, weights = _with_lets(weights)
    lines += ["let:"] if lets else []
    lines += [f"  {name}: {notation.text(expr)}" for name, expr in lets]
    body = "\n".join([*lines, f"weights: {notation.text(weights)}"])
    name = f"lifted_{hashlib.sha256(body.encode()).hexdigest()[:8]}"
    return f"name: {name}\ntitle: Attention lifted from a model by torch.compile\n{body}\n"


def _with_lets(weights: Expr) -> tuple[list[tuple[str, Expr]], Expr]:
    """The longest repeated part gets a name, then the longest of what is left, and so on."""
    lets: list[tuple[str, Expr]] = []
    for count in range(_MOST_LETS):
        part = _longest_repeated([weights, *(expr for _, expr in lets)])
        if part is None:
            break
        name = Name(f"t{count}")
        weights = _replaced(weights, part, name)
        lets = [(name.id, part), *((other, _replaced(expr, part, name)) for other, expr in lets)]
    return lets, weights


def _longest_repeated(exprs: list[Expr]) -> Expr | None:
    found = Counter(part for expr in exprs for part in ir.walk(expr) if isinstance(part, Apply | Reduce))
    texts = {p: notation.text(p) for p, n in found.items() if n > 1 and getattr(p, "op", "") not in ir.CONDITIONS}
    longest = max(texts, key=lambda part: len(texts[part]), default=None)
    return longest if longest is not None and len(texts[longest]) >= _LONG else None


def _replaced(expr: Expr, part: Expr, name: Name) -> Expr:
    if expr == part:
        return name
    return ir.with_children(expr, tuple(_replaced(child, part, name) for child in ir.children(expr)))
