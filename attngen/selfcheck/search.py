"""The search for a root, as the kernels make it: Halley's method from the lower bound on, inside a shrinking bracket.

A step that leaves the bracket, or follows one that didn't halve the residual, goes to the bracket's middle instead.
"""

import math
from collections.abc import Callable

_TRIALS = 200
_TOLERANCE = 2.0**-51  # relative to the larger bound

Trial = Callable[[float], tuple[float, float, float]]


def zero_between(low: float, high: float, direction: int, trial: Trial) -> float:
    """Where the residual is zero; `trial` gives it and its first two derivatives. Direction 0: not known."""
    x, last, rising = low, math.inf, direction < 0 if direction else None
    tolerance = _TOLERANCE * max(abs(low), abs(high))
    for _ in range(_TRIALS):
        residual, slope, curvature = trial(x)
        if rising is None:
            rising = slope > 0 or (slope == 0 and residual < 0)
        if (residual >= 0) != rising:
            low = x
        else:
            high = x
        newton = -residual / slope if slope else math.copysign(math.inf, -residual)
        if abs(newton) <= tolerance or high - low <= tolerance:  # a step that is no number settles nothing
            break
        step = x + halley(newton, residual / slope * (curvature / slope) / 2 if slope else math.nan)
        halved = abs(residual) <= 0.5 * last
        x = step if low < step < high and halved else low + 0.5 * (high - low)
        last = abs(residual)
    return x


def halley(newton: float, bend: float) -> float:
    """Newton's step, longer or shorter by what the residual's curvature says, at most four times."""
    return newton / min(max(1 - bend, 0.25), 4.0)
