"""ATen's pointwise operations as formulas, by name. What has no entry here, and no decomposition, can't be lifted.

Every rule is a function of formulas; keywords are the operation's own. Reductions and views are not pointwise.
"""

from collections.abc import Callable
from typing import Any

from attngen.dynamo.formulas import constant, op
from attngen.dynamo.nodes import NotLifted
from attngen.ir import Expr, number

Rule = Callable[..., Expr]
ONE, MINUS_ONE, THREE = number(1), number(-1), number(3)
LN2, LN10 = constant(0.6931471805599453), constant(2.302585092994046)


def _add(a: Expr, b: Expr, alpha: Expr = ONE) -> Expr:
    return op("add", a, op("mul", b, alpha))


def _sub(a: Expr, b: Expr, alpha: Expr = ONE) -> Expr:
    return op("sub", a, op("mul", b, alpha))


def _rsub(a: Expr, b: Expr, alpha: Expr = ONE) -> Expr:
    return _sub(b, a, alpha)


def _div(a: Expr, b: Expr, rounding_mode: Any = None) -> Expr:
    if rounding_mode is not None:
        raise NotLifted("a division that rounds")
    return op("div", a, b)


def _clamp(x: Expr, low: Expr | None = None, high: Expr | None = None, **named: Expr | None) -> Expr:
    """On a bound the slope is one, as torch has it; a maximum would share it with the bound."""
    low, high = named.get("min", low), named.get("max", high)
    x = x if low is None else op("where", op("lt", x, low), low, x)
    return x if high is None else op("where", op("gt", x, high), high, x)


def _hardtanh(x: Expr, low: Expr = MINUS_ONE, high: Expr = ONE) -> Expr:
    """On a bound the slope is zero here: neither `where` below passes it on, other than in a clamp."""
    return op("where", op("le", x, low), low, op("where", op("ge", x, high), high, x))


def _hardsigmoid(x: Expr) -> Expr:
    return op("div", _hardtanh(op("add", x, THREE), number(0), number(6)), number(6))


def _hardswish(x: Expr) -> Expr:
    """On the upper bound the slope is one, that of the branch above it."""
    between = op("div", op("mul", x, op("add", x, THREE)), number(6))
    return op("where", op("le", x, op("neg", THREE)), number(0), op("where", op("lt", x, THREE), between, x))


def _softplus(x: Expr, beta: Expr = ONE, threshold: Expr = ONE) -> Expr:
    del threshold  # torch's spelling leaves out what is below 2e-9 there
    return op("div", op("softplus", op("mul", x, beta)), beta)


def _where(condition: Expr, a: Expr, b: Expr) -> Expr:
    return op("where", condition, a, b)


def _masked_fill(x: Expr, condition: Expr, value: Expr) -> Expr:
    return op("where", condition, value, x)


def _addcmul(x: Expr, a: Expr, b: Expr, value: Expr = ONE) -> Expr:
    return op("add", x, op("mul", value, op("mul", a, b)))


def _plain(name: str) -> Rule:
    return lambda *args: op(name, *args)


def _lerp(a: Expr, b: Expr, weight: Expr) -> Expr:
    return op("add", a, op("mul", weight, op("sub", b, a)))


def _nan_to_num(x: Expr, nan: Expr | None = None, *_: Expr | None) -> Expr:
    if nan is not None and nan != number(0):
        raise NotLifted("nan_to_num with another number than 0")
    return x  # the check on random rows finds formulas whose NaN this would have caught


POINTWISE: dict[str, Rule] = {
    **{name: _plain(name) for name in ("exp", "expm1", "log", "log1p", "sqrt", "rsqrt", "abs", "sign", "tanh")},
    **{name: _plain(name) for name in ("sigmoid", "relu", "silu", "erf", "atan", "sin", "cos", "neg", "mul", "pow")},
    "sgn": _plain("sign"),
    "detach": _plain("detach"),
    "maximum": _plain("max"),
    "minimum": _plain("min"),
    "add": _add,
    "sub": _sub,
    "rsub": _rsub,
    "div": _div,
    "clamp": _clamp,
    "clamp_min": _clamp,
    "clamp_max": lambda x, high: _clamp(x, None, high),
    "hardtanh": _hardtanh,
    "hardsigmoid": _hardsigmoid,
    "hardswish": _hardswish,
    "softplus": _softplus,
    "where": _where,
    "masked_fill": _masked_fill,
    "addcmul": _addcmul,
    "nan_to_num": _nan_to_num,
    "lerp": _lerp,
    "reciprocal": lambda x: op("div", number(1), x),
    "square": lambda x: op("pow", x, number(2)),
    "exp2": lambda x: op("exp", op("mul", x, LN2)),
    "log2": lambda x: op("div", op("log", x), LN2),
    "log10": lambda x: op("div", op("log", x), LN10),
    "log_sigmoid_forward": lambda x: op("neg", op("softplus", op("neg", x))),
    "logaddexp": lambda a, b: op("add", b, op("softplus", op("sub", a, b))),
    "sinh": lambda x: op("div", op("sub", op("exp", x), op("exp", op("neg", x))), number(2)),
    "cosh": lambda x: op("div", op("add", op("exp", x), op("exp", op("neg", x))), number(2)),
    "_to_copy": lambda x, **_: x,
    **{name: (lambda x, **_: x) for name in ("clone", "alias", "lift_fresh_copy", "contiguous")},
}

# Their operands are conditions, or become some: a number is true where it isn't zero.
LOGICAL: dict[str, Rule] = {
    "logical_not": _plain("not"),
    "bitwise_not": _plain("not"),
    "logical_and": _plain("and"),
    "bitwise_and": _plain("and"),
    "logical_or": _plain("or"),
    "bitwise_or": _plain("or"),
    "logical_xor": lambda a, b: op("or", op("and", a, op("not", b)), op("and", b, op("not", a))),
}
LOGICAL["bitwise_xor"] = LOGICAL["logical_xor"]
COMPARISONS = ("lt", "le", "gt", "ge", "eq", "ne")
POINTWISE |= {name: _plain(name) for name in COMPARISONS}
