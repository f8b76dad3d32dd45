"""Roots: row values known only implicitly, as the zero of a residual that sums over the keys.

Turns what a root is the zero of into the pass that finds it, with the sums that one trial needs, and into a summand
from which its gradients follow like those of any sum. How trials are chosen is the kernels' business.

# Note [Implicit differentiation]
Let R(t_1 .. t_k, x, tau) = 0 with t_m = sum_j g_m(s_j, x, tau). Then

    d tau / d y = -(sum_m R_m sum_j dg_m/dy + R_y) / R_tau,     R_tau = dR/dtau + sum_m R_m sum_j dg_m/dtau,

where R_m = dR/dt_m. So a root's gradients are those of a sum over the keys of -(sum_m R_m g_m + R / n) / R_tau, in
which R_m, R_tau, t_m and tau are detached: statistics of a pass behind the root's.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

from attngen import ir
from attngen.analysis import functions as fn
from attngen.analysis import symbolic as sy
from attngen.analysis.functions import ZERO, Sym
from attngen.analysis.result import Carry, ForwardPass, Root, RowStatistic
from attngen.analysis.stabilize import plain
from attngen.analysis.symbolic import Implicit, Statistic


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
    used = slope.free_symbols.union(*(share.free_symbols for share in shares.values()))
    sums = {t: total(body) for t, body in bodies.items() if t in used}
    fixed = {root: sy.twin(root), **{t: sy.twin(t) for t in bodies}}
    pairs = sy.Add(*(sy.twins_of(shares[t].xreplace(sums)) * body.xreplace(fixed) for t, body in bodies.items()))
    explicit = residual.xreplace(fixed) / sy.atom("n")
    explicit = explicit if _is_variable(explicit) else ZERO
    explicit = explicit.xreplace({sy.twin(t): sy.twins_of(v) for t, v in sums.items()})
    return -(pairs + explicit) * _reciprocal(sy.twins_of(slope.xreplace(sums)))


def _reciprocal(slope: Sym) -> Sym:
    """A residual that is flat where it ends says nothing of how the root moves: then it doesn't."""
    return 1 / slope if slope.is_nonzero else fn.where(fn.eq(slope, ZERO), ZERO, 1 / slope)


def _is_variable(expr: Sym) -> bool:
    """Whether anything but sizes and detached values occurs in it."""
    return any(not s.name.endswith("'") and s.name not in ir.SIZES and s.name != "n" for s in expr.free_symbols)


@dataclass
class _Trial:
    """The sums that one trial needs: symbol -> body."""

    unknown: Sym
    bodies: dict[Sym, Sym] = field(default_factory=dict)

    def sum(self, body: Sym) -> Sym:
        for symbol, known in self.bodies.items():
            if known == body:
                return symbol
        sign = {"nonnegative": True} if body.is_nonnegative else {"nonpositive": True} if body.is_nonpositive else {}
        symbol = sy.symbol(f"%trial{len(self.bodies) + 1}", **sign)
        self.bodies[symbol] = body
        return symbol

    def slope(self, expr: Sym) -> Sym:
        """The derivative by the unknown of a formula of it and of sums that use it."""
        return sy.derivative(expr, self.unknown) + sy.Add(*self._by_sums(expr))

    def _by_sums(self, expr: Sym) -> Iterator[Sym]:
        for symbol in [s for s in self.bodies if sy.uses(expr, [s])]:
            inner = sy.spell(sy.derivative(self.bodies[symbol], self.unknown))
            if inner != 0:
                yield sy.derivative(expr, symbol) * self.sum(inner)


def root_pass(statistic: Statistic, unknown: Sym, settled: Callable[[Sym], Sym]) -> ForwardPass:
    """The pass that finds a root, which has the name of `unknown`."""
    assert statistic.implicit is not None
    name = {statistic.implicit.unknown: unknown}
    implicit = rewritten(statistic.implicit, lambda formula: settled(formula).xreplace(name))
    trial = _Trial(unknown)
    residual = implicit.residual.xreplace({t.symbol: trial.sum(t.body) for t in implicit.trials})
    slope = trial.slope(residual)
    direction = -1 if slope.is_nonnegative else 1 if slope.is_nonpositive else 0
    curvature = trial.slope(slope)
    carries = tuple(Carry(s.name, "sum", _formula(body)) for s, body in trial.bodies.items())
    low, high, *derivatives = map(_formula, (implicit.low, implicit.high, residual, slope, curvature))
    root = Root(unknown.name, low, high, derivatives[0], derivatives[1], derivatives[2], direction)
    meaning = meaning_of_root(statistic.implicit)
    label = statistic.implicit.unknown.name
    found = RowStatistic(unknown.name, statistic.symbol.name, meaning, ir.Name(unknown.name), False, label)
    return ForwardPass((), carries, (found,), root)


def _formula(expr: Sym) -> ir.Expr:
    return sy.freeze(plain(expr))


def meaning_of_root(implicit: Implicit) -> ir.Root:
    """The root as a formula, over the symbols of earlier statistics."""
    sums: dict[str, ir.Expr] = {t.symbol.name: ir.Reduce("sum", sy.freeze(sy.attach(t.body))) for t in implicit.trials}
    residual, low, high = (sy.freeze(sy.attach(e)) for e in (implicit.residual, implicit.low, implicit.high))
    return ir.Root(implicit.unknown.name, ir.substitute(residual, sums), low, high)


def root_name(implicit: Implicit) -> Sym:
    """By what the root is known afterwards: the name that the spec gave it, which no other quantity's can be."""
    return sy.symbol(f"%%{implicit.unknown.name}")
