"""What an explanation says of costs: per kernel the products, and the least bytes moved, as formulas of the sizes."""

from collections import Counter
from collections.abc import Iterable

from attngen import ir
from attngen.explain.document import Line, Paragraph, Section, Table
from attngen.explain.symbols import AXIS_SIZES
from attngen.explain.words import Words, multiple, product, total
from attngen.ir import Expr, Name
from attngen.schedule import ROOT_TRIALS, OpPlan, root_passes

_D, _DV, _NUMBER = Name("$D"), Name("$Dv"), ir.number(1)
_ROWS: tuple[ir.Axis, ...] = ("batch", "head", "query")
_KEYS: tuple[ir.Axis, ...] = ("batch", "kv_head", "key")
_COLUMNS: tuple[ir.Axis, ...] = ("batch", "head", "key")
_HALF, _FULL = 2, 4  # bytes of an element
Traffic = Counter[tuple[tuple[ir.Axis, ...], Expr]]  # axes, and channels of a vector -> bytes of an element


def costs_section(words: Words) -> Section:
    plan = words.plan
    rows = [_forward(plan), _query(plan), _key(plan), *(_pair(plan, g.name) for g in plan.pair_gradients)]
    pairs = product(ir.number(2), Name("$B"), Name("$Hq"), Name("$Nq"), Name("$Nk"))
    flops: Line = ("A product over ", _D, " channels of all pairs takes ", product(pairs, _D))
    flops += (" floating-point operations, one over ", _DV, " takes ", product(pairs, _DV), ". Channels are what ")
    flops += (
        "a kernel's products run over together. A causal mask halves the products of equally many queries and keys.",
    )
    trials = (
        "T is the number of walks that the search for a root takes, all roots together: mostly 3 to 8 for each, at "
    )
    trials += f"most {ROOT_TRIALS}."
    text = "Bytes are the least that can be: every tensor is moved once in each walk over it, in 16 bit; row values, "
    text += "accumulators and inputs in 32 bit. Keys and values come again for each block of queries, mostly from the "
    text += "cache."
    header = ("Kernel", "Products", "Channels", "Bytes read", "Bytes written")
    notes = [Paragraph(flops), Paragraph((text,))] + ([Paragraph((trials,))] if root_passes(plan) else [])
    return Section("Costs", (Table(header, tuple(rows)), *notes))


def _forward(plan: OpPlan) -> tuple[Line, ...]:
    passes, roots = len(plan.analysis.forward.passes), root_passes(plan)
    products = plan.costs.forward - passes
    trials = Name("$T") if roots else ir.number(0)
    walks = total([ir.number(passes - roots), trials])
    reads = Traffic({(_ROWS, _D): _HALF, (_KEYS, product(walks, _D)): _HALF, (_KEYS, _DV): _HALF})
    if not roots:
        reads = Traffic({(_ROWS, _D): _HALF, (_KEYS, _D): _HALF * passes, (_KEYS, _DV): _HALF})
    writes = Traffic({(_ROWS, _DV): _HALF}) + _saved(plan)
    channels = total([product(walks, _D), multiple(products, _DV)])
    count = total([ir.number(plan.costs.forward - roots), trials])
    return _line("forward", count, channels, reads + _inputs(plan, _forward_formulas(plan)), writes)


def _query(plan: OpPlan) -> tuple[Line, ...]:
    backward = plan.analysis.backward
    walks = 2 if plan.costs.adjoint_way == "walk" else 1
    reads = Traffic({(_ROWS, _D): _HALF, (_ROWS, _DV): _HALF * (2 if backward.delta else 1)})
    reads += Traffic({(_KEYS, _D): _HALF * walks, (_KEYS, _DV): _HALF * walks})
    reads += _saved(plan) - _unread(plan) + _inputs(plan, _query_formulas(plan))
    numbers = len(plan.handed_over) + len(plan.row_gradients)
    writes = Traffic({(_ROWS, _D): _HALF, (_ROWS, _NUMBER): _FULL * numbers})
    later = 1 if plan.deferred else 0
    channels = total([multiple(walks + 1 + later, _D), multiple(walks, _DV)])
    return _line("backward_query", ir.number(plan.costs.backward_query), channels, reads, writes)


def _key(plan: OpPlan) -> tuple[Line, ...]:
    gradients = [g.value for g in plan.key_gradients]
    formulas = [plan.analysis.backward.weights, plan.analysis.backward.dqk, *gradients]
    writes = Traffic({(_KEYS, _D): _HALF, (_KEYS, _DV): _HALF, (_COLUMNS, _NUMBER): _FULL * len(gradients)})
    channels = total([multiple(2, _D), multiple(2, _DV)])
    return _line(
        "backward_key", ir.number(plan.costs.backward_key), channels, _tiles(plan) + _inputs(plan, formulas), writes
    )


def _pair(plan: OpPlan, name: str) -> tuple[Line, ...]:
    gradient = next(g for g in plan.pair_gradients if g.name == name)
    axes = next(i.axes for i in plan.normalizer.inputs if i.name == name)
    reads = _tiles(plan) + _inputs(plan, [gradient.value])
    writes = Traffic({(axes, _NUMBER): _FULL})
    return _line(f"backward_pair_{name}", ir.number(plan.costs.backward_pair), total([_D, _DV]), reads, writes)


def _line(name: str, products: Expr, channels: Expr, reads: Traffic, writes: Traffic) -> tuple[Line, ...]:
    return (name,), (products,), (channels,), (_bytes(reads),), (_bytes(writes),)


def _bytes(traffic: Traffic) -> Expr:
    """The sum over all tensors, those of the same rows or keys together."""
    groups: dict[tuple[ir.Axis, ...], list[Expr]] = {}
    for (axes, channels), width in traffic.items():
        if width:
            groups.setdefault(axes, []).append(multiple(width, channels))
    sizes = {axes: [Name(AXIS_SIZES[axis]) for axis in axes] for axes in groups}
    return total(_times(sizes[axes], total(widths)) for axes, widths in groups.items())


def _times(sizes: list[Name], width: Expr) -> Expr:
    match width:
        case ir.Apply("mul", (ir.Number() as count, channels)):
            return product(count, *sizes, channels)
        case ir.Number():
            return product(width, *sizes)
    return product(*sizes, width)


def _tiles(plan: OpPlan) -> Traffic:
    """What the key and pair kernels read."""
    numbers = len(plan.saved_rows) + len(plan.handed_over)
    tensors = Traffic({(axes, channels): _HALF for axes in (_ROWS, _KEYS) for channels in (_D, _DV)})
    return tensors + Traffic({(_ROWS, _NUMBER): _FULL * numbers})


def _saved(plan: OpPlan) -> Traffic:
    numbers, vectors = len(plan.saved_rows), len(plan.saved_accumulators)
    return Traffic({(_ROWS, _NUMBER): _FULL * numbers, (_ROWS, _DV): _FULL * vectors})


def _unread(plan: OpPlan) -> Traffic:
    """What the query kernel doesn't read of it: it gets the weighted sum for delta alone, as the output elsewhere."""
    if plan.analysis.output is None:
        return Traffic()
    return Traffic({(_ROWS, _DV): _HALF if plan.analysis.backward.delta else _FULL})


def _inputs(plan: OpPlan, formulas: Iterable[Expr]) -> Traffic:
    """The inputs that the formulas use; scalars are passed over."""
    used = frozenset().union(*map(ir.names, formulas))
    found = Traffic()
    for spec_input in plan.normalizer.inputs:
        if spec_input.name in used and spec_input.axes:
            found[spec_input.axes, _NUMBER] += _FULL
    return found


def _forward_formulas(plan: OpPlan) -> list[Expr]:
    forward = plan.analysis.forward
    carried = [x.body for p in forward.passes for x in p.carries] + [a.body for a in forward.accumulators]
    exponents = [p.exponent for forward_pass in forward.passes for p in forward_pass.pivots]
    roots = [p.root for p in forward.passes if p.root]
    ends = [x for r in roots for x in (r.low, r.high, r.residual, r.slope, r.curvature, r.magnitude, r.size)]
    output = plan.analysis.output
    last = [output.value, *(s.body for s in output.sums)] if output else []
    return [*carried, *exponents, *ends, *forward.factors, *last]


def _query_formulas(plan: OpPlan) -> list[Expr]:
    backward = plan.analysis.backward
    sums = [s.body for group in (backward.prepass, plan.row_sums) for s in group]
    return [backward.dqk, *sums, *(g.value for g in plan.row_gradients)]
