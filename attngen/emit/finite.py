"""Which formulas are numbers in every element that a kernel computes, also where nobody asks for it.

Kernels compute whole tiles: pairs that are masked, rows behind the last, rows that see no key. Scores, inputs,
positions and sizes are numbers there, but what a row was summed up to needn't be one, nor a logarithm of i - j. It
matters where elements share a reciprocal, as one that isn't a number spoils the others. An answer of no may be wrong;
numbers that float32 can't hold are left out of account.
"""

from attngen import ir
from attngen.ir import Apply, Expr, Name, Number

_POSITIVE = frozenset({"d", "n", "n_q", "n_k", "LOG2E"})
_EVERYWHERE = frozenset({
    "abs", "add", "atan", "cos", "erf", "logistic2", "logistic2_shared", "max", "min", "mul", "neg", "relu", "sign",
    "sin", "softplus", "square", "sub", "tanh",
})  # fmt: skip
_OF_POSITIVE = frozenset({"log", "log2", "sqrt"})


def is_number(expr: Expr, inputs: frozenset[str]) -> bool:
    """Whether a lowered formula of the inputs, and of what every formula may use, is always a number."""
    match expr:
        case Number():
            return True
        case Name(name):
            return name in inputs or name in ir.BUILTINS or name in _POSITIVE
        case Apply("where", (_, *cases)):
            return all(is_number(case, inputs) for case in cases)
        case Apply("div", (above, below)):
            return is_number(above, inputs) and _is_positive(below, inputs)
        case Apply(op, args) if op in _OF_POSITIVE:
            return all(_is_positive(arg, inputs) for arg in args)
        case Apply("log1p", (x,)):
            return is_number(x, inputs) and _is_nonnegative(x)
        case Apply(op, args) if op in _EVERYWHERE:
            return all(is_number(arg, inputs) for arg in args)
    return False


def _is_positive(expr: Expr, inputs: frozenset[str]) -> bool:
    match expr:
        case Number(value):
            return value > 0
        case Name(name):
            return name in _POSITIVE
        case Apply("add", args):
            numbers = all(is_number(a, inputs) and _is_nonnegative(a) for a in args)
            return numbers and any(_is_positive(a, inputs) for a in args)
        case Apply("mul" | "div" | "sqrt" | "square", args):
            return all(_is_positive(a, inputs) for a in args)
    return False


def _is_nonnegative(expr: Expr) -> bool:
    match expr:
        case Number(value):
            return value >= 0
        case Name(name):
            return name in _POSITIVE
        case Apply("abs" | "relu" | "softplus" | "square" | "sqrt" | "logistic2" | "logistic2_shared", _):
            return True
        case Apply("add" | "mul" | "div", args):
            return all(map(_is_nonnegative, args))
    return False
