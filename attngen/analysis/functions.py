"""Functions of formulas that sympy is not to rewrite: those with a kink and those with a delicate form.

Their derivatives are rules of their own and follow torch's conventions: relu'(0) = 0, ties of max and min share the
gradient, a step has none.
"""

from typing import Any

import sympy as sp
from sympy import S, exp, log

Sym = Any  # a sympy expression; sympy carries no types
ZERO, ONE, HALF = S.Zero, S.One, S.Half
LEAST = sp.Rational(-(10**30))  # the exponent of zero: below every other, and finite in fp32


class RealFunction(sp.Function):  # type: ignore[misc]
    is_extended_real = True
    is_real = True


def stays_positive(expr: Sym) -> bool:
    """Whether a formula is positive and doesn't underflow either: a statistic, or a sum with a positive number."""
    if expr.is_Add and all(a.is_nonnegative for a in expr.args):
        return any(a.is_Number and a.is_positive for a in expr.args)
    return bool(expr.is_Atom and expr.is_positive)


def stays_nonnegative(expr: Sym) -> bool:
    """Whether a formula is never negative. sympy won't say of relu(x) ** p: it might be infinite."""
    powers = [p for p in expr.atoms(sp.Pow) if p.base.is_nonnegative and p.exp.is_real]
    return bool(expr.xreplace({p: sp.Dummy(nonnegative=True) for p in powers}).is_nonnegative)


class nonzero(RealFunction):
    """x, or the least number that may divide others where x is closer to zero."""

    def _eval_is_positive(self) -> Any:
        return True if self.args[0].is_nonnegative else None

    def fdiff(self, argindex: int = 1) -> Sym:
        return ONE


class sigmoid(RealFunction):
    is_positive = True

    def fdiff(self, argindex: int = 1) -> Sym:
        return sigmoid(self.args[0]) * (1 - sigmoid(self.args[0]))


class softplus(RealFunction):
    is_positive = True

    def fdiff(self, argindex: int = 1) -> Sym:
        return sigmoid(self.args[0])


class expm1(RealFunction):
    def fdiff(self, argindex: int = 1) -> Sym:
        return exp(self.args[0])


class log1p(RealFunction):
    def fdiff(self, argindex: int = 1) -> Sym:
        return 1 / (1 + self.args[0])


class relu(RealFunction):
    is_nonnegative = True

    @classmethod
    def eval(cls, x: Sym) -> Sym:
        return x if x.is_nonnegative else None

    def fdiff(self, argindex: int = 1) -> Sym:
        return where(gt(self.args[0], ZERO), ONE, ZERO)


class absolute(RealFunction):
    is_nonnegative = True

    @classmethod
    def eval(cls, x: Sym) -> Sym:
        return x if x.is_nonnegative else None

    def fdiff(self, argindex: int = 1) -> Sym:
        return sign(self.args[0])


class sign(RealFunction):
    def fdiff(self, argindex: int = 1) -> Sym:
        return ZERO


class maximum(RealFunction):
    @classmethod
    def eval(cls, a: Sym, b: Sym) -> Sym:
        return a if a == b else None

    def _eval_is_positive(self) -> Any:
        return True if any(a.is_positive for a in self.args) else None

    def _eval_is_nonnegative(self) -> Any:
        return True if any(a.is_nonnegative for a in self.args) else None

    def fdiff(self, argindex: int = 1) -> Sym:
        mine, other = self.args[argindex - 1], self.args[2 - argindex]
        return where(gt(mine, other), ONE, where(eq(mine, other), HALF, ZERO))


class minimum(RealFunction):
    @classmethod
    def eval(cls, a: Sym, b: Sym) -> Sym:
        return a if a == b else None

    def _eval_is_positive(self) -> Any:
        return True if all(a.is_positive for a in self.args) else None

    def _eval_is_nonnegative(self) -> Any:
        return True if all(a.is_nonnegative for a in self.args) else None

    def fdiff(self, argindex: int = 1) -> Sym:
        mine, other = self.args[argindex - 1], self.args[2 - argindex]
        return where(gt(other, mine), ONE, where(eq(mine, other), HALF, ZERO))


class clip(RealFunction):
    """Where the bounds meet or are crossed, the value is the upper one; at a meeting torch gives neither a slope."""

    def fdiff(self, argindex: int = 1) -> Sym:
        x, low, high = self.args
        inside = and_(ge(x, low), ge(high, x))
        below, above = and_(gt(low, x), gt(high, low)), or_(gt(x, high), gt(low, high))
        return where((inside, below, above)[argindex - 1], ONE, ZERO)


class bounded_exp(RealFunction):
    """exp(x) of an x that is never positive: nothing needs to be pulled out of it."""

    is_positive = True


class power(RealFunction):
    """base ** exponent while it is differentiated, where that needs care.

    Where the base may be zero and the slope infinite there, the power counts as flat: a base that is never negative has
    its least value there, and no slope of its own. By its exponent a power of zero is flat as well, as in torch.
    """

    def fdiff(self, argindex: int = 1) -> Sym:
        base, exponent = self.args
        if argindex == 1:
            slope = base ** (exponent - 1)
            return exponent * (self._flat_at_zero(base, slope) if self.is_steep(base, exponent) else slope)
        logarithm = log(base) if stays_positive(base) else where(gt(base, ZERO), log(base), ZERO)
        return base**exponent * logarithm

    @staticmethod
    def _flat_at_zero(base: Sym, slope: Sym) -> Sym:
        return where(gt(base, ZERO), slope, ZERO) if base.is_nonnegative else where(eq(base, ZERO), ZERO, slope)

    @staticmethod
    def is_steep(base: Sym, exponent: Sym) -> bool:
        """Whether the slope may be infinite where the base is zero. That of relu is a step, which masks it."""
        if base.is_positive or base.func is relu:
            return False
        return not (exponent.is_integer or (exponent.is_Rational and (exponent < 0 or exponent >= 1)))


class logarithm(RealFunction):
    """log(x) that sympy doesn't take out of an exponential: exp(15 log(x)) stays what it is."""


class ratio(RealFunction):
    """a / b that sympy doesn't cancel against b."""

    def _eval_is_nonnegative(self) -> Any:
        return True if self.args[0].is_nonnegative and self.args[1].is_positive else None


class where(RealFunction):
    @classmethod
    def eval(cls, condition: Sym, a: Sym, b: Sym) -> Sym:
        if condition.func is eq and all(side.is_Number for side in condition.args):
            return a if condition.args[0] == condition.args[1] else b
        return a if a == b else None

    def _eval_is_nonnegative(self) -> Any:
        return True if self.args[1].is_nonnegative and self.args[2].is_nonnegative else None

    def _eval_is_positive(self) -> Any:
        return True if self.args[1].is_positive and self.args[2].is_positive else None

    def fdiff(self, argindex: int = 1) -> Sym:
        return (ZERO, where(self.args[0], ONE, ZERO), where(self.args[0], ZERO, ONE))[argindex - 1]


class Condition(RealFunction):
    def fdiff(self, argindex: int = 1) -> Sym:
        return ZERO


class gt(Condition): ...


class ge(Condition): ...


class eq(Condition): ...


class attains(Condition): ...


class and_(Condition): ...


class or_(Condition): ...


class not_(Condition): ...
