"""Constants: an operation on numbers alone becomes a number, so that no kernel computes sqrt(2); and a condition on
numbers alone is decided, since torch takes none that is no tensor.

Whatever would not be finite is left as it is; the languages then say what they make of it.
"""

import math
import operator
from collections.abc import Callable
from fractions import Fraction

from attngen.ir import Apply, Expr, Name, Number

_UNARY: dict[str, Callable[[float], float]] = {
    "exp": math.exp, "expm1": math.expm1, "log": math.log, "log1p": math.log1p, "sqrt": math.sqrt, "tanh": math.tanh,
    "erf": math.erf, "atan": math.atan, "sin": math.sin, "cos": math.cos, "sigmoid": lambda x: 1 / (1 + math.exp(-x)),
    "softplus": lambda x: max(x, 0.0) + math.log1p(math.exp(-abs(x))),
}  # fmt: skip
_EXACT: dict[str, Callable[..., Fraction]] = {
    "add": lambda *xs: sum(xs, Fraction(0)), "sub": lambda a, b: a - b, "mul": lambda *xs: math.prod(xs),
    "div": lambda a, b: a / b, "neg": lambda a: -a, "abs": abs, "min": min, "max": max,
    "relu": lambda x: max(x, Fraction(0)), "sign": lambda x: Fraction((x > 0) - (x < 0)),
    "clip": lambda x, low, high: min(max(x, low), high),
}  # fmt: skip
_COMPARED: dict[str, Callable[[Fraction, Fraction], bool]] = {
    "lt": operator.lt, "le": operator.le, "gt": operator.gt, "ge": operator.ge, "eq": operator.eq, "ne": operator.ne,
}  # fmt: skip


def folded(expr: Expr) -> Expr:
    """`expr` as a number if its operands are numbers, without the conditions in it that are decided."""
    match expr:
        case Apply("where", (condition, a, b)) if (truth := _truth(condition)) is not None:
            return a if truth else b
        case Apply("and" | "or" as op, args):
            left = tuple(a for a in args if _truth(a) is not (op == "and")) or args[:1]
            return Apply(op, left) if len(left) > 1 else left[0]
        case Name("pi"):
            return Number(Fraction(math.pi))
        case Apply(op, args) if args and all(isinstance(a, Number) for a in args):
            values = [a.value for a in args if isinstance(a, Number)]
            try:
                return Number(_value(op, values))
            except (ArithmeticError, ValueError, KeyError, TypeError):
                return expr
    return expr


def _value(op: str, values: list[Fraction]) -> Fraction:
    if op in _EXACT:
        return Fraction(_EXACT[op](*values))
    if op == "pow":
        return Fraction(float(values[0]) ** float(values[1]))
    return Fraction(_UNARY[op](float(values[0])))


def _truth(condition: Expr) -> bool | None:
    """Whether a condition holds; None if that isn't decided by numbers."""
    match condition:
        case Apply(op, (Number(a), Number(b))) if op in _COMPARED:
            return _COMPARED[op](a, b)
        case Apply("not", (inner,)):
            truth = _truth(inner)
            return None if truth is None else not truth
        case Apply("and" | "or" as op, args):
            truths = {_truth(a) for a in args}
            decides = op == "or"
            return decides if decides in truths else None if None in truths else not decides
    return None
