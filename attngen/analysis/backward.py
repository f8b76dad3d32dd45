"""The backward: gradients in the stable form, as formulas of what the forward leaves behind.

Turns row adjoints and pair gradients, which speak of statistics, into formulas of saved values, of sums over the keys
and of `dp`. Where one sum of the backward's own is needed, the gradients are also given with that sum kept outside of
theirs, so that a kernel may add everything up in one walk. Which of the two is taken is the schedule's business.
"""

from dataclasses import dataclass
from functools import cached_property

from attngen import ir
from attngen.analysis import support as zero
from attngen.analysis import symbolic as sy
from attngen.analysis.carries import Carries
from attngen.analysis.freeze import freeze
from attngen.analysis.functions import ONE, ZERO, Sym
from attngen.analysis.gradient import DELTA, DP, Gradients, derive_adjoints, gradient_wrt, row_share
from attngen.analysis.passes import Staged
from attngen.analysis.result import Adjoint, Backward, Deferred, InputGradient, Level, RowProduct, RowSum
from attngen.analysis.stabilize import plain


@dataclass(frozen=True)
class Settled:
    """The gradients of a staged normalizer."""

    normalizer: ir.Normalizer
    staged: Staged
    carries: Carries

    @cached_property
    def gradients(self) -> Gradients:
        return derive_adjoints(self.staged, self.carries)

    def settle(self, expr: Sym) -> Sym:
        """In terms of what is known behind all passes, and stable. dP is that of the sum relative to its unit."""
        relative = {DP: DP / self.carries.output_unit}
        return sy.factor_terms(plain(self.carries.normalized(expr.xreplace(relative))))

    @cached_property
    def weights(self) -> Sym:
        return self.settle(self.staged.weights / self.carries.output_unit)

    @cached_property
    def dqk(self) -> Sym:
        return self.settle(gradient_wrt(sy.atom("qk"), self.staged, self.gradients))

    @cached_property
    def inputs(self) -> tuple["_Gradient", ...]:
        """The gradients of the inputs that want one and occur in the weights or, then of zero, behind them."""
        bodies = [self.staged.weights, *(s.body for s in self.staged.statistics)]
        used = set().union(ir.names(self.normalizer.output), *({s.name for s in body.free_symbols} for body in bodies))
        return tuple(_gradient(i, self) for i in self.normalizer.inputs if i.grad and i.name in used)

    @cached_property
    def prepass(self) -> dict[Sym, Sym]:
        return {symbol: self.settle(summand) for symbol, summand in self.gradients.prepass.items()}

    def adjoints(self) -> tuple[Adjoint, ...]:
        return tuple(Adjoint(s.name, freeze(value)) for s, value in self.gradients.adjoints.items())

    def backward(self) -> Backward:
        used = self._used()
        products = self.gradients.products.items()
        accumulators = self.carries.accumulators
        return Backward(
            weights=freeze(self.weights),
            dqk=freeze(self.dqk),
            dp=DP.name,
            delta=DELTA.name if DELTA in used else None,
            products=tuple(RowProduct(s.name, accumulators[index].symbol.name) for s, index in products if s in used),
            prepass=tuple(RowSum(s.name, freeze(summand)) for s, summand in self.prepass.items() if s in used),
            inputs=tuple(i.result() for i in self.inputs),
            deferred=self.deferred(),
        )

    def _used(self) -> set[Sym]:
        """What the gradients are made of: also what only a sum is made of that they use, and so on."""
        formulas = [self.dqk, *(v for i in self.inputs for v in i.formulas)]
        used: set[Sym] = set()
        while formulas:
            new = formulas.pop().free_symbols - used
            used |= new
            formulas += [self.prepass[symbol] for symbol in new if symbol in self.prepass]
        return used

    def deferred(self) -> Deferred | None:
        """The gradients with the one sum that they need kept outside; None if there are several, or not as a factor."""
        sums = [s for s in self.prepass if s in self._used()]
        rows = [v for i in self.inputs if i.level == "row" for v in i.formulas]
        if len(sums) != 1 or any(sy.uses(sy.derivative(v, sums[0]), sums) for v in (self.dqk, *rows)):
            return None
        (late,) = sums
        own, slope = parts(self.dqk, late)
        gradients = tuple(i.result(late) for i in self.inputs if i.level == "row")
        return Deferred(late.name, freeze(own), freeze(slope), gradients)

    def support(self) -> ir.Expr | None:
        """See `support`. Sums over the keys of what vanishes there are no obstacle."""
        accumulated = [self.settle(term.f) for term in self.staged.terms]
        pairs = [value for i in self.inputs for value in i.of_pairs]
        formulas = (self.weights, self.dqk, *accumulated, *pairs, *self.prepass.values())
        found = zero.support(formulas, self.staged.scope)
        return None if found is None else freeze(found)


@dataclass(frozen=True)
class _Gradient:
    """The gradient of one input: `value`, or if there is a summand `value` times its sum over the keys."""

    name: str
    level: Level
    value: Sym
    summand: Sym | None = None

    @property
    def formulas(self) -> tuple[Sym, ...]:
        return (self.value,) if self.summand is None else (self.value, self.summand)

    @property
    def of_pairs(self) -> tuple[Sym, ...]:
        """What is summed over pairs or is itself one number for each."""
        return self.formulas[-1:] if self.summand is not None or self.level != "row" else ()

    def result(self, late: Sym | None = None) -> InputGradient:
        """With `late`, a row value known only when all sums are complete, kept outside of them."""
        if self.summand is None:
            return InputGradient(self.name, self.level, freeze(self.value))
        total = sy.symbol(f"%d_{self.name}")
        if late is None or not sy.uses(self.summand, [late]):
            sums, value = {total: self.summand}, total * self.value
        else:
            own, slope = parts(self.summand, late)
            sums = {total: own, sy.symbol(f"{total.name}_late"): slope}
            value = sy.Add(*(t * f for t, f in zip(sums, (ONE, late), strict=True))) * self.value
        bodies = tuple(RowSum(symbol.name, freeze(body)) for symbol, body in sums.items())
        return InputGradient(self.name, self.level, freeze(value), bodies)


def _gradient(spec_input: ir.Input, settled: Settled) -> _Gradient:
    variable, staged = sy.atom(spec_input.name), settled.staged
    level: Level = "row" if "key" not in spec_input.axes else "pair" if "query" in spec_input.axes else "key"
    share = row_share(variable, staged) if level == "row" else None
    if share is not None:
        return _Gradient(spec_input.name, level, settled.settle(sy.attach(share) * DELTA))
    value = settled.settle(gradient_wrt(variable, staged, settled.gradients))
    if level != "row" or value == 0:
        return _Gradient(spec_input.name, level, value)
    summand = sy.factor_terms(value)
    outside = sy.Mul(*(f for f in sy.Mul.make_args(summand) if _may_leave(f, staged)))
    return _Gradient(spec_input.name, level, outside, summand / outside)


def _may_leave(factor: Sym, staged: Staged) -> bool:
    """A factor of the row leaves the sum over the keys, unless it holds the exponential that keeps the sum bounded."""
    return staged.scope.is_row(factor) and not factor.has(sy.exp, DP, DELTA)


def parts(expr: Sym, late: Sym) -> tuple[Sym, Sym]:
    """expr = own + late * slope."""
    slope = sy.derivative(expr, late)
    return sy.factor_terms(plain(expr.xreplace({late: ZERO}))), sy.factor_terms(plain(slope))
