"""The target Hopper: `OpPlan` -> what the templates of its kernels print, or None if they can't say the plan.

The formulas are those of the plain Triton kernels, in a spelling of fewer instructions (`printers.HOPPER`); what is the
kernels' own is their structure: a warp that loads, warpgroups that compute, asynchronous products. Formulas that need
more registers than there are are left to the plain kernels.
"""

import math
from dataclasses import replace

from attngen.emit.configs import HOPPER_NARROW, HOPPER_SHORT, HOPPER_SOLO, HOPPER_WIDE, HopperTile
from attngen.emit.context import ForwardText, HopperBackward, HopperProduct, HopperText, HopperWalk, KernelUse
from attngen.emit.hopper_backward import tiles
from attngen.emit.lines import computed, read
from attngen.emit.printers import HOPPER
from attngen.emit.statements import OVER_KEYS, AccumulatorText, PassText, Scribe
from attngen.schedule import OpPlan

# Formulas of more lines don't fit into the registers beside the scores and the output, with 64 keys or 128.
MOST_LINES, MOST_LINES_OF_WIDE_TILES = 7, 3
# Beside an output of more channels, registers don't hold sums of values.
MOST_CHANNELS_BESIDE_SUMS = 128

# log(1 + u) / u on [0, 1], highest power first: minimax fit of degree 5, relative error below 9e-6. Weights are rounded
# to 16 bits, which is 200 times as much.
LOG1P_SHORT = (-0.02386915, 0.10122229, -0.21004869, 0.3252067, -0.49936134, 0.9999916)


def is_served(plan: OpPlan) -> bool:
    """Whether the kernels for Hopper know this kind of plan."""
    forward = plan.analysis.forward
    in_walks = all(this.carries or not this.root for this in forward.passes)  # trials without sums need no walk
    printed = _printed(plan)
    has_products = not all(_is_uniform(a, printed[-1]) for a in printed[-1].accumulators)
    return in_walks and has_products and max(map(_lines, printed)) <= MOST_LINES


def _printed(plan: OpPlan) -> tuple[PassText, ...]:
    scribe = Scribe(without_support(plan), HOPPER, OVER_KEYS)
    return tuple(scribe.forward_pass(n) for n in range(len(plan.analysis.forward.passes)))


def _lines(this: PassText) -> int:
    """A measure of how many tiles of values live at a time."""
    return len(this.before + this.after)


def without_support(plan: OpPlan) -> OpPlan:
    """The plan without the test for empty tiles: the kernels load ahead of it."""
    return replace(plan, analysis=replace(plan.analysis, support=None))


def without_input_gradients(plan: OpPlan) -> OpPlan:
    """The plan of calls that want gradients of query, key and value alone."""
    return replace(plan, row_gradients=(), key_gradients=(), pair_gradients=())


def hopper_text(forward: ForwardText, backward: HopperBackward | None, resting: tuple[str, ...]) -> HopperText:
    """Both are what printers for Hopper made of a plan that is served. A backward that doesn't fit is left out.
    `resting`: `OpPlan.telling`."""
    uniform = tuple(a for a in forward.passes[-1].accumulators if _is_uniform(a, forward.passes[-1]))
    backward_tiles = tiles(backward) if backward else ()
    return HopperText(
        forward=forward,
        walks=_walks(forward.passes, uniform),
        uniform=uniform,
        at_end=_beyond(forward.kernel, forward.passes),
        solo=_has_solo(forward, uniform),
        resting=resting if len(forward.passes) == 1 else (),
        backward=backward if backward_tiles else None,
        types=_types(forward, uniform),
        tiles=_sharing(_tiles(forward, uniform), forward.passes),
        backward_tiles=_sharing(backward_tiles, backward),
        log1p_polynomial=LOG1P_SHORT,
    )


def _beyond(kernel: KernelUse, passes: tuple[PassText, ...]) -> KernelUse:
    """What a kernel uses behind its passes alone."""
    inputs = {use for this in passes for use in this.uses.inputs}
    builtins = frozenset().union(*(this.uses.builtins for this in passes))
    return KernelUse(tuple(use for use in kernel.inputs if use not in inputs), kernel.builtins - builtins)


def _is_uniform(accumulator: AccumulatorText, this: PassText) -> bool:
    """Whether its weight is the same for all pairs."""
    varying = {"j", *(f"{use.name}_in" for use in this.uses.inputs if use.level == "key")}
    varying |= {*map(computed, this.before), *map(computed, this.after)}
    return accumulator.by_columns and varying.isdisjoint(read([accumulator.column]))


def _tiles(forward: ForwardText, uniform: tuple[AccumulatorText, ...]) -> tuple[HopperTile, ...]:
    if len(forward.output.terms) - len(uniform) > 1:
        return HOPPER_SHORT
    most = MOST_CHANNELS_BESIDE_SUMS if uniform else math.inf
    return tuple(tile for tile in _cut(forward, uniform) if tile.value_dim <= most)


def _sharing(tiles: tuple[HopperTile, ...], formulas: object) -> tuple[HopperTile, ...]:
    """The tiles, of one element per reciprocal where the formulas' text shares none."""
    return tiles if "SHARED" in repr(formulas) else tuple(replace(tile, shared=1) for tile in tiles)


def _cut(forward: ForwardText, uniform: tuple[AccumulatorText, ...]) -> tuple[HopperTile, ...]:
    if len(forward.passes) > 1 or not _is_light(forward.passes[0]):
        return HOPPER_NARROW
    return HOPPER_SOLO if _has_solo(forward, uniform) and _is_one_exponential(forward.passes[0]) else HOPPER_WIDE


def _has_solo(forward: ForwardText, uniform: tuple[AccumulatorText, ...]) -> bool:
    """Whether a warpgroup can do without another that loads: for one walk over the keys, and no sums of values."""
    return len(forward.passes) == 1 and not uniform


def _walks(passes: tuple[PassText, ...], uniform: tuple[AccumulatorText, ...]) -> tuple[HopperWalk, ...]:
    walks: list[HopperWalk] = []
    left: tuple[str, ...] = ()
    for number, this in enumerate(passes, start=1):
        name = "weights" if number == len(passes) else f"statistics{number}"
        products = tuple(a for a in this.accumulators if a not in uniform)
        searched = (this.root.name,) if this.root else ()
        walks.append(_walk(replace(this, accumulators=products), name, left + searched))
        left += (*searched, *walks[-1].state, *map(computed, this.statistics))
    return tuple(walks)


def _walk(this: PassText, function: str, left: tuple[str, ...]) -> HopperWalk:
    """`left` are the names of what the walks before leave behind."""
    pivots, carries = [p.name for p in this.pivots], [c.name for c in this.carries]
    state = (*pivots, *carries)
    rescales = tuple(dict.fromkeys(a.rescale for a in this.accumulators if a.rescale))
    return HopperWalk(
        text=this,
        function=function,
        given=_given(this, tuple(name for name in left if name not in state)),  # searches sum up under the same names
        state=state,
        kept=(*(f"{name}_kept" for name in pivots), *carries),
        products=_products(this.accumulators),
        rescales=rescales,
    )


def _products(accumulators: tuple[AccumulatorText, ...]) -> tuple[HopperProduct, ...]:
    """Names are short where there is one product alone."""
    prefixes = [f"{a.name}_" if len(accumulators) > 1 else "" for a in accumulators]
    return tuple(
        HopperProduct(a, f"{prefix}weights", f"{prefix}p", f"{a.name}_next")
        for a, prefix in zip(accumulators, prefixes, strict=True)
    )


def _is_light(this: PassText) -> bool:
    """Whether the registers hold a tile of 128 keys beside what its formulas need."""
    products = [accumulator for accumulator in this.accumulators if not _is_uniform(accumulator, this)]
    bodies = {carry.body for carry in this.carries} | {accumulator.body for accumulator in products}
    tiles = any(use.level in ("key", "pair") for use in this.uses.inputs)
    text = "\n".join(this.before + this.after)
    beside_logistic = "_logistic2_shared" in text and text.count("qk") > 1  # the scores wait for their reciprocals
    crowded = tiles or beside_logistic or "_sin(" in text or "_cos(" in text
    return _lines(this) <= MOST_LINES_OF_WIDE_TILES and len(bodies) == 1 and not crowded


def _is_one_exponential(this: PassText) -> bool:
    """Whether that of a score beside a pivot, their maximum, is nearly all that its weight takes."""
    return [pivot.exponent for pivot in this.pivots] == ["qk"]


def _given(this: PassText, left: tuple[str, ...]) -> tuple[str, ...]:
    sizes = {"d": "head_dim", "n_q": "query_count", "n_k": "key_count", "scale": "scale", "i": "i", "n": "n"}
    names = [text for name, text in sizes.items() if name in this.uses.builtins]
    names += [f"{use.name}_in" for use in this.uses.inputs if use.level != "key"]
    for use in this.uses.inputs:
        names += [f"{use.name}_in_base", f"{use.name}_in_stride_key"] if use.level == "key" else []
    words = set(read([repr((this.before, this.pivots, this.after, this.carries, this.accumulators))]))
    return (*names, *(name for name in dict.fromkeys(left) if name in words), *map(computed, this.outer))


def _types(forward: ForwardText, uniform: tuple[AccumulatorText, ...]) -> tuple[str, ...]:
    """Weights that are divided at the end, and that no pivot bounds until then, may leave float16's range."""
    pairs = zip(forward.passes[-1].accumulators, forward.output.terms, strict=True)
    bounded = all(a in uniform or a.rescale is not None or term.factor == "1.0" for a, term in pairs)
    return ("bfloat16", "float16") if bounded else ("bfloat16",)
