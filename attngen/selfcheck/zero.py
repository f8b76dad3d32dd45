"""The zero of a function of one number between two bounds, to the last digit of a float, and whether it is one.

Ridders' method: it converges fast where the function is smooth, and its bracket at least halves in every step.
"""

import math
from collections.abc import Callable
from itertools import pairwise

from attngen.selfcheck.arithmetic import NAN, divide, sign

Function = Callable[[float], float]
Point = tuple[float, float]  # a number, and the function's value there
_PARTS = 8  # of a bracket, in which changes of sign are looked for
_STRICT = 1e-7  # how far beside a zero the function has left it, of the bracket or, if that is wide, of the zero
_LESS = 1e-4  # of that: how far beside a zero the function is nearer to zero
_STEPS = 1100  # about 60 halvings would do, but for a zero close to 0, where numbers are denser


def only_zero(function: Function, low: float, high: float) -> float:
    """The one place where the function crosses zero, or the bound at which it begins or ends with zero.

    NaN if there is none or more than one, and for a jump, a pole or a whole stretch of zeros: a search may end anywhere
    there.
    """
    points = [(x, function(x)) for x in (low + (high - low) * part / _PARTS for part in range(_PARTS + 1))]
    signed = [point for point in points if sign(point[1]) != 0]
    if any(value != value for _, value in (points[0], points[-1])) or len(signed) < len(points) - 1:
        return NAN
    changes = [(a, b) for a, b in pairwise(signed) if sign(a[1]) != sign(b[1])]
    if not changes:
        return _zero_bound(function, low, high)
    (a, b), *more = changes
    found = zero(function, a[0], b[0])
    return NAN if more or not _is_crossed(function, found, min(high - low, max(1.0, abs(found)))) else found


def _zero_bound(function: Function, low: float, high: float) -> float:
    """The bound at which a function without a change of sign is zero up to rounding."""
    inside = _STRICT * (high - low)
    found = [a for a, b in ((low, low + inside), (high, high - inside)) if abs(function(a)) <= _LESS * abs(function(b))]
    return found[0] if len(found) == 1 else NAN


def _is_crossed(function: Function, found: float, scale: float) -> bool:
    """Whether the function goes through zero there, from one side to the other, without a jump."""
    before, after = (function(found + step) for step in (-_STRICT * scale, _STRICT * scale))
    nearer = (function(found + _LESS * step) for step in (-_STRICT * scale, _STRICT * scale))
    steady = all(abs(near) <= 0.5 * abs(far) for near, far in zip(nearer, (before, after), strict=True))
    return steady and sign(before) * sign(after) < 0


def zero(function: Function, low: float, high: float) -> float:
    """Where the function is zero; without a change of sign, the bound nearer to a zero. NaN if it is so at a bound."""
    a, b = (low, function(low)), (high, function(high))
    if a[1] != a[1] or b[1] != b[1]:
        return NAN
    if sign(a[1]) * sign(b[1]) <= 0:
        a, b = _closed(function, a, b)
    return a[0] if abs(a[1]) <= abs(b[1]) else b[0]


def _closed(function: Function, a: Point, b: Point) -> tuple[Point, Point]:
    """The same bracket with neighbouring numbers as its ends."""
    for _ in range(_STEPS):
        middle = a[0] + (b[0] - a[0]) / 2
        if middle in (a[0], b[0]) or 0 in (a[1], b[1]):
            break
        at_middle = (middle, function(middle))
        guess = _ridders(a, at_middle, b)
        a, b = _narrowed(a, b, at_middle)
        if min(a[0], b[0]) < guess < max(a[0], b[0]):
            a, b = _narrowed(a, b, (guess, function(guess)))
    return a, b


def _ridders(a: Point, middle: Point, b: Point) -> float:
    """The zero of the exponential times a line through three points; NaN where that is beyond float64."""
    root = math.sqrt(middle[1] * middle[1] - a[1] * b[1])
    return middle[0] + (middle[0] - a[0]) * sign(a[1]) * divide(middle[1], root)


def _narrowed(a: Point, b: Point, point: Point) -> tuple[Point, Point]:
    return (point, b) if sign(point[1]) == sign(a[1]) else (a, point)
