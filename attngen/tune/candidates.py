"""Tiles that are worth a try: blocks of queries and keys, warps, stages of the pipeline. Nothing is compiled here."""

from itertools import product

from attngen.runtime.tiles import Tile

KERNELS = ("forward", "backward_query", "backward_key", "backward_pair")
PORTABLE = "portable"  # the path of plain torch, which has blocks but no warps
NATIVE = "native"  # the CPU's native kernels: blocks of whole vectors, forward and backward alike


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


def tile_text(tile: Tile) -> str:
    block_m, block_n, warps, stages = tile
    return f"{block_m}x{block_n}" + (f", {warps} warps, {stages} stages" if warps else "")
