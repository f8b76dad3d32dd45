"""Roots: row values known only implicitly, as the zero of a residual that sums over the keys.

Turns what a root is the zero of into a summand from which its gradients follow like those of any sum, and back into a
formula. How it is found is the business of `search`.

# Note [Implicit differentiation]
Let R(t_1 .. t_k, x, tau) = 0 with t_m = sum_j g_m(s_j, x, tau). Then

    d tau / d y = -(sum_m R_m sum_j dg_m/dy + R_y) / R_tau,     R_tau = dR/dtau + sum_m R_m sum_j dg_m/dtau,

where R_m = dR/dt_m. So a root's gradients are those of a sum over the keys of -(sum_m R_m g_m + R / n) / R_tau, in
which R_m, R_tau, t_m and tau are detached: statistics of a pass behind the root's.
"""

from collections.abc import Callable
from dataclasses import replace

from attngen import ir
from attngen.analysis import functions as fn
from attngen.analysis import symbolic as sy
from attngen.analysis.freeze import freeze
from attngen.analysis.functions import ZERO, Sym
from attngen.analysis.symbolic import Implicit


def formulas_of(implicit: Implicit) -> tuple[Sym, ...]:
    """Every formula that a root is made of."""
    return implicit.low, implicit.high, implicit.residual, *(t.body for t in implicit.trials)


def rewritten(implicit: Implicit, change: Callable[[Sym], Sym]) -> Implicit:
    """The same root with each of its formulas changed."""
    trials = tuple(replace(t, body=change(t.body)) for t in implicit.trials)
    low, high, residual = map(change, (implicit.low, implicit.high, implicit.residual))
    return replace(implicit, residual=residual, low=low, high=high, trials=trials)


def gradient_summand(implicit: Implicit, root: Sym, total: Callable[[Sym], Sym]) -> Sym:
    """See Note [Implicit differentiation]; `total` gives the sum of a body over the keys, `root` being known."""
    here = {implicit.unknown: root}
    residual = implicit.residual.xreplace(here)
    bodies = {t.symbol: t.body.xreplace(here) for t in implicit.trials}
    shares = {trial: sy.derivative(residual, trial) for trial in bodies}
    slope = sy.derivative(residual, root)
    slope += sy.Add(*(share * total(sy.derivative(bodies[t], root)) for t, share in shares.items()))
    fixed = {root: sy.twin(root), **{t: sy.twin(t) for t in bodies}}
    explicit = residual.xreplace(fixed) / sy.atom("n")
    explicit = explicit if _is_variable(explicit) else ZERO
    used = slope.free_symbols.union(*(f.free_symbols for f in (sy.attach(explicit), *shares.values())))
    sums = {t: total(body) for t, body in bodies.items() if t in used}
    pairs = sy.Add(*(sy.twins_of(shares[t].xreplace(sums)) * body.xreplace(fixed) for t, body in bodies.items()))
    explicit = explicit.xreplace({sy.twin(t): sy.twins_of(v) for t, v in sums.items()})
    return -(pairs + explicit) * _reciprocal(sy.twins_of(slope.xreplace(sums)))


def _reciprocal(slope: Sym) -> Sym:
    """A residual that is flat where it ends says nothing of how the root moves: then it doesn't."""
    return 1 / slope if slope.is_nonzero else fn.where(fn.eq(slope, ZERO), ZERO, 1 / slope)


def _is_variable(expr: Sym) -> bool:
    """Whether anything but sizes and detached values occurs in it."""
    return any(not s.name.endswith("'") and s.name not in ir.SIZES and s.name != "n" for s in expr.free_symbols)


def meaning_of_root(implicit: Implicit) -> ir.Root:
    """The root as a formula, over the symbols of earlier statistics."""
    sums: dict[str, ir.Expr] = {t.symbol.name: ir.Reduce("sum", freeze(sy.attach(t.body))) for t in implicit.trials}
    residual, low, high = (freeze(sy.attach(e)) for e in (implicit.residual, implicit.low, implicit.high))
    return ir.Root(implicit.unknown.name, ir.substitute(residual, sums), low, high)


def root_name(implicit: Implicit) -> Sym:
    """By what the root is known afterwards: the name that the spec gave it, which no other quantity's can be."""
    return sy.symbol(f"%%{implicit.unknown.name}")
