"""Support: where the weights of a pair, and with them its share of every gradient, are exactly zero.

Finds a formula of one pair such that a tile on which it is nowhere positive adds nothing to the output and nothing to
any gradient, so that kernels may pass over it. It doesn't say whether such tiles are common.
"""

from collections.abc import Iterable
from functools import reduce

from attngen.analysis import functions as fn
from attngen.analysis.functions import ZERO, Sym
from attngen.analysis.separate import Scope


def support(formulas: Iterable[Sym], scope: Scope) -> Sym | None:
    """The shortest formula such that all `formulas` vanish unless it is positive; None if there is none."""
    shared = reduce(lambda a, b: a & b, map(_conditions, formulas))
    varying = [x for x in shared if not scope.is_row(x)]
    return min(varying, key=lambda x: (x.count_ops(), x.sort_key()), default=None)


def _conditions(expr: Sym) -> set[Sym]:
    """Formulas x such that `expr` is zero wherever x isn't positive."""
    if expr.func is fn.relu:
        return {expr.args[0]}
    if expr.func is fn.where:
        condition, a, b = expr.args
        if b == ZERO and condition.func is fn.gt and condition.args[1] == ZERO:
            return {condition.args[0]} | _conditions(condition.args[0]) | _conditions(a)
        return set() if b != ZERO else _conditions(a)
    if expr.is_Pow and expr.exp.is_positive:
        return _conditions(expr.base)
    if expr.is_Mul:
        return set().union(*map(_conditions, expr.args))
    if expr.is_Add:
        return reduce(lambda a, b: a & b, map(_conditions, expr.args))
    return set()
