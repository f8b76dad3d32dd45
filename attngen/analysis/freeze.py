"""The way back: a sympy expression -> a formula, spelled such that nothing infinite meets a zero.

Divisions and square roots become operations of their own; a condition that makes a product zero selects the whole
product; what flows in is multiplied last. Which form of a formula is stable was decided before.
"""

from fractions import Fraction
from math import log10

from attngen import ir
from attngen.analysis import symbolic as sy
from attngen.analysis.functions import HALF, ZERO, Sym, ratio, where
from attngen.diagnostics import Diagnostic, InternalError, SpecError


def freeze(expr: Sym) -> ir.Expr:
    """A sympy expression as a formula. Divisions and square roots are spelled as such."""
    if expr.is_Rational:
        return ir.Number(_representable(Fraction(int(expr.p), int(expr.q))))
    if expr.is_Symbol:
        return ir.Name(expr.name)
    if expr is sy.pi:
        return ir.Name("pi")
    if expr is sy.E:
        return ir.apply("exp", ir.number(1))
    if expr.is_Add:
        return _freeze_sum(expr)
    if expr.is_Mul:
        return _freeze_product(expr)
    if expr.is_Pow:
        return _freeze_power(*expr.args)
    if expr.func is ratio:
        return ir.apply("div", *map(freeze, expr.args))
    if expr.func in sy.OPERATION_OF:
        return ir.Apply(sy.OPERATION_OF[expr.func], tuple(freeze(argument) for argument in expr.args))
    if not sy.is_finite(expr):
        raise SpecError((Diagnostic("this formula or its gradient has no finite value"),))
    raise InternalError("a sympy expression that the formula language lacks", str(expr))


def _representable(number: Fraction) -> Fraction:
    """Numbers of a spec are in float32's range; a power of one or a product of some may not be."""
    if not ir.in_range(number):
        size = round(log10(abs(number.numerator)) - log10(number.denominator))
        problem = f"the formula, or its gradient, comes to a number of about 1e{size}"
        raise SpecError((Diagnostic(problem, None, ir.RANGE),))
    return number


def _freeze_sum(expr: Sym) -> ir.Expr:
    """Positive terms first, so that a difference reads as one."""
    terms = sorted(expr.args, key=lambda t: (t.could_extract_minus_sign(), t.sort_key()))
    plus = [freeze(t) for t in terms if not t.could_extract_minus_sign()]
    minus = [freeze(-t) for t in terms if t.could_extract_minus_sign()]
    if not plus:
        return ir.apply("neg", _nary("add", minus))
    total = _nary("add", plus)
    return ir.apply("sub", total, _nary("add", minus)) if minus else total


def _freeze_product(expr: Sym) -> ir.Expr:
    """What flows in comes last: a derivative is of ordinary size, its factors need not be."""
    if expr.could_extract_minus_sign():
        return ir.apply("neg", freeze(-expr))
    masks = [f for f in expr.args if f.func is where and _has_zero_branch(f)]
    if masks:
        return _freeze_masked(masks[0], expr / masks[0])
    factors = sorted(expr.args, key=lambda f: (sy.uses(f, [sy.DP]), f.sort_key()))
    below = [f for f in factors if f.is_Pow and f.exp.could_extract_minus_sign()]
    above = [freeze(f) for f in factors if f not in below]
    numerator = _nary("mul", above) if above else ir.number(1)
    return ir.apply("div", numerator, _nary("mul", [freeze(1 / f) for f in below])) if below else numerator


def _has_zero_branch(mask: Sym) -> bool:
    """Whether a `where`, nested ones included, selects among numbers of which one is zero."""
    nested = [b for b in mask.args[1:] if b.func is where]
    numbers = [b for b in mask.args[1:] if b.is_Number]
    if len(nested) + len(numbers) < 2:
        return False
    return ZERO in numbers or any(map(_has_zero_branch, nested))


def _freeze_masked(branch: Sym, rest: Sym) -> ir.Expr:
    """where(c, 1, 0) * x is spelled where(c, x, 0), so that an x that is inf or NaN elsewhere doesn't matter."""
    if branch.func is not where:
        return freeze(branch * rest)
    condition, a, b = branch.args
    return ir.apply("where", freeze(condition), _freeze_masked(a, rest), _freeze_masked(b, rest))


def _freeze_power(base: Sym, exponent: Sym) -> ir.Expr:
    if base is sy.E:
        return ir.apply("exp", freeze(exponent))
    if exponent.could_extract_minus_sign():
        return ir.apply("div", ir.number(1), freeze(base**-exponent))
    if exponent == HALF:
        return ir.apply("sqrt", freeze(base))
    return ir.apply("pow", freeze(base), freeze(exponent))


def _nary(op: str, parts: list[ir.Expr]) -> ir.Expr:
    return parts[0] if len(parts) == 1 else ir.Apply(op, tuple(parts))
