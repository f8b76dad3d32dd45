"""The zero of a function of one number between two bounds, to the last digit of a float.

Ridders' method: it converges fast where the function is smooth, and its bracket at least halves in every step.
"""

import math
from collections.abc import Callable

from attngen.selfcheck.arithmetic import NAN, divide, sign

Function = Callable[[float], float]
Point = tuple[float, float]  # a number, and the function's value there
_STEPS = 200  # about 60 halvings would do, but for a zero close to 0, where numbers are denser


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
