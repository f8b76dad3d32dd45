"""Constants: an operation on numbers alone becomes a number, so that no kernel computes sqrt(2).

Whatever would not be finite is left as it is; the languages then say what they make of it.
"""

import math
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
}  # fmt: skip


def folded(expr: Expr) -> Expr:
    """`expr` as a number if its operands are numbers."""
    match expr:
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
