"""How large a formula is once its lets are replaced by their formulas, counted before that is done.

Lets that use each other twice double with every line, so the count must not need the tree.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from attngen.ir import Expr, Name, children
from attngen.spec import limits


@dataclass(frozen=True, slots=True)
class Size:
    nodes: int
    depth: int

    @property
    def too_large(self) -> bool:
        return self.nodes > limits.INLINED_NODES or self.depth > limits.INLINED_NESTING


def measure(expr: Expr, lets: Mapping[str, Size]) -> Size:
    """The size of a formula in which the names of `lets` stand for formulas of those sizes."""
    if isinstance(expr, Name):
        return lets.get(expr.id, Size(1, 1))
    parts = [measure(child, lets) for child in children(expr)]
    return Size(1 + sum(part.nodes for part in parts), 1 + max((part.depth for part in parts), default=0))
