"""The search for a root, as the kernels make it: Halley's method inside a shrinking bracket.

It begins at the lower bound. If it isn't known whether the residual rises or falls, both bounds are tried, and without
a change of sign between them the one nearer to zero is the result. A step that leaves the bracket, that follows one
which didn't halve the residual, or that is more than two thirds of the one before, gives way to the bracket's middle;
one that leaves it by the upper bound goes there first.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

_TRIALS = 200
_EPSILON = 2.0**-52
_SHORTER = 0.667  # what a step may be of the one before
_STEP, _ROUNDING = 2, 8  # in units of the last place: of the value, and of the terms of the residual


@dataclass(frozen=True, slots=True)
class Trial:
    """The residual and its first two derivatives at one value; `magnitude` is that of the terms it is the sum of.

    `size`: what two residuals are compared by; their own values, unless those are relative to something.
    """

    residual: float
    slope: float
    curvature: float = 0.0
    magnitude: float = 0.0
    size: float | None = None

    @property
    def distance(self) -> float:
        """From zero."""
        return abs(self.residual if self.size is None else self.size)

    @property
    def newton(self) -> float:
        """Newton's step; NaN where there is no slope to follow."""
        return -self.residual / self.slope if 0 < abs(self.slope) < math.inf else math.nan

    @property
    def bend(self) -> float:
        """By how much the slope changes over half of Newton's step, relative to it: below one, steps converge."""
        bend = 0.5 * self.newton * (self.curvature / self.slope) if self.slope else 0.0
        return bend if bend == bend else 0.0

    @property
    def step(self) -> float:
        """Halley's step: Newton's, at most four times longer or shorter."""
        return self.newton / min(max(1 + self.bend, 0.25), 4.0)

    def is_zero(self, low: float, x: float, high: float) -> bool:
        """At x in its bracket. What is all rounding says nothing where it is flat: a step would leave the bracket."""
        rounding = _ROUNDING * _EPSILON * self.magnitude
        return self.residual == 0 or (abs(self.residual) <= rounding < math.inf and low <= x + self.newton <= high)


Residual = Callable[[float], Trial]


def zero_between(bound: float, other: float, direction: int, residual: Residual) -> float:
    """Where the residual is zero. Direction 1: it falls as the value grows, -1: it rises, 0: not known."""
    low, high = min(bound, other), max(bound, other)
    tried = direction == 0
    if direction == 0:
        at_high, at_low = residual(high), residual(low)
        if at_high.is_zero(low, high, high):
            return high
        if at_low.is_zero(low, low, high):
            return low
        if at_high.residual != at_high.residual or at_low.residual != at_low.residual:
            return math.nan
        if (at_high.residual > 0) == (at_low.residual > 0):
            return low if at_low.distance <= at_high.distance else high
        direction = 1 if at_low.residual > 0 else -1
    return _searched((low, high), direction, tried, residual)


def _searched(bracket: tuple[float, float], direction: int, tried: bool, residual: Residual) -> float:
    """`tried`: whether the residual is known to have the other sign at the upper bound."""
    low, high = bracket
    x, last, stride = low, math.inf, math.inf
    for _ in range(_TRIALS):
        trial = residual(x)
        low, high = (x, high) if trial.residual * direction >= 0 else (low, x)
        tolerance = _STEP * _EPSILON * abs(x)
        if trial.is_zero(low, x, high) or (abs(trial.newton) <= tolerance and abs(trial.bend) <= 1):
            return x + trial.newton if low < x + trial.newton < high else x
        if high - low <= tolerance:
            return x
        halved, last = abs(trial.residual) <= 0.5 * last, abs(trial.residual)
        following, step = x + trial.step, abs(trial.step)
        if low < following < high and halved and step <= _SHORTER * stride:
            x, stride = following, step
        elif following >= high and not tried:
            x, tried, stride = high, True, math.inf
        else:
            x, stride = low + 0.5 * (high - low), math.inf
    return x
