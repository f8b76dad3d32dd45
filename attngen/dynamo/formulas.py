"""Formulas as they come up in lifting: numbers are folded as they appear, and what a number decides is decided.

Beyond that nothing is simplified; algebra is the analysis' business.
"""

import math
from collections.abc import Callable
from fractions import Fraction

from attngen import ir
from attngen.dynamo.nodes import NotLifted
from attngen.ir import Apply, Expr, Name, Number, Reduce, apply, number

LARGE = Fraction(10) ** 30  # in infinity's place: exp of its negative is zero, and no sum with a score overflows
LARGEST = LARGE * 9 / 10  # in the place of finite numbers beyond it, such as the least number of a type
FINITE = -Fraction(3.4028234663852886e38)  # float32's least number: below it there is only -infinity
LOST = -(Fraction(10) ** 8)  # a score that is added to a number below this one is lost in float32
QK = Name("qk")
_FOLDED: dict[str, Callable[[Fraction, Fraction], Fraction]] = {
    "add": lambda a, b: a + b,
    "sub": lambda a, b: a - b,
    "mul": lambda a, b: a * b,
    "min": min,
    "max": max,
}
_DECIDED: dict[str, Callable[[Fraction, Fraction], bool]] = {
    "lt": lambda a, b: a < b,
    "le": lambda a, b: a <= b,
    "gt": lambda a, b: a > b,
    "ge": lambda a, b: a >= b,
    "eq": lambda a, b: a == b,
    "ne": lambda a, b: a != b,
}
TRUE, FALSE = apply("eq", number(0), number(0)), apply("ne", number(0), number(0))


def constant(value: float | int | bool) -> Number:
    """A number of the model, by the shortest decimals that mean it; infinities become `LARGE`."""
    if isinstance(value, float) and math.isnan(value):
        raise NotLifted("a NaN among the constants")
    if abs(value) > LARGEST:
        size = LARGE if math.isinf(value) else LARGEST
        return Number(size if value > 0 else -size)
    return Number(Fraction(repr(float(value))) if isinstance(value, float) else Fraction(int(value)))


def op(name: str, *args: Expr) -> Expr:
    """The operation on these operands, without those that change nothing."""
    match name, args:
        case _, (Number(a), Number(b)) if name in _FOLDED:
            return Number(_FOLDED[name](a, b))
        case _, (Apply("where", (condition, Number() as x, Number() as y)), Number() as z) if name in _FOLDED:
            return op("where", condition, op(name, x, z), op(name, y, z))
        case _, (Number() as z, Apply("where", (condition, Number() as x, Number() as y))) if name in _FOLDED:
            return op("where", condition, op(name, z, x), op(name, z, y))
        case (("add" | "sub"), (x, Number(value))) if value == 0:
            return x
        case "add", (Number(value), x) if value == 0:
            return x
        case (("mul" | "div" | "pow"), (x, Number(value))) if value == 1:
            return x
        case (("mul" | "div"), (Apply("neg", (x,)), Number() as y)):
            return op("neg", op(name, x, y))
        case (("mul" | "div"), (x, Number(value))) if value < 0:
            return op("neg", op(name, x, Number(-value)))
        case "mul", (Number() as x, y):
            return op("mul", y, x)
        case "neg", (Number(value),):
            return Number(-value)
        case "neg", (Apply("neg", (x,)),):
            return x
        case _, (Number(a), Number(b)) if name in _DECIDED:
            return TRUE if _DECIDED[name](a, b) else FALSE
        case _, (Apply("where", (condition, Number() as x, Number() as y)), Number() as z) if name in _DECIDED:
            return _chosen(condition, op(name, x, z), op(name, y, z))
        case (("where" | "and" | "or" | "not"), _):
            return _logical(name, args)
    return Apply(name, args)


def _chosen(condition: Expr, a: Expr, b: Expr) -> Expr:
    """The condition that is `a` where another one holds, and `b` elsewhere; both are decided."""
    if a == b:
        return a
    return condition if a == TRUE else op("not", condition)


def _logical(name: str, args: tuple[Expr, ...]) -> Expr:
    match name, args:
        case "where", (condition, a, b) if condition in (TRUE, FALSE) or a == b:
            return b if condition == FALSE else a
        case "where", (Apply("not", (condition,)), a, b):
            return op("where", condition, b, a)
        case "not", (Apply("not", (x,)),):
            return x
        case "not", (condition,) if condition in (TRUE, FALSE):
            return FALSE if condition == TRUE else TRUE
        case (("and" | "or"), (a, b)) if a in (TRUE, FALSE) or b in (TRUE, FALSE):
            decided, other = (a, b) if a in (TRUE, FALSE) else (b, a)
            return other if (decided == TRUE) == (name == "and") else decided
    return Apply(name, args)


def rebuilt(expr: Expr, values: dict[str, Expr]) -> Expr:
    """The formula with names replaced, folded anew."""
    match expr:
        case Name(id):
            return values.get(id, expr)
        case Apply(name, args):
            return op(name, *(rebuilt(arg, values) for arg in args))
        case Reduce(kind, body) if body is not None:
            return Reduce(kind, rebuilt(body, values))
    return expr


def split_scale(expr: Expr) -> tuple[Expr, float]:
    """The formula in `s`, and the scale that `s` has: the number that stands beside the product wherever it occurs."""
    factors = set(_factors(expr))
    if len(factors) != 1 or None in factors:
        return ir.substitute(expr, {"qk": Name("s")}), 1.0
    return _scaled(expr), float(next(factor for factor in factors if factor is not None))


def _factor(expr: Expr) -> Fraction | None:
    match expr:
        case Apply("mul", (Name("qk"), Number(value)) | (Number(value), Name("qk"))) if value != 0:
            return value
        case Apply("div", (Name("qk"), Number(value))) if value != 0:
            return 1 / value
    return None


def _factors(expr: Expr) -> list[Fraction | None]:
    factor = _factor(expr)
    if factor is not None:
        return [factor]
    if expr == QK:
        return [None]
    return [factor for child in ir.children(expr) for factor in _factors(child)]


def _scaled(expr: Expr) -> Expr:
    if _factor(expr) is not None:
        return Name("s")
    return ir.with_children(expr, tuple(_scaled(child) for child in ir.children(expr)))
