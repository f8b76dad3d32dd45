"""Results as text: for each cell a table of its contenders, and the reasons of those that have no figure.

Rates are set against the ceiling of the same run: a CPU's multiply-adds or, on a GPU, the matrix product of the cell's
type; the memory's bandwidth for decoding, which does nothing but read keys and values.
"""

import io
from collections.abc import Iterable

from rich.console import Console
from rich.table import Table

from attngen.bench.grid import Cell
from attngen.bench.record import BenchRun, Result

OURS = "attngen"


def render(run: BenchRun, width: int = 150) -> str:
    """The whole run."""
    console = Console(file=io.StringIO(), width=width, color_system=None, highlight=False)
    console.print(*header(run), sep="\n", markup=False)
    for cell, results in by_cell(run.results):
        console.print(f"\n{cell.title}", markup=False)
        if any(result.status == "measured" for result in results):
            console.print(_table(run, results))
        for why, names in _without_figure(results).items():
            console.print(f"  {', '.join(names)}: {why}", markup=False, soft_wrap=True)
    assert isinstance(console.file, io.StringIO)
    return "".join(line.rstrip() + "\n" for line in console.file.getvalue().splitlines())


def header(run: BenchRun) -> list[str]:
    """Where and when, and the physical limits."""
    where = run.environment
    versions = ", ".join(f"{name} {version}" for name, version in where.versions.items())
    lines = [f"{where.device}, {where.threads} threads" if where.kind == "cpu" else f"{where.device}, {where.driver}"]
    lines += [f"{run.started}, {versions}", run.command + ("" if run.complete else " (cut off)")]
    for ceiling in run.ceilings:
        rate = f"{ceiling.rate / 1e9:.4g} G{'B' if ceiling.what == 'memory' else 'FLOP'}/s"
        lines.append(f"ceiling, {ceiling.what} {ceiling.dtype}: {rate} ({ceiling.how})")
    return lines


def by_cell(results: Iterable[Result]) -> list[tuple[Cell, list[Result]]]:
    """The results of each cell, in the order of the run."""
    cells: dict[Cell, list[Result]] = {}
    for result in results:
        cells.setdefault(result.cell, []).append(result)
    return list(cells.items())


def share_of_ceiling(run: BenchRun, result: Result) -> float | None:
    """How much of the physical limit the contender reaches, 1 being all of it."""
    least = least_seconds(run, result.cell)
    return least / result.times.median if result.times and least is not None else None


def least_seconds(run: BenchRun, cell: Cell) -> float | None:
    """What the cell takes at the physical limit: a CPU's multiply-adds where the run has them, or a matrix product."""
    if cell.is_decoding:
        return next((cell.key_bytes / c.rate for c in run.ceilings if c.what == "memory"), None)
    rates = {c.what: c.rate for c in run.ceilings if c.dtype == cell.case.dtype}
    rate = rates.get("multiply-adds", rates.get("matrix product"))
    return cell.flops / rate if rate else None


def _without_figure(results: list[Result]) -> dict[str, list[str]]:
    """Why there is no figure -> of whom."""
    found: dict[str, list[str]] = {}
    for result in results:
        if result.status != "measured":
            found.setdefault(f"{result.status}, {result.reason}", []).append(result.contender)
    return found


def _table(run: BenchRun, results: list[Result]) -> Table:
    table = Table(box=None, pad_edge=False)
    rate = "TFLOP/s" if run.environment.kind == "cuda" else "GFLOP/s"
    columns = ("contender", "median ms", "least", "most", rate, "of ceiling", f"{OURS} / it", "error", "peak MiB", "")
    for name in columns:
        table.add_column(name, justify="left" if name in ("contender", "") else "right", no_wrap=True)
    ours = next((r.times.median for r in results if r.contender == OURS and r.times), None)
    for result in results:
        if result.status == "measured":
            table.add_row(*_cells(run, result, ours))
    return table


def _cells(run: BenchRun, result: Result, ours: float | None) -> list[str]:
    memory = "-" if result.peak_bytes is None else f"{result.peak_bytes / 2**20:,.0f}"
    error = _error(result)
    if result.times is None or result.rate is None:
        return [result.contender, *["-"] * 6, error, memory, _note(result)]
    times, share = result.times, share_of_ceiling(run, result)
    shown = [f"{seconds * 1e3:.3f}" for seconds in (times.median, times.least, times.most)]
    ratio = "-" if ours is None else f"{ours / times.median:.2f}"
    of = "-" if share is None else f"{share:.0%}"
    rate = result.rate / (1e12 if run.environment.kind == "cuda" else 1e9)
    return [result.contender, *shown, f"{rate:.4g}", of, ratio, error, memory, _note(result)]


def _note(result: Result) -> str:
    return ", ".join(filter(None, (result.note, result.precision)))


def _error(result: Result) -> str:
    """The largest of all tensors."""
    if not result.errors:
        return "-"
    finite = [error for error in result.errors.values() if error is not None]
    return f"{max(finite):.1e}" if len(finite) == len(result.errors) else "not finite"
