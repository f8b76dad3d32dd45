"""Divisors: which sums must be kept from zero, because formulas divide by them.

A sum of positive terms isn't zero, but in floating point it may underflow. A sum that only divides has no other use of
its zero: 0 / 0 is then 0. A statistic whose value a formula uses otherwise, as in a numerator or a condition, is left
alone. Knows nothing of how small a divisor may be.
"""

from collections.abc import Iterator

from attngen.analysis import symbolic as sy
from attngen.analysis.functions import ZERO, Sym
from attngen.analysis.passes import Staged


def divisors(staged: Staged) -> frozenset[Sym]:
    """The symbols of such sums."""
    formulas = [staged.weights, *(s.body for s in staged.statistics)]
    uses = [use for formula in formulas for use in _uses(sy.attach(formula))]
    sums = [s.symbol for s in staged.statistics if s.kind == "sum"]
    return frozenset(s for s in sums if _is_divisor(s, [exponent for base, exponent in uses if base == s]))


def _is_divisor(statistic: Sym, exponents: list[Sym]) -> bool:
    if statistic.is_positive:  # a numerator would be too large
        return not all(e.is_nonnegative for e in exponents) and not any(e.is_positive for e in exponents)
    return bool(exponents) and all(exponent.could_extract_minus_sign() for exponent in exponents)


def _uses(expr: Sym) -> Iterator[tuple[Sym, Sym]]:
    """Each occurrence of a symbol, with its exponent as a factor, which is zero where it isn't one."""
    factors = sy.Mul.make_args(expr)
    for factor in factors:
        base, exponent = factor.as_base_exp()
        if base.is_Symbol:
            yield base, exponent if len(factors) > 1 or exponent != 1 else ZERO
            yield from _uses(exponent)
        else:
            for child in factor.args:
                yield from _uses(child)
