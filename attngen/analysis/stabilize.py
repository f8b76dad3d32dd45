"""Stable forms, found by algebra: every quantity as mantissa * exp(exponent), combined without leaving that form.

`scaled` pulls the exponentials out of a formula: exp(x) is (1, x), a product adds exponents, a sum brings its terms to
their largest exponent, relu and abs let a positive factor through. `plain` puts a formula together again such that
exponents have met before anything is exponentiated: exp(s) / exp(lse) becomes exp(s - lse). So the row maximum of
softmax, the virtual key of softmax1 and the shifted form of softpick all follow from the same dozen rules, and nothing
is ever shifted whose formula doesn't allow it (softplus has no exponential to pull out). The identities are those of
logarithmic number systems; the running maximum over tiles is Milakov and Gimelshein, arXiv:1805.02867.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from attngen.analysis import functions as fn
from attngen.analysis import symbolic as sy
from attngen.analysis.functions import ONE, ZERO, Sym


@dataclass(frozen=True)
class Scaled:
    """mantissa * exp(exponent)."""

    mantissa: Sym
    exponent: Sym

    @property
    def value(self) -> Sym:
        return self.mantissa * sy.exp(self.exponent)


PIVOT = "%row_max"


def is_base_pivot(expr: Sym) -> bool:
    """Whether it is the pivot of a power, which unlike one of exponentials is positive: its powers are exponentials."""
    return bool(expr.is_Symbol and expr.name.startswith(PIVOT) and expr.is_positive)


def scaled(expr: Sym) -> Scaled:
    """`expr` with its exponentials pulled out as far as the algebra allows."""
    if not expr.args:
        return Scaled(expr, ZERO)
    if expr.func is sy.exp:
        return Scaled(ONE, plain(expr.args[0]))
    if expr.is_Mul:
        factors = [scaled(a) for a in expr.args]
        exponent = sy.expand_mul(sy.Add(*(f.exponent for f in factors)))
        return Scaled(sy.Mul(*(f.mantissa for f in factors)), exponent)
    if expr.is_Pow and is_base_pivot(expr.base):
        return Scaled(ONE, plain(expr.exp) * fn.logarithm(expr.base))
    if expr.is_Pow:
        base, exponent = scaled(expr.base), plain(expr.exp)
        return Scaled(base.mantissa**exponent, base.exponent * exponent)
    if expr.is_Add:
        mantissas, exponent = _common([scaled(a) for a in expr.args])
        return Scaled(sy.Add(*mantissas), exponent)
    return _RULES.get(expr.func, _opaque)(expr)


def plain(expr: Sym) -> Sym:
    """The value of `expr`, spelled so that large exponentials cancel before they are taken."""
    if not expr.args:
        return expr
    if expr.is_Add or expr.is_Mul:
        return _plain_sum(expr)
    if expr.is_Pow or expr.func in (sy.exp, sy.log, *_COMPARISONS):
        return scaled(expr).value
    if expr.func is fn.eq and expr.args[1] == 0:  # an exponential may underflow, but isn't zero
        return fn.eq(scaled(expr.args[0]).mantissa, ZERO)
    return expr.func(*map(plain, expr.args))


def _plain_sum(expr: Sym) -> Sym:
    """Terms of equal exponent share one exponential; different ones need no common scale, the sum being final."""
    groups: dict[Sym, list[Sym]] = {}
    for term in map(scaled, _addends(expr)):
        groups.setdefault(sy.expand_mul(term.exponent), []).append(term.mantissa)
    return sy.Add(*(sy.factor_terms(sy.Add(*mantissas)) * sy.exp(e) for e, mantissas in groups.items()))


def _addends(expr: Sym) -> list[Sym]:
    """The terms of a sum; a product with a factor whose own terms differ in exponent is multiplied out."""
    if expr.is_Add:
        return [addend for part in expr.args for addend in _addends(part)]
    for factor in sy.Mul.make_args(expr):
        if factor.is_Add and len({sy.expand_mul(scaled(a).exponent) for a in _addends(factor)}) > 1:
            rest = sy.Mul(*(f for f in expr.args if f is not factor))
            return [addend for part in _addends(factor) for addend in _addends(rest * part)]
    return [expr]


def at_one_exponent(exprs: Iterable[Sym]) -> list[Sym]:
    """The formulas, all divided by the same exponential, the largest of theirs."""
    mantissas, _ = _common([scaled(expr) for expr in exprs])
    return mantissas


def signed_logarithm(expr: Sym) -> Sym:
    """What has the sign of `expr` and grows with its magnitude, as far as that is between exp(-1000) and infinity."""
    form = scaled(expr)
    logarithm = sy.log(fn.absolute(form.mantissa)) + form.exponent
    return fn.sign(form.mantissa) * (1000 + fn.maximum(logarithm, sy.Rational(-999)))


def _common(terms: list[Scaled]) -> tuple[list[Sym], Sym]:
    """The mantissas of `terms` at one exponent, the largest of theirs."""
    exponents = list(dict.fromkeys(sy.expand_mul(t.exponent) for t in terms))
    if len(exponents) == 1:
        return [t.mantissa for t in terms], exponents[0]
    largest = _largest(exponents)
    return [t.mantissa * sy.exp(t.exponent - largest) for t in terms], largest


def _largest(exponents: list[Sym]) -> Sym:
    """The maximum of several exponents, zero if they are relative to their maximum already."""
    largest = exponents[0]
    for exponent in exponents[1:]:
        largest = fn.maximum(*sorted((largest, exponent), key=lambda e: e.sort_key()))
    for addend in sy.Add.make_args(exponents[0]):
        absolute = {sy.expand_mul(exponent - addend) for exponent in exponents}
        if (-addend).func is fn.maximum and absolute == set(_compared(-addend)):
            return ZERO
    return largest


def _compared(maximum: Sym) -> list[Sym]:
    """What a nested maximum is of."""
    if maximum.func is not fn.maximum:
        return [sy.expand_mul(maximum)]
    return [part for argument in maximum.args for part in _compared(argument)]


def _homogeneous(expr: Sym) -> Scaled:
    inner = scaled(expr.args[0])
    return Scaled(expr.func(inner.mantissa), inner.exponent)


def _sign(expr: Sym) -> Scaled:
    return Scaled(fn.sign(scaled(expr.args[0]).mantissa), ZERO)


def _lattice(expr: Sym) -> Scaled:
    """The larger of two takes the larger exponent; the smaller the smaller one, if both are positive."""
    terms = [scaled(a) for a in expr.args]
    if expr.func is fn.minimum and all(t.mantissa.is_positive for t in terms):
        mantissas, inverse = _common([Scaled(1 / t.mantissa, -t.exponent) for t in terms])
        return Scaled(1 / fn.maximum(*mantissas), -inverse)
    for bound, other in (terms, terms[::-1]):
        if bound.exponent != other.exponent and _ends(expr, bound):
            return _bounded(expr, bound, other)
    mantissas, exponent = _common(terms)
    return Scaled(expr.func(*mantissas), exponent)


def _ends(expr: Sym, term: Scaled) -> bool:
    """Whether a term of known sign keeps the smaller of two from growing, or the larger from falling."""
    return bool(term.mantissa.is_positive if expr.func is fn.minimum else term.mantissa.is_negative)


def _bounded(expr: Sym, bound: Scaled, other: Scaled) -> Scaled:
    """On the bound's side of zero the result has the smaller exponent of both, beyond zero that of the other term."""
    smaller = -fn.maximum(-bound.exponent, -other.exponent)
    sides = (other.mantissa, ZERO) if expr.func is fn.minimum else (ZERO, other.mantissa)
    exponent = fn.where(fn.gt(*sides), smaller, other.exponent)
    return Scaled(expr.func(*(t.mantissa * sy.exp(t.exponent - exponent) for t in (bound, other))), exponent)


def _comparison(expr: Sym) -> Scaled:
    """Of two exponentials the mantissas at a common exponent: both may underflow, or overflow, where one is larger."""
    terms = [scaled(a) for a in expr.args]
    if any(t.exponent == 0 for t in terms):
        return _opaque(expr)
    return Scaled(expr.func(*_common(terms)[0]), ZERO)


def _where(expr: Sym) -> Scaled:
    """Each branch keeps its own exponent. Beside an exponential a zero is one that no pivot will follow."""
    condition, *branches = expr.args
    a, b = (scaled(branch) for branch in branches)
    none = ZERO if a.exponent == b.exponent == 0 else fn.LEAST
    exponents = (none if a.mantissa == 0 else a.exponent, none if b.mantissa == 0 else b.exponent)
    condition = plain(condition)
    return Scaled(fn.where(condition, a.mantissa, b.mantissa), fn.where(condition, *exponents))


def _logarithm(expr: Sym) -> Scaled:
    """An exponential that is known to be bounded is taken apart too: its logarithm stays finite when it underflows."""
    inner = scaled(expr.args[0].replace(fn.bounded_exp, sy.exp))
    if inner.mantissa.func is fn.sigmoid:  # softplus doesn't underflow where sigmoid does
        return Scaled(inner.exponent - fn.softplus(-inner.mantissa.args[0]), ZERO)
    return Scaled(sy.log(inner.mantissa) + inner.exponent, ZERO)


def _expm1(expr: Sym) -> Scaled:
    """exp(x) - 1 = sign(x) (1 - exp(-|x|)) exp(max(x, 0)): bounded by one and exact near zero."""
    x = plain(expr.args[0])
    if x.is_nonpositive:
        return Scaled(fn.expm1(x), ZERO)
    return Scaled(-fn.sign(x) * fn.expm1(-fn.absolute(x)), fn.maximum(x, ZERO))


def _opaque(expr: Sym) -> Scaled:
    return Scaled(expr.func(*map(plain, expr.args)), ZERO)


_COMPARISONS = (fn.gt, fn.ge, fn.eq)
_RULES: dict[Any, Callable[[Sym], Scaled]] = {
    fn.relu: _homogeneous,
    fn.absolute: _homogeneous,
    fn.sign: _sign,
    fn.maximum: _lattice,
    fn.minimum: _lattice,
    fn.where: _where,
    sy.log: _logarithm,
    **dict.fromkeys(_COMPARISONS, _comparison),
    fn.expm1: _expm1,
}
