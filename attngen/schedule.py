"""Schedule: analysis -> the kernels' work: what is saved, what each kernel reads and hands on, what it all costs.

Decides nothing about tiles, languages or text. Costs are counted in products (GEMMs) over all pairs of query and key,
and in row vectors or output-sized tensors that live from the forward to the backward.
"""

from dataclasses import dataclass

from attngen import ir
from attngen.analysis.result import Accumulator, Analysis, InputGradient, RowSum


@dataclass(frozen=True, slots=True)
class Costs:
    """Products per pair of blocks: the forward's over all passes, and each backward kernel's."""

    forward: int
    backward_query: int
    backward_key: int
    backward_pair: int


@dataclass(frozen=True, slots=True)
class AuxRow:
    """A row value that a call returns on request: `name` as its field, the saved row that it is, its meaning.

    `prefix` stands before the meaning, "log " or nothing; `suffix` behind it, where a sum is relative to a pivot.
    """

    name: str
    row: str
    prefix: str
    meaning: ir.Expr
    suffix: str = ""
    is_pivot: bool = False

    @property
    def of_nothing(self) -> str:
        """Its value for a row that sees no key."""
        kind = self.meaning.kind if isinstance(self.meaning, ir.Reduce) else "sum"
        if self.is_pivot or (kind == "sum" and not self.prefix):
            return "0"
        return "inf" if kind == "amin" else "-inf"


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
    row_gradients: tuple[InputGradient, ...]
    key_gradients: tuple[InputGradient, ...]
    pair_gradients: tuple[InputGradient, ...]
    costs: Costs

    @property
    def row_sums(self) -> tuple[RowSum, ...]:
        return tuple(s for gradient in self.row_gradients for s in gradient.sums)


def schedule(normalizer: ir.Normalizer, analysis: Analysis) -> OpPlan:
    """What the kernels of an analysed normalizer save, read, hand on and cost."""
    backward, aux = analysis.backward, _aux(analysis)
    by_level = {level: tuple(g for g in backward.inputs if g.level == level) for level in ("row", "key", "pair")}
    return OpPlan(
        normalizer=normalizer,
        analysis=analysis,
        aux=aux,
        saved_rows=tuple(dict.fromkeys(_saved_rows(analysis) + tuple(a.row for a in aux))),
        saved_accumulators=tuple(p.accumulator for p in backward.products),
        handed_over=_handed_over(analysis),
        row_gradients=by_level["row"],
        key_gradients=by_level["key"],
        pair_gradients=by_level["pair"],
        costs=_costs(normalizer, analysis),
    )


def _backward_names(analysis: Analysis) -> frozenset[str]:
    backward = analysis.backward
    exprs = [backward.weights, backward.dqk, *(p.body for p in backward.prepass)]
    exprs += [g.value for g in backward.inputs] + [s.body for g in backward.inputs for s in g.sums]
    return frozenset().union(*map(ir.names, exprs))


def _aux(analysis: Analysis) -> tuple[AuxRow, ...]:
    """The statistics, under the spec's names where it has any; what is relative to a pivot comes with its pivot."""
    rows: dict[str, AuxRow] = {}
    for this in analysis.forward.passes:
        pivots = {p.name: p for p in this.pivots}
        for carry, statistic in zip(this.carries, this.statistics, strict=True):
            relative = carry.pivot is not None and not statistic.logarithmic
            suffix = f", relative to {carry.pivot}" if relative else ""
            prefix = "log " if statistic.logarithmic else ""
            row = AuxRow(statistic.label or statistic.name, statistic.name, prefix, statistic.meaning, suffix)
            rows.setdefault(row.name, row)
            if relative:
                exponent = ir.Reduce("amax", pivots[str(carry.pivot)].exponent)
                rows[str(carry.pivot)] = AuxRow(str(carry.pivot), str(carry.pivot), "", exponent, is_pivot=True)
    return tuple(rows.values())


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
    prepass = 2 if analysis.backward.prepass else 0
    pair = any(gradient.level == "pair" for gradient in analysis.backward.inputs)
    return Costs(passes + products, 3 + prepass, 4, 2 if pair else 0)


def _needs_product(accumulator: Accumulator, normalizer: ir.Normalizer) -> bool:
    """A weight that is the same for all rows needs no product on wholly visible tiles: a column sum will do."""
    same = {"scale", "d", "n_q", "n_k", "pi", "j"} | {i.name for i in normalizer.inputs if "query" not in i.axes}
    return bool(ir.names(accumulator.body) - same)
