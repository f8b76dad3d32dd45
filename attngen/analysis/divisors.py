"""Divisors: which sums must be kept from zero, because formulas divide by them.

A sum of positive terms isn't zero, but in floating point it may underflow. One that only divides has no other use of
its zero: 0 / 0 is then 0. A statistic whose value a formula uses otherwise, as in a condition, is left alone. Knows
nothing of how small a divisor may be.
"""

from collections.abc import Iterator

from attngen.analysis import symbolic as sy
from attngen.analysis.functions import Sym
from attngen.analysis.passes import Staged


def divisors(staged: Staged) -> frozenset[Sym]:
    """The symbols of such sums."""
    formulas = [staged.weights, *(s.body for s in staged.statistics)]
    uses = [use for formula in formulas for use in _uses(sy.attach(formula))]
    sums = [s.symbol for s in staged.statistics if s.kind == "sum"]
    return frozenset(s for s in sums if _is_divisor(s, [exponent for base, exponent in uses if base == s]))


def _is_divisor(statistic: Sym, exponents: list[Sym]) -> bool:
    dividing = [exponent.could_extract_minus_sign() for exponent in exponents]
    return any(dividing) and (all(dividing) or bool(statistic.is_positive))


def _uses(expr: Sym) -> Iterator[tuple[Sym, Sym]]:
    """Each occurrence of a symbol, with its exponent."""
    base, exponent = expr.as_base_exp()
    if base.is_Symbol:
        yield base, exponent
    for child in exponent.args if base.is_Symbol else expr.args:
        yield from _uses(child)
