"""Search: what one walk over the keys sums for a trial value of a root, and what the next trial is found from.

Turns what a root is the zero of into the pass that finds it. Its sums are carried relative to pivots like those of
other passes. How trials are chosen is the kernels' business.

# Note [Sought residual]
Only the zero of a residual and the sign beside it matter, so it may be divided by what is positive. Where exponentials
stand in it, that keeps it in range: what is sought is the zero of log A - log B if the residual is a difference of
positive A and B, on which few steps lead from anywhere; else of the residual at the exponent of its largest term.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from attngen import ir
from attngen.analysis import functions as fn
from attngen.analysis import symbolic as sy
from attngen.analysis.carries import Carries, SymbolicCarry, pivot_for
from attngen.analysis.freeze import freeze
from attngen.analysis.functions import Sym
from attngen.analysis.result import Root, RowStatistic
from attngen.analysis.roots import meaning_of_root, rewritten
from attngen.analysis.spelling import spell
from attngen.analysis.stabilize import PIVOT, at_one_exponent, plain, scaled, signed_logarithm

_JUMPS = (fn.sign, fn.where)


@dataclass
class _Trial:
    """The sums that one trial needs: symbol -> body."""

    unknown: Sym
    bodies: dict[Sym, Sym] = field(default_factory=dict)

    def sum(self, body: Sym) -> Sym:
        number, body = body.as_coeff_Mul()
        for symbol, known in self.bodies.items():
            if known == body:
                return number * symbol
        symbol = sy.symbol(f"%trial{len(self.bodies) + 1}", **_sign_of(body))
        self.bodies[symbol] = body
        return number * symbol

    def slope(self, expr: Sym) -> Sym:
        """The derivative by the unknown of a formula of it and of sums that use it."""
        return sy.derivative(expr, self.unknown) + sy.Add(*self._by_sums(expr))

    def _by_sums(self, expr: Sym) -> Iterator[Sym]:
        for symbol in [s for s in self.bodies if sy.uses(expr, [s])]:
            inner = spell(sy.derivative(self.bodies[symbol], self.unknown))
            if inner != 0:
                yield sy.derivative(expr, symbol) * self.sum(inner)

    def direction(self, residual: Sym) -> int:
        """Whether it falls (1) or rises (-1) for sure: its slope has one sign, and no jump may go the other way."""
        if residual.has(*_JUMPS) or any(body.has(*_JUMPS) for body in self.bodies.values()):
            return 0
        slope = self.slope(residual)
        return 0 if slope == 0 else -1 if slope.is_nonnegative else 1 if slope.is_nonpositive else 0

    def magnitudes(self, expr: Sym) -> Sym:
        """The formula with sums of magnitudes for those whose terms may cancel."""
        unsure = [s for s in self.bodies if sy.uses(expr, [s]) and not _sign_of(self.bodies[s])]
        return expr.xreplace({s: self.sum(fn.absolute(self.bodies[s])) for s in unsure})


def _sign_of(body: Sym) -> dict[str, bool]:
    """The sign that a sum has wherever it is finite: there, nothing is divided by a relu that is zero."""
    positive = sy.symbol("%relu", positive=True)
    body = body.replace(fn.relu, lambda _: positive)
    return {"nonnegative": True} if body.is_nonnegative else {"nonpositive": True} if body.is_nonpositive else {}


@dataclass(frozen=True)
class Search:
    """`root` as it is known when its pass ends, and `sums` with the carries and pivots of one trial."""

    root: Root
    found: RowStatistic
    sums: Carries


def root_search(found: SymbolicCarry, carries: Carries) -> Search:
    """How to find the root that will be known by the name of `found`."""
    statistic, unknown = found.statistic, found.symbol
    assert statistic is not None
    assert statistic.implicit is not None
    name = {statistic.implicit.unknown: unknown}
    implicit = rewritten(statistic.implicit, lambda formula: carries.settled(formula).xreplace(name))
    trial = _Trial(unknown)
    residual = implicit.residual.xreplace({t.symbol: trial.sum(t.body) for t in implicit.trials})
    direction = trial.direction(residual)
    label = statistic.implicit.unknown.name
    sums = Carries(carries.scope, stem=f"{PIVOT}_{label}")
    sought = _sought(residual, trial, lambda: _totals(trial, sums, found.pass_index))
    low, high = freeze(plain(implicit.low)), freeze(plain(implicit.high))
    residual, slope, curvature, magnitude, size = map(freeze, sought)
    root = Root(unknown.name, low, high, residual, slope, curvature, magnitude, size, direction)
    meaning = meaning_of_root(statistic.implicit)
    row = RowStatistic(unknown.name, statistic.symbol.name, meaning, ir.Name(unknown.name), False, label)
    return Search(root, row, sums)


def _sought(residual: Sym, trial: _Trial, totals: Callable[[], dict[Sym, Sym]]) -> list[Sym]:
    """What is sought, its derivatives, the magnitude of its terms, and the residual's size beside its other values.

    See Note [Sought residual]. `totals` gives what the sums are from their carries.
    """
    relative = any(total != symbol for symbol, total in totals().items())
    parts = _difference(residual) if relative else None
    size = signed_logarithm(residual.xreplace(totals())) if relative else residual
    if parts is not None:
        residual = sy.log(parts[0]) - sy.log(parts[1])
    slope = trial.slope(residual)
    terms = sy.Add.make_args(sy.expand_mul(trial.magnitudes(residual)))
    formulas = [residual, slope, trial.slope(slope), *terms]
    formulas = [formula.xreplace(totals()) for formula in formulas]
    stable = at_one_exponent(formulas) if relative and parts is None else [*map(plain, formulas)]
    rounding = sy.Add(*(_magnitude(part) for term in stable[3:] for part in sy.Add.make_args(term)))
    rounding = rounding if parts is None else 2 + rounding  # a logarithm is as exact as what it is of
    return [*stable[:3], rounding, size]


def _difference(residual: Sym) -> tuple[Sym, Sym] | None:
    """A and B of a residual A - B, if neither can be negative."""
    terms = sy.Add.make_args(residual)
    above, below = [t for t in terms if t.is_nonnegative], [-t for t in terms if (-t).is_nonnegative]
    if not above or not below or len(above) + len(below) < len(terms):
        return None
    return sy.Add(*above), sy.Add(*below)


def _magnitude(term: Sym) -> Sym:
    return fn.absolute(-term if term.could_extract_minus_sign() else term)


def _totals(trial: _Trial, sums: Carries, pass_index: int) -> dict[Sym, Sym]:
    """The sums of a trial from the carries of its pass, to which new ones are added."""
    known = {carry.symbol for carry in sums.carries}
    for symbol, body in trial.bodies.items():
        if symbol not in known:
            form = scaled(body)
            group, power = pivot_for(sums, form, pass_index)
            relative = group.relative(form, power) if group else form.value
            sums.carries.append(SymbolicCarry(symbol, "sum", relative, pass_index, group, power, None))
    return {carry.symbol: carry.total for carry in sums.carries}
