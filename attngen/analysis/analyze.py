"""Analysis: normalizer -> `Analysis`. The stages in order, and the way back from sympy to formulas.

passes      reductions, their passes, the output's terms
carries     the stable form of every pass
gradient    row adjoints, gradients of the dot product and of the inputs
backward    the gradients in the stable form, as formulas of what the forward leaves behind
output      the step behind the weighted sum
"""

from fractions import Fraction

from attngen import ir
from attngen.analysis import symbolic as sy
from attngen.analysis.backward import Settled
from attngen.analysis.carries import Carries, SymbolicCarry, derive_carries
from attngen.analysis.freeze import freeze
from attngen.analysis.functions import Sym
from attngen.analysis.labels import Label, labels
from attngen.analysis.output import derive_output
from attngen.analysis.passes import Staged, stage
from attngen.analysis.rename import readable_names
from attngen.analysis.result import (
    Accumulator,
    Analysis,
    Carry,
    Forward,
    ForwardPass,
    Pivot,
    RowStatistic,
)
from attngen.analysis.search import root_search
from attngen.analysis.stabilize import plain


def analyze(normalizer: ir.Normalizer) -> Analysis:
    """The passes, stable forms and gradients of `normalizer`. Raises SpecError if a formula has no finite value."""
    staged = stage(normalizer)
    carries = derive_carries(staged)
    named = labels(normalizer, staged)
    gradients = Settled(normalizer, staged, carries)
    forward = _forward(staged, carries, named)
    may_skip = (normalizer.claims.sparse or _has_root(staged)) and not forward.passes[-1].pivots
    analysis = Analysis(
        kind=_kind(staged, carries),
        score=normalizer.score,
        forward=forward,
        backward=gradients.backward(),
        adjoints=gradients.adjoints(),
        support=gradients.support() if may_skip else None,
        output=derive_output(normalizer, carries.output_unit),
    )
    return readable_names(analysis, normalizer)


def _has_root(staged: Staged) -> bool:
    return any(s.implicit for s in staged.statistics)


def _kind(staged: Staged, carries: Carries) -> str:
    if _has_root(staged):
        return "implicit"
    if staged.n_passes > 1:
        return "staged"
    if len(staged.terms) > 1:
        return "affine"
    if not staged.statistics:
        return "elementwise"
    return "shift-invariant ratio" if carries.groups else "ratio"


def _forward(staged: Staged, carries: Carries, named: dict[str, Label]) -> Forward:
    passes = tuple(_forward_pass(index, staged, carries, named) for index in range(staged.n_passes))
    accumulators = tuple(
        Accumulator(a.symbol.name, _stable(a.body), _pivot_name(a), _rational(a.power)) for a in carries.accumulators
    )
    factors = tuple(
        _stable(carries.fresh(term.h) * (a.total / a.symbol) / carries.output_unit)
        for term, a in zip(staged.terms, carries.accumulators, strict=True)
    )
    return Forward(passes, accumulators, factors)


def _forward_pass(index: int, staged: Staged, carries: Carries, named: dict[str, Label]) -> ForwardPass:
    mine = [c for c in carries.carries if c.pass_index == index]
    if mine and mine[0].kind == "root":
        search = root_search(mine[0], carries)
        return ForwardPass(*_walk(index, search.sums), (search.found,), search.root)
    return ForwardPass(*_walk(index, carries), tuple(_statistic(c, carries, named) for c in mine))


def _walk(index: int, carries: Carries) -> tuple[tuple[Pivot, ...], tuple[Carry, ...]]:
    """What one walk of a pass carries."""
    pivots = (Pivot(g.symbol.name, _stable(g.exponent), g.kind) for g in carries.groups if g.pass_index == index)
    sums = (
        Carry(c.symbol.name, c.kind, _stable(c.body), _pivot_name(c), _rational(c.power))  # type: ignore[arg-type]
        for c in carries.carries
        if c.pass_index == index
    )
    return tuple(pivots), tuple(sums)


def _statistic(carry: SymbolicCarry, carries: Carries, named: dict[str, Label]) -> RowStatistic:
    statistic = carry.statistic
    assert statistic is not None
    meaning = ir.Reduce(statistic.kind, freeze(sy.attach(statistic.body)))  # type: ignore[arg-type]
    logarithm = carries.logarithms.get(statistic.symbol)
    name, symbol, label = carry.symbol.name, statistic.symbol.name, named.get(statistic.symbol.name)
    if logarithm is None:
        text = label.name if label and not label.logarithmic and not carry.pivot else ""
        return RowStatistic(name, symbol, meaning, freeze(carries.kept(carry)), logarithmic=False, label=text)
    text = "" if label is None else label.name if label.logarithmic else f"log_{label.name}"
    value = _stable(sy.log(carry.of(carries.kept(carry))))
    return RowStatistic(logarithm.name, symbol, meaning, value, logarithmic=True, label=text)


def _pivot_name(carry: SymbolicCarry) -> str | None:
    return carry.pivot.symbol.name if carry.pivot else None


def _rational(value: Sym) -> Fraction:
    return Fraction(int(value.p), int(value.q))


def _stable(expr: Sym) -> ir.Expr:
    return freeze(sy.factor_terms(plain(expr)))
