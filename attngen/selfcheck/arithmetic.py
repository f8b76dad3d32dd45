"""The operations of formulas on Python floats, as IEEE arithmetic and torch have them: nothing here ever raises.

At kinks and outside of a function's domain the conventions are torch's: sign(0) = 0, a power of a negative number with
an exponent that is not whole is NaN, min and max hand NaN on. Conditions are 1.0 and 0.0.
"""

import math
from collections.abc import Callable, Sequence

INF, NAN = math.inf, math.nan
_LEAST_DIVISOR = 2.0**-1000
_ATTAINED = 1e-12  # how close, relatively, a key must come to an extremum to count as attaining it


def _guarded(function: Callable[[float], float]) -> Callable[[float], float]:
    def guarded(x: float) -> float:
        try:
            return function(x)
        except OverflowError:
            return INF
        except ValueError:
            return NAN

    return guarded


def divide(x: float, y: float) -> float:
    if y != 0:
        return x / y
    return NAN if x == 0 or x != x else math.copysign(INF, x) * math.copysign(1.0, y)


def power(x: float, y: float) -> float:
    try:
        return math.pow(x, y)
    except OverflowError:
        return -INF if x < 0 and y % 2 == 1 else INF
    except ValueError:
        return INF if x == 0 else NAN


def logarithm(x: float) -> float:
    return math.log(x) if x > 0 else (-INF if x == 0 else NAN)


def log1p(x: float) -> float:
    return math.log1p(x) if x > -1 else (-INF if x == -1 else NAN)


def sign(x: float) -> float:
    return x if x != x else float((x > 0) - (x < 0))


def sigmoid(x: float) -> float:
    if x >= 0:
        return 1 / (1 + math.exp(-x))
    grown = math.exp(x)
    return grown / (1 + grown)


def softplus(x: float) -> float:
    return x if x == INF else max(x, 0.0) + math.log1p(math.exp(-abs(x)))


def larger(x: float, y: float) -> float:
    return y if y > x or y != y else x


def smaller(x: float, y: float) -> float:
    return y if y < x or y != y else x


def _relu(x: float) -> float:
    return x if x > 0 or x != x else 0.0


def _clip(x: float, low: float, high: float) -> float:
    return smaller(larger(x, low), high)


def _total(*terms: float) -> float:
    result = terms[0]
    for term in terms[1:]:
        result += term
    return result


def _nonzero(x: float) -> float:
    return _LEAST_DIVISOR if abs(x) < _LEAST_DIVISOR else x


def _attains(x: float, extremum: float, unit: float) -> float:
    return float(abs(x - extremum) <= _ATTAINED * (abs(extremum) + unit))


exp = _guarded(math.exp)
_sqrt = _guarded(math.sqrt)

OPERATIONS: dict[str, Callable[..., float]] = {
    "add": _total, "sub": lambda x, y: x - y, "mul": lambda *xs: math.prod(xs), "div": divide, "pow": power,
    "neg": lambda x: -x, "exp": exp, "expm1": _guarded(math.expm1), "log": logarithm, "log1p": log1p, "sqrt": _sqrt,
    "rsqrt": lambda x: divide(1.0, _sqrt(x)), "abs": abs, "sign": sign, "tanh": math.tanh, "sigmoid": sigmoid,
    "softplus": softplus, "relu": _relu, "silu": lambda x: x * sigmoid(x), "erf": math.erf, "atan": math.atan,
    "sin": _guarded(math.sin), "cos": _guarded(math.cos), "min": smaller, "max": larger, "clip": _clip,
    "where": lambda condition, x, y: x if condition else y, "detach": lambda x: x, "attains": _attains,
    "nonzero": _nonzero,
    "lt": lambda x, y: float(x < y), "le": lambda x, y: float(x <= y), "gt": lambda x, y: float(x > y),
    "ge": lambda x, y: float(x >= y), "eq": lambda x, y: float(x == y), "ne": lambda x, y: float(x != y),
    "and": lambda *xs: float(all(xs)), "or": lambda *xs: float(any(xs)), "not": lambda x: float(not x),
}  # fmt: skip
EXACT = frozenset({  # operations that round nothing
    "neg", "abs", "sign", "relu", "min", "max", "clip", "where", "detach", "attains", "nonzero", "lt", "le", "gt", "ge",
    "eq", "ne", "and", "or", "not", "amax", "amin", "count",
})  # fmt: skip


def _extremum(choose: Callable[[float, float], float]) -> Callable[[Sequence[float]], float]:
    def extremum(values: Sequence[float]) -> float:
        result = values[0]
        for value in values[1:]:
            result = choose(result, value)
        return result

    return extremum


REDUCTIONS: dict[str, Callable[[Sequence[float]], float]] = {
    "sum": lambda values: sum(values),
    "mean": lambda values: divide(sum(values), float(len(values))),
    "amax": _extremum(larger),
    "amin": _extremum(smaller),
    "csum": lambda values: sum(values),
}
