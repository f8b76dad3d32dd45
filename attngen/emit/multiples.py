"""Multiples: two formulas -> the factor between them, where they have it in sight.

Products are compared factor by factor, sums up to a number that all their terms share. Nothing is expanded and no
function is looked into, so that a factor may stay unseen.
"""

from collections import Counter
from fractions import Fraction

from attngen import ir
from attngen.emit.arrange import addends, factors
from attngen.ir import Expr, Number


def multiple(expr: Expr, of: Expr) -> Expr | None:
    """m with expr = m * of, if there is one that divides by no formula."""
    number, above, below = _parts(expr)
    number_of, above_of, below_of = _parts(of)
    lacking = (above_of - above) + (below - below_of)
    if lacking or number_of == 0:
        return None
    return _product(number / number_of, (above - above_of) + (below_of - below))


def _parts(expr: Expr) -> tuple[Fraction, Counter[Expr], Counter[Expr]]:
    """A number, and how often each other factor and divisor occurs."""
    sign, above, below = factors(expr)
    number, parts = Fraction(sign), (Counter[Expr](), Counter[Expr]())
    for place, power, operands in ((0, 1, above), (1, -1, below)):
        for operand in operands:
            content, rest = _content(operand)
            number *= content**power
            parts[place].update([rest] if rest != ir.number(1) else [])
    return number, *parts


def _content(factor: Expr) -> tuple[Fraction, Expr]:
    """The number that the terms of a sum share, as far as that of the first is one, and the sum without it."""
    if isinstance(factor, Number):
        return factor.value, ir.number(1)
    if len(terms := addends(factor)) == 1:
        return Fraction(1), factor
    parts = [(sign, *_parts(term)) for sign, term in terms]
    signed = sorted(((sign * n, _quotient(above, below)) for sign, n, above, below in parts), key=lambda x: repr(x[1]))
    first = signed[0][0]
    return first, ir.Apply("add", tuple(_product(n / first, Counter([rest])) for n, rest in signed))


def _quotient(above: Counter[Expr], below: Counter[Expr]) -> Expr:
    numerator = _product(Fraction(1), above)
    return ir.apply("div", numerator, _product(Fraction(1), below)) if below else numerator


def _product(number: Fraction, parts: Counter[Expr]) -> Expr:
    """Sorted, so that equal products are equal trees."""
    ordered: list[Expr] = sorted(parts.elements(), key=repr)
    shown = ordered if ordered and number == 1 else [Number(number), *ordered]
    return shown[0] if len(shown) == 1 else ir.Apply("mul", tuple(shown))
