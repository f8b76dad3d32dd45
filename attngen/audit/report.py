"""What an audit found, as rows, and the rows as a table for people or as JSON for programs.

A finding is a reason not to ship a configuration: it fails to compile, doesn't fit, or spills more than is allowed. A
remark is a reason to look at it. Neither torch nor Triton is needed here.
"""

import io
import json
from collections import Counter
from dataclasses import asdict, dataclass
from textwrap import indent

from rich.console import Console
from rich.table import Table

from attngen.audit.targets import TARGETS

# Their accumulators fill the registers; a few stores beside four or five products per tile don't show.
SPILL_STORES_OF_BACKWARDS = 8


@dataclass(frozen=True, slots=True)
class Resources:
    """What one compiled kernel asks of its target. Instructions are counted in the code, a loop's body once."""

    registers: int  # per thread
    stack: int  # bytes per thread
    spill_stores: int  # instructions that move registers to the stack
    spill_loads: int  # and back
    shared: int  # bytes per CTA
    shared_limit: int
    ctas: int  # per multiprocessor
    instructions: int
    matrix: dict[str, int]
    special: dict[str, int]
    async_copies: int
    waits: int  # for asynchronous matrix products
    main_loop_instructions: int
    main_loop_special: int
    instructions_per_tile: float  # of 64 queries x 128 keys in four warps; of the main loop, as what follows
    special_per_score: float
    special_under_products: float  # the share issued while a product of the same warps is in flight; 1 if there is none

    @property
    def spills(self) -> int:
        return self.spill_stores + self.spill_loads

    @property
    def waits_per_product(self) -> float:
        """For each HGMMA; 0 where products are not asynchronous."""
        return self.waits / self.matrix["HGMMA"] if self.matrix.get("HGMMA") else 0.0


@dataclass(frozen=True, slots=True)
class Row:
    """One kernel in one configuration. `resources` is None where `error` says why it didn't compile."""

    target: str
    kernel: str
    head_dim: int
    dtype: str
    mask: str
    block_m: int
    block_n: int
    num_warps: int
    num_stages: int
    resources: Resources | None
    error: str | None = None

    @property
    def title(self) -> str:
        tile = f"{self.block_m}x{self.block_n}, {self.num_warps} warps, {self.num_stages} stages"
        return f"{self.kernel} on {self.target}, head dim {self.head_dim}, {self.dtype}, {self.mask}, {tile}"

    @property
    def findings(self) -> tuple[str, ...]:
        if self.resources is None:
            return (f"fails to compile: {self.error}",)
        need, found = self.resources, []
        if need.shared > need.shared_limit:
            found.append(f"needs {need.shared:,} bytes of shared memory, {need.shared_limit:,} are there")
        elif need.ctas == 0:
            found.append("does not fit on a multiprocessor")
        if (need.spills or need.stack) and not self.may_spill:
            found.append(_spills(need))
        return tuple(found)

    @property
    def remarks(self) -> tuple[str, ...]:
        need, found = self.resources, []
        if need is not None and self.may_spill:
            found.append(_spills(need))
        if need is not None and need.waits_per_product >= 1:
            found.append(f"matrix products look serialized: {need.waits} waits for {need.matrix['HGMMA']} HGMMA")
        return tuple(found)

    @property
    def may_spill(self) -> bool:
        """Whether it spills, and no more than is allowed."""
        stores = self.resources.spill_stores if self.resources is not None else 0
        return "backward" in self.kernel and 0 < stores <= SPILL_STORES_OF_BACKWARDS


def _spills(need: Resources) -> str:
    moves = f"{need.spill_stores} stores, {need.spill_loads} loads"
    return f"spills: {moves}, {need.stack} bytes of stack per thread"


@dataclass(frozen=True, slots=True)
class Audit:
    """All rows of one op, and the Triton that compiled them."""

    name: str
    triton: str
    rows: tuple[Row, ...]

    @property
    def findings(self) -> tuple[str, ...]:
        """What is wrong, one line per kernel and mistake; empty if all is well."""
        return tuple(f"{row.title}: {finding}" for row in self.rows for finding in row.findings)

    @property
    def remarks(self) -> tuple[str, ...]:
        return tuple(f"{row.title}: {remark}" for row in self.rows for remark in row.remarks)


def to_json(audit: Audit) -> str:
    """A list with one object per row, its findings and remarks among them."""
    rows = [asdict(row) | {"findings": row.findings, "remarks": row.remarks} for row in audit.rows]
    return json.dumps(rows, indent=2)


# Column -> what it says.
LEGEND = {
    "tile": "BLOCK_M x BLOCK_N, warps, stages",
    "regs": "registers per thread",
    "spills": "instructions that store registers on the stack + those that load them / bytes of stack per thread",
    "shared": "shared memory per CTA in KiB",
    "CTAs": "how many CTAs one multiprocessor runs at a time",
    "matrix": "matrix product instructions in the code, and waits for them where they are asynchronous",
    "instr/tile": "instructions per tile of 64 queries x 128 keys in four warps, in the main loop",
    "special/score": "instructions of the special function unit (exp2, reciprocal, ...) per score, in the main loop",
    "hidden": "the share of them that is issued while a product of the same warps is in flight",
    "async": "asynchronous copies in the code",
}


def render(audit: Audit, width: int = 160) -> str:
    """Tables per target, what the columns mean, then findings and remarks in words."""
    console = Console(file=io.StringIO(), width=width, color_system=None, highlight=False)
    console.print(f"{audit.name}, Triton {audit.triton}", markup=False)
    for target in TARGETS:
        rows = [row for row in audit.rows if row.target == target]
        if rows:
            console.print(f"\n{target}", _table(rows), sep="\n", markup=False)
    console.print()
    for column, meaning in LEGEND.items():
        console.print(f"{column:13}  {meaning}", markup=False)
    for title, lines in (("Findings", audit.findings), ("Remarks", audit.remarks)):
        if lines:
            items = (indent(line, "  ").replace(" ", "-", 1) for line in lines)
            console.print(f"\n{title}", *items, sep="\n", markup=False, soft_wrap=True)
    if not audit.findings:
        console.print("\nNo findings: everything compiles, fits, and nothing spills beyond what is allowed.")
    assert isinstance(console.file, io.StringIO)
    return "".join(line.rstrip() + "\n" for line in console.file.getvalue().splitlines())


def _table(rows: list[Row]) -> Table:
    table = Table(box=None, pad_edge=False)
    for name in ("kernel", "D", "dtype", "mask", *LEGEND, ""):
        is_text = name in ("kernel", "dtype", "mask", "tile", "matrix")
        table.add_column(name, justify="left" if is_text else "right", no_wrap=True)
    for row in rows:
        table.add_row(*_cells(row))
    return table


def _cells(row: Row) -> list[str]:
    tile = f"{row.block_m}x{row.block_n} {row.num_warps}w {row.num_stages}s"
    call = [row.kernel, str(row.head_dim), row.dtype, row.mask, tile]
    need = row.resources
    if need is None:
        return [*call, *("-" for _ in range(len(LEGEND) - 1)), "!"]
    return [
        *call,
        str(need.registers),
        f"{need.spill_stores}+{need.spill_loads}/{need.stack}" if need.spills or need.stack else "0",
        f"{need.shared / 1024:.1f}",
        str(need.ctas),
        _matrix(Counter(need.matrix), need.waits),
        f"{need.instructions_per_tile:.0f}",
        f"{need.special_per_score:.2f}",
        f"{need.special_under_products:.0%}" if need.matrix.get("HGMMA") and need.main_loop_special else "-",
        str(need.async_copies),
        "!" if row.findings else "?" if row.remarks else "",
    ]


def _matrix(products: Counter[str], waits: int) -> str:
    listed = ", ".join(f"{count} {name}" for name, count in sorted(products.items())) or "none"
    return f"{listed}, {waits} waits" if waits else listed
