"""A stage's result as text: dataclasses as indented fields, formulas in the language's own notation."""

import dataclasses
from fractions import Fraction
from typing import Any

from attngen import ir, notation

STAGES = ("spec", "ir", "analysis", "plan", "source")


def stage_as_text(node: Any) -> str:
    """The text of a normalizer, an analysis or a plan, a field to a line."""
    return "\n".join(_lines(node)) + "\n"


def _lines(node: Any) -> list[str]:
    inline = _inline(node)
    if inline is not None:
        return [inline]
    if isinstance(node, tuple):
        return [line for item in node for line in _bullet(_lines(item))]
    lines = [type(node).__name__]
    for field in dataclasses.fields(node):
        value = _lines(getattr(node, field.name))
        lines += (
            [f"  {field.name}: {value[0]}"] if len(value) == 1 else [f"  {field.name}:", *(f"    {v}" for v in value)]
        )
    return lines


def _bullet(lines: list[str]) -> list[str]:
    return [f"- {lines[0]}", *(f"  {line}" for line in lines[1:])]


def _inline(node: Any) -> str | None:
    """The text of what fits a line, or None."""
    if isinstance(node, ir.Number | ir.Name | ir.Apply | ir.Reduce | ir.Root):
        return notation.text(node)
    if isinstance(node, tuple):
        parts = [_inline(item) for item in node]
        short = all(part is not None for part in parts) and not any(isinstance(item, tuple) for item in node)
        return f"({', '.join(map(str, parts))})" if short else None
    if dataclasses.is_dataclass(node):
        return None
    return str(node) if node is None or isinstance(node, bool | int | Fraction) else repr(node)
