"""A run of the bench that goes on where one was cut off: python -m benchmarks.gpu.cells GRID DEVICE DIR MINUTES SPEC...

GRID is `kernels`, the quick grid with those contenders that need no compiler of Python, or `peers`, all contenders at
one length. A cell counts as measured once a file DIR/GRID-*.json has its results; each run writes a file of its own,
since times compare within a run alone. `attngen bench --merge` and `--show` take them together.
"""

import sys
from pathlib import Path

from attngen.bench import record
from attngen.bench.grid import Cell, gpu_cells
from attngen.bench.peers import peers_for
from attngen.bench.report import render
from attngen.bench.run import Plan, bench
from attngen.verify.case import Case

_SLOW = ("SDPA math", "FlexAttention", "FlexAttention TMA", "written out, compiled", "written out, eager")
_TINY = Case(kv_heads=2, n_q=48, n_k=48, d=16, d_v=16)


def cells_of(grid: str, device: str, specs: tuple[str, ...]) -> tuple[Cell, ...]:
    """What matters most first."""
    if device == "cpu":
        return tuple(Cell(spec, _TINY, "forward") for spec in specs)
    cells = gpu_cells(specs, quick=True)
    return cells if grid == "kernels" else tuple(cell for cell in cells if cell.case.n_q == 4096)


def contenders(grid: str, device: str) -> tuple[str, ...]:
    """Their names; none means all."""
    if device == "cpu":
        return ("attngen", "SDPA")
    if grid == "peers":
        return ()
    return tuple(peer.name for peer in peers_for(device, quick=True) if peer.name not in _SLOW)


def left(cells: tuple[Cell, ...], files: list[Path]) -> tuple[Cell, ...]:
    """The cells that no file has results of."""
    results = [result for file in files for run in record.read(file) for result in run.results]
    known = {result.cell for result in results if result.status != "not run"}
    return tuple(cell for cell in cells if cell not in known)


def main() -> None:
    grid, device, folder, minutes, *specs = sys.argv[1:]
    files = sorted(Path(folder).glob(f"{grid}-*.json"))
    cells = left(cells_of(grid, device, tuple(specs)), files)
    if not cells:
        print("all cells are measured")
        return
    output = Path(folder) / f"{grid}-{len(files) + 1}.json"
    command = f"python -m benchmarks.gpu.cells {grid} {device} ... {' '.join(specs)}"
    plan = Plan(tuple(specs), device, output, command, float(minutes), True, contenders(grid, device), cells)
    print(render(bench(plan, lambda done, of, title: print(f"{done}/{of} {title}", flush=True))))


if __name__ == "__main__":
    main()
