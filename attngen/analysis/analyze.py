"""Analysis: normalizer -> `Analysis`. The stages in order, and the way back from sympy to formulas.

passes      reductions, their passes, the output's terms
carries     the stable form of every pass
gradient    row adjoints, gradients of the dot product and of the inputs
"""

from collections.abc import Callable, Iterable
from fractions import Fraction

from attngen import ir
from attngen.analysis import symbolic as sy
from attngen.analysis.carries import Carries, SymbolicCarry, derive_carries
from attngen.analysis.functions import Sym
from attngen.analysis.gradient import DELTA, DP, Gradients, derive_adjoints, gradient_wrt, row_share
from attngen.analysis.labels import Label, labels
from attngen.analysis.passes import Staged, stage
from attngen.analysis.rename import readable_names
from attngen.analysis.result import (
    Accumulator,
    Adjoint,
    Analysis,
    Backward,
    Carry,
    Forward,
    ForwardPass,
    InputGradient,
    Level,
    Pivot,
    RowProduct,
    RowStatistic,
    RowSum,
)
from attngen.analysis.stabilize import plain
from attngen.diagnostics import Diagnostic, SpecError


def analyze(normalizer: ir.Normalizer) -> Analysis:
    """The passes, stable forms and gradients of `normalizer`. Raises SpecError if a formula has no finite value."""
    _refuse_what_has_no_passes_yet(normalizer)
    staged = stage(normalizer)
    carries = derive_carries(staged)
    named = labels(normalizer, staged)
    gradients = derive_adjoints(staged, carries)
    analysis = Analysis(
        kind=_kind(staged, carries),
        score=normalizer.score,
        forward=_forward(staged, carries, named),
        backward=_backward(normalizer, staged, carries, gradients),
        adjoints=tuple(Adjoint(s.name, sy.freeze(value)) for s, value in gradients.adjoints.items()),
    )
    return readable_names(analysis, normalizer)


def _refuse_what_has_no_passes_yet(normalizer: ir.Normalizer) -> None:
    if normalizer.output != ir.Name("o"):
        raise SpecError((Diagnostic("an `output` can't be compiled yet", None, "no `output`"),))
    root = next((node for node in ir.walk(normalizer.weights) if isinstance(node, ir.Root)), None)
    if root is not None:
        raise SpecError((Diagnostic("a `root` can't be compiled yet", root.span, "a formula"),))


def _kind(staged: Staged, carries: Carries) -> str:
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
        _stable(carries.fresh(term.h) * (a.total / a.symbol))
        for term, a in zip(staged.terms, carries.accumulators, strict=True)
    )
    return Forward(passes, accumulators, factors)


def _forward_pass(index: int, staged: Staged, carries: Carries, named: dict[str, Label]) -> ForwardPass:
    mine = [c for c in carries.carries if c.pass_index == index]
    return ForwardPass(
        tuple(Pivot(g.symbol.name, _stable(g.exponent), g.kind) for g in carries.groups if g.pass_index == index),
        tuple(
            Carry(c.symbol.name, c.kind, _stable(c.body), _pivot_name(c), _rational(c.power))  # type: ignore[arg-type]
            for c in mine
        ),
        tuple(_statistic(c, carries, named) for c in mine),
    )


def _statistic(carry: SymbolicCarry, carries: Carries, named: dict[str, Label]) -> RowStatistic:
    statistic = carry.statistic
    assert statistic is not None
    meaning = ir.Reduce(statistic.kind, sy.freeze(sy.attach(statistic.body)))  # type: ignore[arg-type]
    logarithm = carries.logarithms.get(statistic.symbol)
    name, symbol, label = carry.symbol.name, statistic.symbol.name, named.get(statistic.symbol.name)
    if logarithm is None:
        text = label.name if label and not label.logarithmic and not carry.pivot else ""
        return RowStatistic(name, symbol, meaning, sy.freeze(carry.symbol), logarithmic=False, label=text)
    text = "" if label is None else label.name if label.logarithmic else f"log_{label.name}"
    return RowStatistic(logarithm.name, symbol, meaning, _stable(sy.log(carry.total)), logarithmic=True, label=text)


def _pivot_name(carry: SymbolicCarry) -> str | None:
    return carry.pivot.symbol.name if carry.pivot else None


def _rational(value: Sym) -> Fraction:
    return Fraction(int(value.p), int(value.q))


def _stable(expr: Sym) -> ir.Expr:
    return sy.freeze(sy.factor_terms(plain(expr)))


def _backward(normalizer: ir.Normalizer, staged: Staged, carries: Carries, gradients: Gradients) -> Backward:
    totals = {
        symbol: symbol * carries.accumulators[index].total / carries.accumulators[index].symbol
        for symbol, index in gradients.products.items()
    }

    def settle(expr: Sym) -> Sym:
        return sy.factor_terms(plain(carries.normalized(expr.xreplace(totals))))

    inputs = tuple(
        _input_gradient(i, staged, gradients, settle) for i in normalizer.inputs if i.grad and _is_used(i, staged)
    )
    dqk = sy.freeze(settle(gradient_wrt(sy.atom("qk"), staged, gradients)))
    prepass = tuple(RowSum(symbol.name, sy.freeze(settle(summand))) for symbol, summand in gradients.prepass.items())
    used = _names_in([dqk, *(g.value for g in inputs), *(s.body for g in inputs for s in g.sums)])
    return Backward(
        weights=sy.freeze(settle(staged.weights)),
        dqk=dqk,
        dp=DP.name,
        delta=DELTA.name if DELTA.name in used else None,
        products=tuple(
            RowProduct(symbol.name, carries.accumulators[index].symbol.name)
            for symbol, index in gradients.products.items()
            if symbol.name in used
        ),
        prepass=tuple(p for p in prepass if p.name in used),
        inputs=inputs,
    )


def _is_used(spec_input: ir.Input, staged: Staged) -> bool:
    symbol = sy.atom(spec_input.name)
    bodies = [staged.weights, *(s.body for s in staged.statistics)]
    return any(sy.uses(body, [symbol]) for body in bodies)


def _names_in(exprs: Iterable[ir.Expr]) -> frozenset[str]:
    return frozenset(name for expr in exprs for name in ir.names(expr))


def _input_gradient(
    spec_input: ir.Input, staged: Staged, gradients: Gradients, settle: Callable[[Sym], Sym]
) -> InputGradient:
    variable = sy.atom(spec_input.name)
    level: Level = "row" if "key" not in spec_input.axes else "pair" if "query" in spec_input.axes else "key"
    if level != "row":
        return InputGradient(spec_input.name, level, sy.freeze(settle(gradient_wrt(variable, staged, gradients))))
    share = row_share(variable, staged)
    if share is not None:
        return InputGradient(spec_input.name, level, sy.freeze(settle(sy.attach(share) * DELTA)))
    total = sy.symbol(f"%d_{spec_input.name}")
    summand = sy.factor_terms(settle(gradient_wrt(variable, staged, gradients)))
    if summand == 0:
        return InputGradient(spec_input.name, level, sy.freeze(summand))
    outside = sy.Mul(*(f for f in sy.Mul.make_args(summand) if _may_leave(f, staged)))
    body = RowSum(total.name, sy.freeze(summand / outside))
    return InputGradient(spec_input.name, level, sy.freeze(total * outside), (body,))


def _may_leave(factor: Sym, staged: Staged) -> bool:
    """A factor of the row leaves the sum over the keys, unless it holds the exponential that keeps the sum bounded."""
    return staged.scope.is_row(factor) and not factor.has(sy.exp, DP, DELTA)
