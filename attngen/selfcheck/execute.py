"""Execution of a plan on one case, in float64: what its kernels compute, without tiles, languages and rounding.

Blocks of keys are carried from the identity and merged by the merge law: the pivot becomes the larger one, a sum that
is relative to it is rescaled by exp(power * (its own pivot - the merged one)), or by the power of their ratio. A
formula sees exactly the names that the kernel has at that place, so that a value which is not saved or handed over is
missed here too.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import reduce

from attngen import ir
from attngen.analysis.result import Accumulator, Carry, ChannelSum, Deferred, ForwardPass, InputGradient, Pivot, Root
from attngen.schedule import OpPlan, sums_of
from attngen.selfcheck.arithmetic import exp, larger, logarithm, smaller
from attngen.selfcheck.case import Case
from attngen.selfcheck.evaluate import Evaluation, Names, Program, program
from attngen.selfcheck.search import Trial, zero_between


@dataclass(frozen=True, slots=True)
class Partial:
    """What a pass knows after some of the keys; carries have one channel, accumulators those of the values."""

    pivots: dict[str, float]
    carried: dict[str, list[float]]


@dataclass(frozen=True, slots=True)
class RowGradients:
    """Of one row: the weights and the gradient of the dot product, over the keys that it sees, and of each input.

    `qk` is what the key kernel finds, `qk_by_query` the query kernel. An input's list is over the keys, or holds one
    number if the input doesn't vary within a row.
    """

    weights: list[float]
    qk: list[float]
    qk_by_query: list[float]
    inputs: dict[str, list[float]]


@dataclass(frozen=True, slots=True)
class RowResult:
    """`known`: row values by name when the last pass has ended; `carried`: the accumulators among others.

    `weighted` is the weighted sum, relative to its pivot if a step follows that makes up for it.
    """

    output: list[float]
    weighted: list[float]
    has_step: bool
    known: dict[str, float]
    carried: dict[str, list[float]]


class Execution:
    """A plan with its formulas made ready."""

    def __init__(self, plan: OpPlan) -> None:
        self.plan = plan
        self.programs: dict[int, Program] = {}  # by identity of the formula: the plan keeps them alive

    def value(self, expr: ir.Expr, names: Names, width: int = 1) -> list[float]:
        steps = self.programs.get(id(expr))
        if steps is None:
            steps = self.programs.setdefault(id(expr), program(expr))
        return Evaluation(width).run(steps, names)

    def forward(self, case: Case, row: int) -> RowResult:
        forward = self.plan.analysis.forward
        known = case.row_names(row)
        carried: dict[str, list[float]] = {}
        for one_pass in forward.passes:
            if one_pass.root is not None:
                known = known | {one_pass.root.name: self._search(one_pass, one_pass.root, case, row, known)}
                continue
            merged = self._walk(one_pass, case, row, known)
            carried = merged.carried
            known = known | _divisors(one_pass, merged.pivots) | {c.name: carried[c.name][0] for c in one_pass.carries}
            known |= {s.name: self.value(s.value, known)[0] for s in one_pass.statistics}
        factors = [self.value(factor, known)[0] for factor in forward.factors]
        parts_of_output = [
            [factor * x for x in carried[a.name]] for factor, a in zip(factors, forward.accumulators, strict=True)
        ]
        weighted = [sum(channel) for channel in zip(*parts_of_output, strict=True)]
        has_step = self.plan.analysis.output is not None
        return RowResult(self._last_step(weighted, known), weighted, has_step, known, carried)

    def _last_step(self, weighted: list[float], known: Mapping[str, float]) -> list[float]:
        output = self.plan.analysis.output
        if output is None:
            return weighted
        names = self._over_channels(output.sums, {**known, output.name: weighted}, len(weighted))
        return self.value(output.value, names, len(weighted))

    def _over_channels(self, sums: Iterable[ChannelSum], names: Names, channels: int) -> Names:
        """The names with those of the sums, each of which may use the ones before."""
        for one in sums:
            names = {**names, one.name: sum(self.value(one.body, names, channels))}
        return names

    def _through_output(self, case: Case, row: int, result: RowResult) -> tuple[list[float], dict[str, float]]:
        """The gradient of the weighted sum, and the parts of input gradients that come from the step behind it."""
        output, d_out = self.plan.analysis.output, case.d_out[row]
        if output is None:
            return d_out, {}
        saved = {name: result.known[name] for name in self.plan.saved_rows}
        names: Names = {**case.row_names(row), **saved, output.name: result.weighted, output.d_out: d_out}
        names = self._over_channels((*output.sums, *output.adjoints), names, len(d_out))
        inputs = {s.name: sum(self.value(s.body, names, len(d_out))) for s in output.inputs}
        return self.value(output.gradient, names, len(d_out)), inputs

    def _walk(self, one_pass: ForwardPass, case: Case, row: int, known: dict[str, float]) -> Partial:
        accumulators = self.plan.analysis.forward.accumulators if self._is_last(one_pass) else ()
        parts = [self._block(one_pass, accumulators, _BlockOfRow(case, row, keys, known)) for keys in case.blocks]
        return reduce(lambda a, b: merge(a, b, one_pass, accumulators), parts)

    def _is_last(self, one_pass: ForwardPass) -> bool:
        return one_pass is self.plan.analysis.forward.passes[-1]

    def _search(self, one_pass: ForwardPass, root: Root, case: Case, row: int, known: dict[str, float]) -> float:
        formulas = root.residual, root.slope, root.curvature, root.magnitude, root.size

        def trial(x: float) -> Trial:
            here = known | {root.name: x}
            merged = self._walk(one_pass, case, row, here)
            here |= _divisors(one_pass, merged.pivots) | {c.name: merged.carried[c.name][0] for c in one_pass.carries}
            return Trial(*(self.value(formula, here)[0] for formula in formulas))

        low, high = (self.value(bound, known)[0] for bound in (root.low, root.high))
        return zero_between(low, high, root.direction, trial)

    def _block(self, one_pass: ForwardPass, accumulators: tuple[Accumulator, ...], block: "_BlockOfRow") -> Partial:
        keys, names, width = block.keys, block.names(), len(block.keys)
        if not keys:
            return identity(one_pass, accumulators, len(block.case.value[0]))
        pivots = {p.name: max(self.value(p.exponent, names, width)) for p in one_pass.pivots}
        names = {**names, **_divisors(one_pass, pivots)}
        carried = {c.name: [_reduced(c.kind, self.value(c.body, names, width))] for c in one_pass.carries}
        for accumulator in accumulators:
            weights = self.value(accumulator.body, names, width)
            carried[accumulator.name] = _weighted(weights, [block.case.value[key] for key in keys])
        return Partial(pivots, carried)

    def backward(self, case: Case, row: int, result: RowResult) -> RowGradients:
        plan, backward = self.plan, self.plan.analysis.backward
        saved = {name: result.known[name] for name in plan.saved_rows}
        d_weighted, by_output = self._through_output(case, row, result)
        found = self._row_values(d_weighted, result)
        width = len(case.seen[row])
        d_weights = [_dot(d_weighted, case.value[key]) for key in case.seen[row]]
        base: Names = {**case.names(row), **saved, backward.dp: d_weights}
        summed = self._sums(((p.name, p.body) for p in backward.prepass), {**base, **found}, width)
        by_query: dict[str, float] = {**case.row_names(row), **saved, **found, **summed}
        if plan.deferred is None:
            inputs = self._row_inputs(plan.row_gradients, {**base, **by_query}, by_query, width)
        else:  # the query kernel knows the sum of the prepass only at its end
            inputs = self._row_inputs(plan.deferred.inputs, {**base, **found}, by_query, width)
        inputs |= {name: [x + by_output.get(name, 0.0) for x in of_row] for name, of_row in inputs.items()}
        by_key: Names = {**base, **{name: by_query[name] for name in plan.handed_over}}
        for gradient in plan.key_gradients + plan.pair_gradients:
            inputs[gradient.name] = self.value(gradient.value, by_key, width)
        weights, qk = (self.value(expr, by_key, width) for expr in (backward.weights, backward.dqk))
        return RowGradients(weights, qk, self._for_query(plan.deferred, {**base, **found}, by_query, qk), inputs)

    def _row_inputs(
        self, gradients: Iterable[InputGradient], pairs: Names, rows: dict[str, float], width: int
    ) -> dict[str, list[float]]:
        gradients = tuple(gradients)
        sums = self._sums(((s.name, s.body) for s in sums_of(gradients)), pairs, width)
        return {g.name: self.value(g.value, {**rows, **sums}) for g in gradients}

    def _for_query(
        self, deferred: Deferred | None, pairs: Names, rows: dict[str, float], qk: list[float]
    ) -> list[float]:
        """The gradient of the dot product as the query kernel puts it together."""
        if deferred is None:
            return qk
        own, slope = (self.value(expr, pairs, len(qk)) for expr in (deferred.own, deferred.slope))
        return [a + rows[deferred.late] * b for a, b in zip(own, slope, strict=True)]

    def _row_values(self, d_weighted: list[float], result: RowResult) -> dict[str, float]:
        """delta = dO . O, and the products of dO with the saved accumulators; O without the step behind it."""
        backward, saved = self.plan.analysis.backward, result.carried
        found = {} if backward.delta is None else {backward.delta: _dot(d_weighted, result.weighted)}
        products = [p for p in backward.products if p.accumulator in self.plan.saved_accumulators]
        return found | {p.name: _dot(d_weighted, saved[p.accumulator]) for p in products}

    def _sums(self, bodies: Iterable[tuple[str, ir.Expr]], names: Names, width: int) -> dict[str, float]:
        return {name: sum(self.value(body, names, width)) for name, body in bodies}


@dataclass(frozen=True, slots=True)
class _BlockOfRow:
    case: Case
    row: int
    block: tuple[int, ...]
    known: Mapping[str, float]

    @property
    def keys(self) -> list[int]:
        """The keys of the block that the row sees."""
        return [key for key in self.block if key in self.case.seen[self.row]]

    def names(self) -> Names:
        pairs = {name: [m[self.row][key] for key in self.keys] for name, m in self.case.pairs.items()}
        return {**self.known, **pairs}


def identity(one_pass: ForwardPass, accumulators: tuple[Accumulator, ...], channels: int) -> Partial:
    """What is known before any key."""
    start = {"sum": 0.0, "amax": -math.inf, "amin": math.inf}
    carried = {c.name: [start[c.kind]] for c in one_pass.carries}
    carried |= {a.name: [0.0] * channels for a in accumulators}
    return Partial({p.name: -math.inf for p in one_pass.pivots}, carried)


def merge(a: Partial, b: Partial, one_pass: ForwardPass, accumulators: tuple[Accumulator, ...]) -> Partial:
    """The merge law: associative and commutative, with `identity`."""
    pivots = {name: max(pivot, b.pivots[name]) for name, pivot in a.pivots.items()}
    rescales = [{p.name: _logarithm_of_rescale(p, part, pivots) for p in one_pass.pivots} for part in (a, b)]
    carried = {}
    sums: tuple[Carry | Accumulator, ...] = (*one_pass.carries, *accumulators)
    for c in sums:
        mine, other = (_rescaled(*each, c) for each in zip((a, b), rescales, strict=True))
        choose = _MERGED[c.kind if isinstance(c, Carry) else "sum"]
        carried[c.name] = [choose(x, y) for x, y in zip(mine, other, strict=True)]
    return Partial(pivots, carried)


_MERGED = {"sum": lambda x, y: x + y, "amax": larger, "amin": smaller}


def _logarithm_of_rescale(pivot: Pivot, part: Partial, merged: Mapping[str, float]) -> float:
    """Of a sum of power one; a part without keys, or with none but zeros, holds nothing to rescale."""
    old, new = part.pivots[pivot.name], merged[pivot.name]
    if old == -math.inf:
        return 0.0
    if pivot.kind == "exponential":
        return old - new
    return logarithm(old) - logarithm(new) if old > 0 else 0.0


def _rescaled(part: Partial, rescales: Mapping[str, float], carry: Carry | Accumulator) -> list[float]:
    if carry.pivot is None:
        return part.carried[carry.name]
    rescale = exp(float(carry.power) * rescales[carry.pivot])
    return [x * rescale for x in part.carried[carry.name]]


def _divisors(one_pass: ForwardPass, pivots: Mapping[str, float]) -> dict[str, float]:
    """The pivots as formulas see them: that of a power counts as one if it is zero."""
    return {p.name: pivots[p.name] or (1.0 if p.kind == "power" else 0.0) for p in one_pass.pivots}


def _reduced(kind: str, values: list[float]) -> float:
    return sum(values) if kind == "sum" else reduce(_MERGED[kind], values)


def _weighted(weights: list[float], values: list[list[float]]) -> list[float]:
    return [_dot(weights, channel) for channel in map(list, zip(*values, strict=True))]


def _dot(a: Iterable[float], b: Iterable[float]) -> float:
    return sum(x * y for x, y in zip(a, b, strict=True))
