"""Tiles that are worth a try: blocks of queries and keys, warps, stages of the pipeline. Nothing is compiled here."""

from itertools import product
from types import ModuleType

from attngen.runtime.tiles import HOPPER_KERNELS, PLAIN, Tile

KERNELS = ("forward", "backward_query", "backward_key", "backward_pair", *HOPPER_KERNELS)
PORTABLE = "portable"  # the path of plain torch, which has blocks but no warps
NATIVE = "native"  # the CPU's native kernels: blocks of whole vectors, forward and backward alike
_MOST_SHARED = 227 * 1024  # bytes of a program on Hopper, of which queries and rings are the greater part


def candidates(kernel: str, itemsize: int) -> tuple[Tile, ...]:
    """Blocks of scores that give each warp at least 16 rows of its own, so that no two compute the same scores."""
    if kernel == PORTABLE:
        return tuple((m, n, 0, 0) for m, n in product((64, 128, 256, 512, 1024), (128, 256, 512, 1024, 2048)))
    if kernel == NATIVE:
        return tuple((m, n, 0, 0) for m, n in product((32, 64, 128, 256), (32, 64, 128, 256, 512)))
    blocks = (16, 32, 64, 128) if itemsize == 2 else (16, 32, 64)
    found = []
    for block_m, block_n, warps, stages in product(blocks, blocks, (4, 8), (1, 2, 3)):
        own = block_n if kernel == "backward_key" else block_m  # scores stand transposed there
        if own >= 16 * warps and 512 <= block_m * block_n <= 128 * 128:
            found.append((block_m, block_n, warps, stages))
    return tuple(found)


def hopper_candidates(module: ModuleType, kernel: str, head_dim: int) -> tuple[Tile, ...]:
    """Those for a module's kernel for Hopper, the shipped one first; none if it has no such kernel or head dim.

    Warpgroups keep 64 queries each, in the backward 64 keys, and rings bring the others: up to 384 of them at a time.
    """
    width = 1 << (head_dim - 1).bit_length()
    shipped = getattr(module, "HOPPER_TILES", {}).get(kernel, {}).get((width, width))
    if shipped is None:
        return ()
    blocks = (32, 64, 128) if kernel == "forward_hopper" else (64,)  # twice as many queries spill in the backward
    groups = (1, 2) if any(name.endswith(f"_{kernel}_solo") for name in module.KERNELS) else (2,)
    sharing = (2, 4) if shipped.shared > 1 else (1,)
    found = (
        (64, block, slots, shared, consumers)
        for consumers, block, slots, shared in product(groups, blocks, (2, 3, 4, 6, 8), sharing)
        if 128 <= block * slots <= 384 and 2 * width * (64 * consumers + 2 * block * slots) <= _MOST_SHARED
    )
    return tuple(dict.fromkeys((tuple(shipped), *found)))


def computing_warps(tile: Tile) -> int:
    """Warps of a program that compute scores."""
    return 4 * tile[4] if len(tile) == len(PLAIN) else tile[2]


def is_unpipelined(tile: Tile) -> bool:
    """Whether a program waits for each of its loads: it has one stage, or slot."""
    return (tile[2] if len(tile) == len(PLAIN) else tile[3]) == 1


def tile_text(tile: Tile) -> str:
    if tile == PLAIN:
        return "plain"
    if len(tile) == len(PLAIN):
        queries, keys, slots, shared, consumers = tile
        return f"{consumers} of {queries}x{keys}, {slots} slots" + (f", {shared} a reciprocal" if shared > 1 else "")
    block_m, block_n, warps, stages = tile
    return f"{block_m}x{block_n}" + (f", {warps} warps, {stages} stages" if warps else "")
