"""Spelling: the same formula without overflow and cancellation where one function says what several operations would.

Turns 1 / (1 + exp(x)) into a sigmoid, log(1 + exp(x)) into softplus, exp(x) - 1 into expm1, and a power whose base
has a known logarithm into an exponential. What depends on pivots is the business of `stabilize`.
"""

from collections.abc import Callable
from typing import Any

from attngen.analysis import symbolic as sy
from attngen.analysis.functions import Sym, expm1, gt, log1p, sigmoid, softplus, where

# Powers up to this are summed as they are: in fp32 they stay finite for bases up to 10^9.
LARGEST_PLAIN_POWER = 4


def spell(expr: Sym) -> Sym:
    """Spell 1 / (1 + exp(x)), 1 - sigmoid(x), log(1 + exp(x)), exp(x) - 1 without overflow and cancellation."""
    if not expr.args:
        return expr
    expr = expr.func(*map(spell, expr.args))
    if expr.is_Add:
        return _spell_difference(expr)
    if expr.is_Pow:
        return _spell_power(expr)
    if expr.is_Mul:
        return _spell_sigmoid(expr)
    if expr.func is sy.log:
        return _spell_logarithm(expr.args[0])
    if expr.func is log1p and expr.args[0].func is sy.exp:
        return softplus(expr.args[0].args[0])
    return expr


def _spell_power(expr: Sym) -> Sym:
    """A power that costs an exponential anyway is one, if the logarithm of its base is known: it doesn't underflow."""
    base, exponent = expr.args
    if exponent.is_Integer and exponent < 0 and (x := _one_plus_exp(base)) is not None:
        base, exponent = sigmoid(-x), -exponent
    if base.func in _LOGARITHMS and not (exponent.is_Integer and 0 < exponent <= LARGEST_PLAIN_POWER):
        return sy.exp(exponent * _LOGARITHMS[base.func](*base.args))
    return base**exponent


def _spell_logarithm(expr: Sym) -> Sym:
    if (x := _one_plus_exp(expr)) is not None:
        return softplus(x)
    return _LOGARITHMS[expr.func](*expr.args) if expr.func in _LOGARITHMS else sy.log(expr)


def _log_softplus(x: Sym) -> Sym:
    """Far below zero softplus(x) is exp(x): below -36 in float64 as well."""
    return where(gt(-36, x), x, sy.log(softplus(x)))


_LOGARITHMS: dict[Any, Callable[[Sym], Sym]] = {sigmoid: lambda x: -softplus(-x), softplus: _log_softplus}


def _one_plus_exp(expr: Sym) -> Sym:
    """x if `expr` is 1 + exp(x)."""
    if expr.is_Add and len(expr.args) == 2:
        one, other = sorted(expr.args, key=lambda a: not a.is_Number)
        if one == 1 and other.func is sy.exp:
            return other.args[0]
    return None


def _spell_difference(expr: Sym) -> Sym:
    if is_complement(expr):
        return spell_complement(expr)
    constant, rest = expr.as_coeff_Add()
    for term in sy.Add.make_args(rest):
        plus, minus = term.func is sy.exp, (-term).func is sy.exp
        if (plus and constant == -1) or (minus and constant == 1):
            spelled = expm1(term.args[0]) if plus else -expm1((-term).args[0])
            return rest - term + spelled
    return expr


def is_complement(expr: Sym) -> bool:
    """Whether it is 1 - sigmoid(x)."""
    constant, rest = expr.as_coeff_Add()
    return bool(constant == 1 and (-rest).func is sigmoid)


def spell_complement(expr: Sym) -> Sym:
    """1 - sigmoid(x) = sigmoid(-x), exact where sigmoid(x) is one."""
    return sigmoid(-(1 - expr).args[0])


def _spell_sigmoid(expr: Sym) -> Sym:
    """exp(x) * sigmoid(-x) = sigmoid(x)."""
    for factor in expr.args:
        if factor.func is sigmoid and sy.exp(-factor.args[0]) in expr.args:
            return expr / factor / sy.exp(-factor.args[0]) * sigmoid(-factor.args[0])
    return expr
