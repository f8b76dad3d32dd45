"""Schedule: analysis -> the kernels' work: what is saved, what each kernel reads and hands on, what it all costs.

Decides nothing about tiles, languages or text. Costs are counted in products (GEMMs) over all pairs of query and key,
and in row vectors or output-sized tensors that live from the forward to the backward.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from attngen import ir, notation
from attngen.analysis.resting import telling
from attngen.analysis.result import (
    Accumulator,
    Analysis,
    Carry,
    Deferred,
    InputGradient,
    Output,
    Pivot,
    RowStatistic,
    RowSum,
)

# A walk over the keys of its own; one walk, with the adjoint applied at its end; accumulators more in the forward.
AdjointWay = Literal["walk", "deferred", "saved"]

# Walks over the keys that the search for a root may take. Halley's method takes 3 to 8; the limit holds for formulas on
# which it falls back to halving a bracket that may be wide.
ROOT_TRIALS = 48


@dataclass(frozen=True, slots=True)
class Costs:
    """Products per pair of blocks: the forward's over all passes, a root's once for each trial, and each kernel's.

    `adjoints`: products that the row adjoints would take by each way, beyond those of the gradients; empty if they need
    no sum over the keys but delta and what the forward accumulates anyway. The first of the cheapest is taken.
    """

    forward: int
    backward_query: int
    backward_key: int
    backward_pair: int
    adjoints: tuple[tuple[AdjointWay, int], ...]

    @property
    def adjoint_way(self) -> AdjointWay | None:
        """The way that is taken: the first of the cheapest that kernels know."""
        known = [(count, way) for way, count in self.adjoints if way != "saved"]
        return min(known, key=lambda pair: pair[0])[1] if known else None


@dataclass(frozen=True, slots=True)
class AuxRow:
    """A row value that a call returns on request: `name` as its field, the saved row that it is, its meaning.

    `prefix` stands before the meaning, "log " or nothing; `suffix` behind it, where a sum is relative to a pivot.
    `of_nothing` is the value for a row that sees no key, in fp32.
    """

    name: str
    row: str
    prefix: str
    meaning: ir.Expr
    suffix: str
    of_nothing: str


@dataclass(frozen=True, slots=True)
class OpPlan:
    """What an op's kernels compute.

    `aux`: what a caller may ask for. `saved_rows`: row values (fp32, one per query) that the forward stores for the
    backward and for `aux`; `saved_accumulators`: accumulators it stores (fp32, Dv per query). `handed_over`: row values
    that the query kernel of the backward computes and the key kernel reads. `row_sums`: sums over keys for the
    gradients of row-level inputs.
    """

    normalizer: ir.Normalizer
    analysis: Analysis
    aux: tuple[AuxRow, ...]
    saved_rows: tuple[str, ...]
    saved_accumulators: tuple[str, ...]
    handed_over: tuple[str, ...]
    deferred: Deferred | None
    row_gradients: tuple[InputGradient, ...]
    key_gradients: tuple[InputGradient, ...]
    pair_gradients: tuple[InputGradient, ...]
    costs: Costs

    @property
    def telling(self) -> tuple[str, ...]:
        """Sums of the last pass that tell whether its pivots may rest below the maxima: one at least relative to each
        pivot, or none at all. Pivots that a caller may ask for are maxima.

        While such a sum is neither huge nor tiny, its terms are exact relative to any pivot, not the maximum alone.
        """
        pivots = {pivot.name for pivot in self.analysis.forward.passes[-1].pivots}
        return telling(self.analysis.forward) if pivots.isdisjoint(row.row for row in self.aux) else ()

    @property
    def row_sums(self) -> tuple[RowSum, ...]:
        return sums_of(self.row_gradients)


def root_passes(plan: OpPlan) -> int:
    """How many passes are walked again for every trial."""
    return sum(this.root is not None for this in plan.analysis.forward.passes)


def has_pairs(plan: OpPlan) -> bool:
    """Whether inputs have a query and a key axis."""
    return any({"query", "key"} <= set(declared.axes) for declared in plan.normalizer.inputs)


def pivot_of_output(plan: OpPlan) -> str | None:
    """The pivot that the weighted sum is relative to where a step follows it, if it is."""
    if plan.analysis.output is None:
        return None
    forward = plan.analysis.forward
    carried = {x.name for p in forward.passes for group in (p.pivots, p.carries, p.statistics) for x in group}
    makes_up = any(ir.names(factor) & carried for factor in forward.factors)
    return None if makes_up or len(forward.accumulators) > 1 else forward.accumulators[0].pivot


def sums_of(gradients: Iterable[InputGradient]) -> tuple[RowSum, ...]:
    return tuple(s for gradient in gradients for s in gradient.sums)


def schedule(normalizer: ir.Normalizer, analysis: Analysis) -> OpPlan:
    """What the kernels of an analysed normalizer save, read, hand on and cost."""
    backward, aux = analysis.backward, _aux(analysis)
    by_level = {level: tuple(g for g in backward.inputs if g.level == level) for level in ("row", "key", "pair")}
    costs = _costs(normalizer, analysis)
    return OpPlan(
        normalizer=normalizer,
        analysis=analysis,
        aux=aux,
        saved_rows=tuple(dict.fromkeys(_saved_rows(analysis) + tuple(a.row for a in aux))),
        saved_accumulators=_saved_accumulators(analysis),
        handed_over=_handed_over(analysis),
        deferred=backward.deferred if costs.adjoint_way == "deferred" else None,
        row_gradients=by_level["row"],
        key_gradients=by_level["key"],
        pair_gradients=by_level["pair"],
        costs=costs,
    )


def _backward_names(analysis: Analysis) -> frozenset[str]:
    backward = analysis.backward
    exprs = [backward.weights, backward.dqk, *(p.body for p in backward.prepass)]
    exprs += [g.value for g in backward.inputs] + [s.body for g in backward.inputs for s in g.sums]
    if analysis.output is not None:
        exprs += formulas_of_output_gradient(analysis.output)
    return frozenset().union(*map(ir.names, exprs))


def formulas_of_output_gradient(output: Output) -> list[ir.Expr]:
    sums = (*output.sums, *output.adjoints, *output.inputs)
    return [*(s.body for s in sums), output.gradient]


def _aux(analysis: Analysis) -> tuple[AuxRow, ...]:
    """The statistics, under the spec's names where it has any; what is relative to a pivot comes with its pivot."""
    rows: dict[str, AuxRow] = {}
    used = _forward_names(analysis)
    for this in analysis.forward.passes:
        pivots = {p.name: p for p in this.pivots}
        carries = [None] if this.root else this.carries
        for carry, statistic in zip(carries, this.statistics, strict=True):
            pivot = pivots.get(carry.pivot or "") if carry and not statistic.logarithmic else None
            row = _aux_row(carry, statistic, pivot)
            if statistic.name in used:
                rows.setdefault(row.name, row)
            if pivot is not None:
                least = "0" if pivot.kind == "exponential" else "1"
                rows[pivot.name] = AuxRow(pivot.name, pivot.name, "", ir.Reduce("amax", pivot.exponent), "", least)
    return tuple(rows.values())


def _aux_row(carry: Carry | None, statistic: RowStatistic, pivot: Pivot | None) -> AuxRow:
    suffix = ""
    if carry is not None and pivot is not None:
        name, power = ir.Name(pivot.name), ir.Number(carry.power)
        exponent = name if carry.power == 1 else ir.apply("mul", power, name)
        suffix = f" * {notation.text(ir.apply('exp', ir.apply('neg', exponent)))}"
        if pivot.kind == "power":
            suffix = f" / {notation.text(ir.apply('pow', name, power))}"
    of_nothing = "0"  # its bounds count as zero where there is nothing to reduce
    if carry is not None:
        of_nothing = {"sum": _empty_sum(statistic), "amax": "-inf", "amin": "inf"}[carry.kind]
    shown, prefix = statistic.label or statistic.name, "log " if statistic.logarithmic else ""
    return AuxRow(shown, statistic.name, prefix, statistic.meaning, suffix, of_nothing)


def _empty_sum(statistic: RowStatistic) -> str:
    if any(isinstance(e, ir.Apply) and e.op == "nonzero" for e in ir.walk(statistic.value)):
        return "log(2**-100)" if statistic.logarithmic else "2**-100"
    return "-inf" if statistic.logarithmic else "0"


def _forward_names(analysis: Analysis) -> frozenset[str]:
    """What the weights are made of; other statistics are there for the backward alone."""
    forward, exprs = analysis.forward, [analysis.backward.weights, *analysis.forward.factors]
    for this in forward.passes:
        exprs += [c.body for c in this.carries] + [s.value for s in this.statistics if s.name not in ir.names(s.value)]
        exprs += [this.root.low, this.root.high] if this.root else []
    return frozenset().union(*map(ir.names, exprs))


def _saved_accumulators(analysis: Analysis) -> tuple[str, ...]:
    """Those that products need; and the weighted sum, last of all, if a step follows it."""
    products = tuple(p.accumulator for p in analysis.backward.products)
    return (*products, analysis.output.name) if analysis.output else products


def _saved_rows(analysis: Analysis) -> tuple[str, ...]:
    """Statistics, pivots and carries of the forward that some formula of the backward uses."""
    used = _backward_names(analysis)
    rows: dict[str, None] = {}
    for forward_pass in analysis.forward.passes:
        names = [s.name for s in forward_pass.statistics]
        names += [c.name for c in forward_pass.carries] + [p.name for p in forward_pass.pivots]
        rows.update(dict.fromkeys(name for name in names if name in used))
    return tuple(rows)


def _handed_over(analysis: Analysis) -> tuple[str, ...]:
    backward = analysis.backward
    exprs = [backward.weights, backward.dqk] + [g.value for g in backward.inputs if g.level != "row"]
    used = frozenset().union(*map(ir.names, exprs))
    candidates = [backward.delta] if backward.delta else []
    candidates += [p.name for p in backward.products] + [p.name for p in backward.prepass]
    return tuple(name for name in candidates if name in used)


def _costs(normalizer: ir.Normalizer, analysis: Analysis) -> Costs:
    products = sum(_needs_product(a, normalizer) for a in analysis.forward.accumulators)
    passes = len(analysis.forward.passes)
    ways = _adjoint_ways(analysis)
    pair = any(gradient.level == "pair" for gradient in analysis.backward.inputs)
    return Costs(
        passes + products,
        3 + min((count for way, count in ways if way != "saved"), default=0),
        4,
        2 if pair else 0,
        ways,
    )


def _adjoint_ways(analysis: Analysis) -> tuple[tuple[AdjointWay, int], ...]:
    """The ways to the sums of the backward's own, those that are taken first if they cost the same before others.

    An accumulator more in the forward could serve a sum that uses dP, for a product and memory: they never cost least.
    """
    backward = analysis.backward
    if not backward.prepass:
        return ()
    deferred: tuple[tuple[AdjointWay, int], ...] = (("deferred", 1),) if backward.deferred else ()
    servable = all(backward.dp in ir.names(row_sum.body) for row_sum in backward.prepass)
    saved: tuple[tuple[AdjointWay, int], ...] = (("saved", len(backward.prepass)),) if servable else ()
    return *deferred, ("walk", 2), *saved


def _needs_product(accumulator: Accumulator, normalizer: ir.Normalizer) -> bool:
    """A weight that is the same for all rows needs no product on wholly visible tiles: a column sum will do."""
    same = {"scale", "d", "n_q", "n_k", "pi", "j"} | {i.name for i in normalizer.inputs if "query" not in i.axes}
    return bool(ir.names(accumulator.body) - same)
