"""What the machine code of kernels for sm_90 is held to at head dims 64 and 128: from a row of an audit to its misses.

The limits are where a resource would begin to cost more than the matrix products it should hide behind, or where the
assembler is known to give up. Rows of other targets, head dims and types have no bars.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from attngen.audit.report import SPILL_STORES_OF_BACKWARDS, Resources, Row

HEAD_DIMS = (64, 128)


@dataclass(frozen=True, slots=True)
class Bar:
    """A measure and its limit, for kernels whose name ends with or holds `kernel`, of one op or of all."""

    name: str
    measure: Callable[[Resources], float]
    limit: float
    kernel: str
    is_least: bool = False  # whether less is a miss, not more
    op: str = ""
    head_dims: tuple[int, ...] = HEAD_DIMS

    def concerns(self, row: Row, op: str) -> bool:
        return self.kernel in row.kernel.removeprefix(op) and self.op in ("", op) and row.head_dim in self.head_dims

    def is_missed(self, figure: float) -> bool:
        return figure < self.limit if self.is_least else figure > self.limit


@dataclass(frozen=True, slots=True)
class Miss:
    bar: Bar
    figure: float

    def __str__(self) -> str:
        return f"{self.bar.name} {self.figure:g}, {'at least' if self.bar.is_least else 'at most'} {self.bar.limit:g}"


BARS = (
    Bar("spills", lambda need: need.spills, 0, "forward"),
    Bar("spill stores", lambda need: need.spill_stores, SPILL_STORES_OF_BACKWARDS, "backward"),
    Bar("waits per HGMMA", lambda need: need.waits_per_product, 0.25, ""),
    Bar("special functions per score", lambda need: need.special_per_score, 1.04, "forward", op="softmax"),
    Bar("special functions per score", lambda need: need.special_per_score, 1.3, "forward", op="sigmoid",
        head_dims=(64,)),
    Bar("instructions per tile", lambda need: need.instructions_per_tile, 470, "forward", op="softmax",
        head_dims=(64,)),
    Bar("instructions per tile", lambda need: need.instructions_per_tile, 510, "forward", op="softmax",
        head_dims=(128,)),
    Bar("instructions per tile", lambda need: need.instructions_per_tile, 560, "forward", op="sigmoid",
        head_dims=(64,)),
    Bar("hidden special functions", lambda need: need.special_under_products, 0.9, "forward", is_least=True,
        head_dims=(128,)),
)  # fmt: skip


def misses(row: Row, op: str) -> Iterator[Miss]:
    """The bars that a row of `op` misses. A kernel that doesn't compile has no figures; that is a finding."""
    if row.target != "sm_90" or row.dtype not in ("bfloat16", "float16") or row.resources is None:
        return
    for bar in BARS:
        if bar.concerns(row, op):
            figure = bar.measure(row.resources)
            if bar.is_missed(figure):
                yield Miss(bar, figure)
