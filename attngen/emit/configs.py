"""Tile configurations as data: per architecture, kernel, head dim and element size.

Found by compiling ahead of time and reading registers, spills, shared memory and matrix instructions; none has been
timed on a GPU yet. For each kernel the rows are ordered by head dim; the first that is wide enough serves.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Config:
    """Queries, keys, warps and pipeline stages for head dims up to `width` and elements up to `itemsize` bytes."""

    kernel: str
    width: int
    itemsize: int
    tile: tuple[int, int, int, int]


def _rows(kernel: str, table: dict[tuple[int, int], tuple[int, int, int, int]]) -> tuple[Config, ...]:
    return tuple(Config(kernel, width, itemsize, tile) for (width, itemsize), tile in table.items())


_HALF_FIRST = {
    "forward": {
        (64, 2): (128, 64, 4, 3), (128, 2): (128, 64, 8, 3), (256, 2): (64, 32, 4, 2),
        (64, 4): (64, 32, 4, 2), (128, 4): (64, 32, 4, 2), (256, 4): (32, 32, 4, 1),
    },
    "backward_query": {
        (64, 2): (64, 64, 4, 2), (128, 2): (64, 64, 4, 2), (256, 2): (64, 32, 8, 1),
        (64, 4): (64, 32, 4, 1), (128, 4): (32, 32, 4, 1), (256, 4): (32, 16, 8, 1),
    },
    "backward_key": {
        (64, 2): (64, 64, 4, 2), (128, 2): (64, 64, 8, 2), (256, 2): (32, 64, 8, 1),
        (64, 4): (32, 64, 4, 1), (128, 4): (32, 32, 4, 1), (256, 4): (16, 32, 8, 1),
    },
    "backward_pair": {
        (64, 2): (64, 64, 4, 1), (128, 2): (64, 64, 8, 1), (256, 2): (32, 32, 4, 1),
        (64, 4): (32, 32, 4, 1), (128, 4): (32, 32, 4, 1), (256, 4): (16, 16, 4, 1),
    },
}  # fmt: skip

CONFIGS: dict[str, tuple[Config, ...]] = {
    arch: tuple(row for kernel, table in _HALF_FIRST.items() for row in _rows(kernel, table))
    for arch in ("sm_80", "sm_90", "sm_100", "gfx942")
}
