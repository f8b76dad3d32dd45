"""Tile configurations as data: `OpPlan` -> rows per architecture, by kernel, head dim and element size.

Found by compiling ahead of time and reading registers, spills, shared memory and matrix instructions, with
`attngen tune --compile-only`; none has been timed on a GPU. For each kernel the rows are ordered by head dim; the first
that is wide enough serves. Formulas differ in what a score needs beside the products, so there are two tables.

A tile is (queries, keys, warps, stages). Four warps hold 64 rows of scores, eight 128 (keys stand for rows in the key
kernel): with fewer rows per warp several warps compute the same scores, with more of them registers run out.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from attngen import ir
from attngen.analysis.result import Accumulator, Carry
from attngen.emit.arrange import factors
from attngen.schedule import OpPlan, has_pairs, root_passes

Tile = tuple[int, int, int, int]
Table = Mapping[str, Mapping[tuple[int, int], Tile]]  # kernel -> (head dim, element size) up to which -> tile


@dataclass(frozen=True, slots=True)
class Config:
    """Queries, keys, warps and pipeline stages for head dims up to `width` and elements up to `itemsize` bytes."""

    kernel: str
    width: int
    itemsize: int
    tile: Tile


_LIGHT: Table = {
    "forward": {(64, 2): (64, 64, 4, 3), (128, 2): (128, 64, 8, 3), (256, 2): (128, 32, 8, 2)},
    "backward_query": {(64, 2): (64, 64, 4, 3), (128, 2): (64, 64, 4, 2), (256, 2): (32, 32, 4, 1)},
    "backward_key": {(64, 2): (64, 64, 4, 2), (128, 2): (32, 128, 8, 2), (256, 2): (32, 32, 4, 1)},
    "backward_pair": {(64, 2): (64, 64, 4, 1), (128, 2): (64, 64, 4, 1), (256, 2): (64, 32, 4, 1)},
}
_HEAVY: Table = {
    "forward": {(64, 2): (64, 64, 4, 3), (128, 2): (128, 32, 8, 3), (256, 2): (32, 32, 4, 2)},
    "backward_query": {(64, 2): (64, 32, 4, 3), (128, 2): (64, 32, 4, 3), (256, 2): (32, 16, 4, 1)},
    "backward_key": {(64, 2): (32, 64, 4, 3), (128, 2): (32, 128, 8, 2), (256, 2): (32, 32, 4, 1)},
    "backward_pair": {(64, 2): (64, 64, 4, 1), (128, 2): (64, 64, 4, 1), (256, 2): (64, 32, 4, 1)},
}
# Changes for sm_90: where scores become weights at once, registers are left for wide tiles; other formulas need more of
# them than most, in one kernel or all.
_HEAVY_QUERY: Table = {"backward_query": {(64, 2): (64, 64, 4, 2)}}
_LEAN: Table = {"forward": {(64, 2): (64, 128, 4, 2)}}
_BEHIND: Table = {"forward": {(128, 2): (128, 128, 8, 2)}}
_STEADY: Table = {"forward": {(128, 2): (128, 64, 8, 3)}}
_TWO_TILES: Table = {"forward": {(64, 2): (64, 32, 4, 3)}}
_SUMMING: Table = {"backward_query": {(128, 2): (64, 32, 4, 3)}}
_LONG: Table = {"backward_query": {(128, 2): (64, 16, 4, 3)}}
_SEARCHING: Table = {"backward_key": {(64, 2): (64, 64, 4, 2)}}
_CROWDED: Table = {
    "forward": {(64, 2): (64, 32, 4, 2)},
    "backward_query": {(64, 2): (64, 16, 4, 2), (128, 2): (128, 16, 8, 2)},
    "backward_key": {(64, 2): (32, 64, 4, 3), (128, 2): (16, 64, 4, 2)},
}
# At head dim 128 a product with values is long enough to hide these functions beside it.
_HIDDEN = frozenset({"exp", "log", "sigmoid", "softplus", "tanh"})
# Products of float32 on ordinary arithmetic units: small tiles.
_SINGLE: Table = {
    "forward": {(64, 4): (32, 16, 4, 1), (128, 4): (16, 16, 4, 1), (256, 4): (16, 16, 4, 1)},
    "backward_query": {(64, 4): (32, 32, 8, 1), (128, 4): (16, 16, 4, 1), (256, 4): (16, 16, 4, 1)},
    "backward_key": {(64, 4): (32, 32, 8, 1), (128, 4): (16, 32, 4, 1), (256, 4): (16, 16, 4, 1)},
    "backward_pair": {(64, 4): (32, 32, 8, 1), (128, 4): (16, 32, 4, 1), (256, 4): (16, 16, 4, 1)},
}
# sm_80 keeps operands in registers that sm_90 reads from shared memory.
_SM80_LIGHT: Table = {
    "forward": {(256, 2): (64, 32, 4, 2)},
    "backward_query": {(128, 2): (64, 32, 4, 3)},
    "backward_key": {(128, 2): (32, 64, 4, 3)},
}
_SM80_HEAVY: Table = {
    "forward": {(64, 2): (64, 32, 4, 3)},
    "backward_query": {(128, 2): (64, 32, 4, 2)},
    "backward_key": {(128, 2): (32, 64, 4, 3)},
}
# A matrix instruction has 32 rows here, and shared memory is 64 KiB.
_GFX942: Table = {
    "forward": {(64, 2): (128, 32, 4, 2), (128, 2): (128, 32, 4, 1), (256, 2): (64, 16, 4, 1)},
    "backward_query": {(64, 2): (128, 32, 4, 1), (128, 2): (128, 32, 4, 1), (256, 2): (32, 32, 4, 1)},
    "backward_key": {(64, 2): (32, 128, 4, 1), (128, 2): (32, 128, 4, 1), (256, 2): (32, 32, 4, 1)},
    "backward_pair": {(64, 2): (64, 64, 4, 1), (128, 2): (64, 32, 4, 1), (256, 2): (32, 32, 4, 1)},
}


def configs(plan: OpPlan) -> dict[str, tuple[Config, ...]]:
    """Architecture -> its rows for the op."""
    half, sm_80 = (_HEAVY, _SM80_HEAVY) if is_heavy(plan) else (_LIGHT, _SM80_LIGHT)
    sm_90 = half
    for applies, changes in _SM90_CHANGES:
        sm_90 = _changed(sm_90, changes) if applies(plan) else sm_90
    tables = {"sm_80": _changed(half, sm_80), "sm_90": sm_90, "sm_100": half, "gfx942": _GFX942}
    return {arch: _rows(table) + _rows(_SINGLE) for arch, table in tables.items()}


def rows_behind(plan: OpPlan) -> tuple[tuple[str, int, int], ...]:
    """Architecture, width and itemsize of the forward's rows where weights meet their values a tile later, while the
    next tile's weights are computed."""
    widths = {128} if can_be_behind(plan) else set()
    widths |= {64} if is_steady(plan) and is_lean(plan) else set()
    return tuple(("sm_90", width, 2) for width in sorted(widths))


def _changed(table: Table, changes: Table) -> Table:
    return {kernel: {**rows, **changes.get(kernel, {})} for kernel, rows in table.items()}


def _rows(table: Table) -> tuple[Config, ...]:
    return tuple(Config(kernel, *upto, tile) for kernel, tiles in table.items() for upto, tile in tiles.items())


def can_be_behind(plan: OpPlan) -> bool:
    """Whether a tile's weights are worth waiting with their values for the next tile's products: they take special
    functions of scores to hide, and registers are left, as they are where pivots rest, or move beside sums of what
    weights are. There is one accumulator, and no tile is passed over."""
    last = plan.analysis.forward.passes[-1]
    parts = {part for accumulator in plan.analysis.forward.accumulators for part in ir.walk(accumulator.body)}
    of_scores = ir.Name("qk") in parts and any(isinstance(part, ir.Apply) and part.op in _HIDDEN for part in parts)
    summed = not last.pivots or bool(last.carries)
    lean = of_scores and summed and plan.analysis.support is None and is_lean(plan) and not keeps_rows(plan)
    return lean or is_steady(plan)


def is_steady(plan: OpPlan) -> bool:
    """Whether pivots rest while whole tiles are walked over, and formulas are so short that registers are left for a
    tile's weights to wait in. Nothing of a tile is passed over where there are pivots."""
    forward, last = plan.analysis.forward, plan.analysis.forward.passes[-1]
    if not plan.telling or len(forward.accumulators) > 1 or forward.accumulators[0].pivot is None:
        return False
    sums: list[Carry | Accumulator] = [*last.carries, *forward.accumulators]
    formulas = [*(pivot.exponent for pivot in last.pivots), *(term.body for term in sums)]
    is_short = len(frozenset().union(*map(_operations, formulas))) <= 12
    return is_short and not has_pairs(plan) and not keeps_two_tiles(plan)


def keeps_rows(plan: OpPlan) -> bool:
    """Whether inputs of the rows are read in the end: they are in registers all along."""
    rows = {declared.name for declared in plan.normalizer.inputs if "query" in declared.axes}
    return any(not rows.isdisjoint(ir.names(factor)) for factor in plan.analysis.forward.factors)


def is_heavy(plan: OpPlan) -> bool:
    """Whether scores need so many registers beside their products that tiles have to be smaller."""
    forward, backward = plan.analysis.forward, plan.analysis.backward
    staged = len(forward.passes) > 1 or bool(backward.prepass)
    names = ir.names(backward.weights) | ir.names(backward.dqk)
    by_place = has_pairs(plan) or not names.isdisjoint({"i", "j"})
    return staged or by_place or len(forward.accumulators) > 1 or _backward_operations(plan) > 16


def is_heavy_in_one_loop(plan: OpPlan) -> bool:
    """Whether the query kernel of a heavy formula walks over the keys once, which leaves registers for a wide tile."""
    return is_heavy(plan) and (not plan.analysis.backward.prepass or plan.deferred is not None)


def is_lean(plan: OpPlan) -> bool:
    """Whether a score is soon a weight: it is one product, and no other power of the weight is summed up."""
    forward = plan.analysis.forward
    plain = all(ir.Name("qk") in factors(pivot.exponent)[1] for this in forward.passes for pivot in this.pivots)
    sums: list[Carry | Accumulator] = [
        *forward.accumulators,
        *(carry for this in forward.passes for carry in this.carries),
    ]
    return plain and not is_heavy(plan) and all(term.pivot is None or term.power == 1 for term in sums)


def searches(plan: OpPlan) -> bool:
    """Whether a root is searched for, with formulas that aren't long: their gradients need few registers."""
    return root_passes(plan) > 0 and not is_long(plan)


def is_crowded(plan: OpPlan) -> bool:
    """Whether a search tries powers with an exponent of the call's: a logarithm and an exponential for every trial."""
    return root_passes(plan) > 0 and any(
        isinstance(part, ir.Apply) and part.op == "pow" and not isinstance(part.args[1], ir.Number)
        for part in ir.walk(plan.analysis.backward.weights)
    )


def keeps_two_tiles(plan: OpPlan) -> bool:
    """Whether a pivot is found without the scores, which have to wait for it beside its exponents."""
    pivots = [pivot for this in plan.analysis.forward.passes for pivot in this.pivots]
    return any("qk" not in ir.names(pivot.exponent) for pivot in pivots)


def sums_beside_statistics(plan: OpPlan) -> bool:
    """Whether the query kernel of a lean formula sums up gradients of inputs, of weights that hold statistics."""
    sums = any(gradient.sums for gradient in plan.analysis.backward.inputs if gradient.level == "row")
    return sums and is_lean(plan) and bool(plan.saved_rows)


def is_long(plan: OpPlan) -> bool:
    """Whether the backward's formulas are longer than any but a few: beyond 30 operations."""
    return _backward_operations(plan) > 30


_SM90_CHANGES: tuple[tuple[Callable[[OpPlan], bool], Table], ...] = (
    (is_heavy_in_one_loop, _HEAVY_QUERY), (is_lean, _LEAN), (can_be_behind, _BEHIND), (is_steady, _STEADY),
    (keeps_two_tiles, _TWO_TILES), (sums_beside_statistics, _SUMMING), (is_long, _LONG), (searches, _SEARCHING),
    (is_crowded, _CROWDED),
)  # fmt: skip


def _backward_operations(plan: OpPlan) -> int:
    backward = plan.analysis.backward
    return len(_operations(backward.weights) | _operations(backward.dqk))


def _operations(expr: ir.Expr) -> frozenset[ir.Expr]:
    if not isinstance(expr, ir.Apply):
        return frozenset()
    return frozenset({expr}).union(*map(_operations, expr.args))


@dataclass(frozen=True, slots=True)
class NativeTile:
    """Queries and keys of a tile on a CPU, for L2 caches up to `cache` KiB, head dims and elements up to a size."""

    kernel: str
    masked: bool
    cache: int
    width: int
    itemsize: int
    tile: tuple[int, int]


# A tile's scores, its weights and its operands stay in the second-level cache; wide tiles keep products busy. Under a
# mask smaller ones compute less in vain at its edge.
NATIVE_TILES = (
    NativeTile("forward", False, 512, 256, 4, (64, 256)),
    NativeTile("forward", False, 1 << 30, 128, 4, (128, 512)),
    NativeTile("forward", False, 1 << 30, 256, 4, (128, 256)),
    NativeTile("forward", True, 1 << 30, 256, 4, (64, 256)),
    NativeTile("backward", False, 512, 256, 4, (64, 128)),
    NativeTile("backward", False, 1 << 30, 128, 4, (128, 256)),
    NativeTile("backward", False, 1 << 30, 256, 4, (128, 128)),
    NativeTile("backward", True, 512, 256, 4, (64, 128)),
    NativeTile("backward", True, 1 << 30, 128, 4, (64, 256)),
    NativeTile("backward", True, 1 << 30, 256, 4, (64, 128)),
)


@dataclass(frozen=True, slots=True)
class HopperTile:
    """How the kernels for Hopper cut one head dim, and one of values: queries of a warpgroup and keys of a tile, slots
    of the rings of keys and values, how many elements share a reciprocal, and how many warpgroups compute: two beside
    one that loads, or one that loads itself."""

    head_dim: int
    value_dim: int
    queries: int
    keys: int
    slots: int
    shared: int
    consumers: int = 2

    @property
    def width(self) -> int:
        """The larger head dim."""
        return max(self.head_dim, self.value_dim)


# As many slots as are of use, or as there is shared memory for beside the queries of two warpgroups or their output,
# whichever is larger. Keys are as many as registers hold beside that. Reciprocals are shared as long as the special
# function unit takes more time than the products.
HOPPER_WIDE = (
    HopperTile(64, 64, 64, 128, 3, 4), HopperTile(64, 128, 64, 128, 3, 2), HopperTile(64, 256, 64, 64, 4, 2),
    HopperTile(128, 64, 64, 128, 3, 2), HopperTile(128, 128, 64, 128, 2, 2), HopperTile(128, 256, 64, 64, 3, 2),
    HopperTile(256, 64, 64, 128, 2, 2), HopperTile(256, 128, 64, 64, 3, 2), HopperTile(256, 256, 64, 64, 2, 2),
)  # fmt: skip
HOPPER_NARROW = (
    HopperTile(64, 64, 64, 64, 4, 4), HopperTile(64, 128, 64, 64, 4, 2), HopperTile(64, 256, 64, 32, 4, 2),
    HopperTile(128, 64, 64, 64, 4, 2), HopperTile(128, 128, 64, 64, 4, 2), HopperTile(128, 256, 64, 32, 4, 2),
    HopperTile(256, 64, 64, 64, 4, 2), HopperTile(256, 128, 64, 64, 3, 2), HopperTile(256, 256, 64, 32, 4, 2),
)  # fmt: skip
# One exponential per score keeps the special function units busier than any other: three programs of one warpgroup each
# on a multiprocessor have more warps to hide waits behind, for 37 instructions per tile that bring tiles.
HOPPER_SOLO = (HopperTile(64, 64, 64, 128, 2, 4, 1), *HOPPER_WIDE[1:])
# Several accumulators: what they leave of the registers holds half the scores; two of 256 channels are all there are.
HOPPER_SHORT = (
    HopperTile(64, 64, 64, 64, 4, 4), HopperTile(64, 128, 64, 32, 8, 2),
    HopperTile(128, 64, 64, 64, 4, 2), HopperTile(128, 128, 64, 32, 8, 2),
    HopperTile(256, 64, 64, 64, 4, 2), HopperTile(256, 128, 64, 32, 4, 2),
)  # fmt: skip
# Twice as many queries spill at head dim 64 already, and half of them leave registers for any shipped formula. These
# take two warpgroups for 64 channels of dQ each.
HOPPER_BACKWARD_SHORT = (HopperTile(128, 64, 32, 64, 4, 2), HopperTile(128, 128, 32, 64, 4, 2))
HOPPER_BACKWARD = (
    HopperTile(64, 64, 64, 64, 3, 4), HopperTile(64, 128, 64, 64, 2, 2),
    HopperTile(128, 64, 64, 64, 2, 2), HopperTile(128, 128, 64, 64, 2, 2),
)  # fmt: skip
