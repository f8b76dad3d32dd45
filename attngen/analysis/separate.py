"""Separation: a formula of one pair of query and key as a sum of h(row) * f(pair).

A factor h may use row statistics, the f's don't wherever algebra allows it: then they can be summed over the keys in
the very pass that computes the statistics, and h is applied at the end. What can't be separated keeps its statistics
inside f, and costs a pass of its own. Sums are never expanded into squares, nor taken apart where their terms may
cancel: sum((s - mean)^2) and sum(s - amin(s)) would become differences of large numbers.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from attngen.analysis import functions as fn
from attngen.analysis import symbolic as sy
from attngen.analysis.functions import ONE, ZERO, Sym

PAIR_NAMES = frozenset({"qk", "j"})


@dataclass(frozen=True)
class Term:
    """h * f: `h` is the same for all keys of a row, `f` belongs to one pair."""

    h: Sym
    f: Sym


@dataclass(frozen=True)
class Scope:
    """Which symbols vary from key to key within a row, and which are row statistics (twins included)."""

    pair: frozenset[Sym]
    statistics: frozenset[Sym]

    def is_row(self, expr: Sym) -> bool:
        return not sy.uses(expr, self.pair)

    def uses_statistics(self, expr: Sym) -> bool:
        return bool(sy.uses(expr, self.statistics))


def separate(expr: Sym, scope: Scope) -> tuple[Term, ...]:
    """`expr` = sum of term.h * term.f; equal f's are collected, vanishing terms dropped."""
    collected: dict[Sym, Sym] = {}
    for term in _terms(expr, scope):
        collected[term.f] = collected.get(term.f, ZERO) + term.h
    return tuple(Term(h, f) for f, h in collected.items() if h != 0)


def _terms(expr: Sym, scope: Scope) -> list[Term]:
    if scope.is_row(expr):
        return [Term(expr, ONE)]
    if expr.is_Mul:
        return _product(expr, scope)
    if not scope.uses_statistics(expr):
        return [Term(ONE, expr)]
    if expr.is_Add:
        return _sum(expr, scope)
    if expr.is_Pow:
        return _power(expr, scope)
    return _RULES.get(expr.func, _inseparable)(expr, scope)


def _sum(expr: Sym, scope: Scope) -> list[Term]:
    """Term by term, unless the terms may cancel as in s - amin(s)."""
    terms = [term for part in expr.args for term in _terms(part, scope)]
    shifted = any(t.f == 1 and scope.uses_statistics(t.h) for t in terms)
    signs = {t.h.could_extract_minus_sign() for t in terms if t.h != 0}
    return _inseparable(expr, scope) if shifted or len(signs) > 1 else terms


def _inseparable(expr: Sym, scope: Scope) -> list[Term]:
    return [Term(ONE, expr)]


def _product(expr: Sym, scope: Scope) -> list[Term]:
    """At most one factor may be a sum; a second one stays whole."""
    terms = [Term(ONE, ONE)]
    for factor in expr.args:
        parts = _terms(factor, scope)
        if len(parts) > 1 and len(terms) > 1:
            parts = [Term(ONE, factor)]
        terms = [Term(a.h * b.h, a.f * b.f) for a in terms for b in parts]
    return terms


def _power(expr: Sym, scope: Scope) -> list[Term]:
    base, exponent = expr.as_base_exp()
    parts = _terms(base, scope)
    if len(parts) == 1 and scope.is_row(exponent) and not scope.uses_statistics(exponent):
        (part,) = parts
        if exponent.is_integer or part.h.is_nonnegative:
            return [Term(part.h**exponent, part.f**exponent)]
    return _inseparable(expr, scope)


def _exponential(expr: Sym, scope: Scope) -> list[Term]:
    """exp(a + r) = exp(a) exp(r). Only what uses statistics leaves: exp(s - c) may be small where exp(s) overflows."""
    exponent = sy.expand_mul(expr.args[0])
    addends = sy.Add.make_args(exponent)
    leaving = sy.Add(*(a for a in addends if scope.is_row(a) and scope.uses_statistics(a)))
    return [Term(sy.exp(leaving), sy.exp(exponent - leaving))]


def _homogeneous(expr: Sym, scope: Scope) -> list[Term]:
    """relu, abs of h * f, for h that is not negative."""
    parts = _terms(expr.args[0], scope)
    if len(parts) == 1 and parts[0].h.is_nonnegative:
        return [Term(parts[0].h, expr.func(parts[0].f))]
    return _inseparable(expr, scope)


def _sign(expr: Sym, scope: Scope) -> list[Term]:
    parts = _terms(expr.args[0], scope)
    if len(parts) == 1 and parts[0].h.is_positive:
        return [Term(ONE, expr.func(parts[0].f))]
    return _inseparable(expr, scope)


def _where(expr: Sym, scope: Scope) -> list[Term]:
    condition, a, b = expr.args
    if scope.uses_statistics(condition):
        return _inseparable(expr, scope)
    yes = [Term(t.h, fn.where(condition, t.f, ZERO)) for t in _terms(a, scope)]
    no = [Term(t.h, fn.where(condition, ZERO, t.f)) for t in _terms(b, scope)]
    return [term for term in yes + no if term.f != 0 and term.h != 0]


_RULES: dict[Any, Callable[[Sym, Scope], list[Term]]] = {
    sy.exp: _exponential,
    fn.relu: _homogeneous,
    fn.absolute: _homogeneous,
    fn.sign: _sign,
    fn.where: _where,
}


def offset_and_factor(body: Sym, scope: Scope) -> tuple[Sym, Sym, Sym]:
    """body = offset + factor * rest, both of the row and factor > 0: amax and amin commute with that."""
    addends = sy.Add.make_args(body)
    offset = sy.Add(*(a for a in addends if scope.is_row(a)))
    rest = body - offset
    factors = [f for f in sy.Mul.make_args(rest) if scope.is_row(f) and f.is_positive]
    factor = sy.Mul(*factors)
    return offset, factor, rest / factor
