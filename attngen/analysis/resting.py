"""Whether the last pass may let its pivots rest: `Forward` -> the sums that tell where they were no good. Pure algebra:
the bounds of such a sum, which stand in the templates, and the second walk where it leaves them are not decided here.

A sum relative to a pivot that lies between 2**-60 and 2**60 is as exact as one relative to the maximum, and what has no
higher power of the same exponentials is as well. Powers of such a sum may leave float32's range from the third on.
"""

import math
from collections.abc import Collection

from attngen import ir
from attngen.analysis.result import Forward
from attngen.ir import Apply, Expr, Name, Number

MOST_POWERS = 2


def telling(forward: Forward) -> tuple[str, ...]:
    """Sums of the last pass by name, at least one relative to each pivot; none if pivots have to be the maxima."""
    last = forward.passes[-1]
    sums = [carry for carry in last.carries if carry.pivot is not None]
    names = tuple(carry.name for carry in sums)
    told = {pivot.name for pivot in last.pivots} == {carry.pivot for carry in sums}
    relative = [one for one in forward.accumulators if one.pivot is not None]
    bounded = all(any(c.pivot == one.pivot and c.power >= one.power for c in sums) for one in relative)
    moderate = all(_powers(factor, names) <= MOST_POWERS for factor in forward.factors)
    return names if told and bounded and moderate else ()


def _powers(formula: Expr, sums: Collection[str]) -> float:
    """The highest power of the sums that evaluating the formula may meet; divisors count as factors do."""
    below = [_powers(child, sums) for child in ir.children(formula)]
    match formula:
        case Name(name):
            return float(name in sums)
        case Apply("mul" | "div"):
            return sum(below)
        case Apply("sqrt"):
            return below[0] / 2
        case Apply("pow", (_, Number(value))):
            return below[0] * abs(float(value))
        case Apply("pow" | "exp"):
            return math.inf if any(below) else 0.0
        case _:
            return max(below, default=0.0)
