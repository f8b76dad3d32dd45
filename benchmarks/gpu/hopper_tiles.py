"""Tiles of the kernels for Hopper, timed beside the plain kernels.

    python -m benchmarks.gpu.hopper_tiles DEVICE FILE SPEC...

A line of JSON per call that was measured, with every tile's time or why it has none. A tile is told before it runs, and
one that was told and has no result is not tried again: it may be what ended the last run. Results are compared with the
formula's float64 meaning before anything is timed.
"""

import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Any

from torch import Tensor

from attngen import api, catalog
from attngen.bench.contend import Ready, enter, expected, task_of
from attngen.bench.grid import HIDDEN, TOKENS, Cell
from attngen.bench.measure import Effort, Run, Times, clock_for, interleaved
from attngen.bench.peer import Attention, Peer, Task
from attngen.bench.subject import subject
from attngen.build import Build
from attngen.verify.case import Case

# Queries of a warpgroup, keys, slots of the rings, elements per reciprocal, and how many warpgroups compute: two beside
# one that loads, or one that loads itself.
Tile = tuple[int, int, int, int, int]
PLAIN = "plain"
FORWARD: dict[int, tuple[Tile, ...]] = {
    64: (
        (64, 128, 3, 4, 2), (64, 128, 3, 2, 2), (64, 128, 2, 4, 2), (64, 64, 4, 4, 2), (64, 64, 4, 2, 2),
        (64, 64, 6, 4, 2), (64, 128, 2, 4, 1), (64, 64, 2, 4, 1),
    ),
    128: (
        (64, 128, 2, 2, 2), (64, 128, 2, 4, 2), (64, 64, 4, 2, 2), (64, 64, 3, 2, 2), (64, 64, 4, 4, 2),
        (64, 64, 2, 2, 1),
    ),
}  # fmt: skip
BACKWARD: dict[int, tuple[Tile, ...]] = {
    64: ((64, 64, 3, 4, 2), (64, 64, 3, 2, 2), (64, 64, 2, 4, 2), (64, 64, 4, 4, 2)),
    128: ((64, 64, 2, 2, 2), (64, 64, 2, 4, 2)),
}
TABLES = {"forward": ("HOPPER_TILES", FORWARD), "backward": ("HOPPER_BACKWARD_TILES", BACKWARD)}
LENGTHS = (2048, 8192)
MOST_ERROR = 0.02  # of the largest element; bfloat16 gives a few thousandths


def cells_of(spec: str, device: str) -> Iterator[Cell]:
    if device == "cpu":
        yield Cell(spec, Case(kv_heads=2, n_q=48, n_k=48, d=64, d_v=64), "forward")
        return
    for way, n, masked in product(TABLES, LENGTHS, (False, True)):
        for d in TABLES[way][1]:
            heads = HIDDEN // d
            yield Cell(spec, Case(batch=TOKENS // n, kv_heads=heads, n_q=n, n_k=n, d=d, d_v=d, dtype="bfloat16",
                                  is_causal=masked), way)  # type: ignore[arg-type]  # fmt: skip


class Log:
    """The file, and what it knew when the run began."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.told: set[tuple[str, str]] = set()
        self.done: set[str] = set()
        for line in path.read_text("utf-8").splitlines() if path.exists() else ():
            entry = json.loads(line)
            if "tiles" in entry:
                self.done.add(entry["cell"])
            else:
                self.told.add((entry["cell"], entry["begun"]))

    def write(self, entry: dict[str, Any]) -> None:
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")


def measured(cell: Cell, device: str, log: Log) -> dict[str, Any]:
    """Every tile's median and spread in seconds and its errors, or what is wrong with it."""
    task = task_of(cell, subject(cell.spec), device)
    exact = expected(task)
    outcomes: dict[str, Any] = {}
    runs: dict[str, Run] = {}
    for contender in contenders(task):
        name = contender.name
        if (cell.title, name) in log.told:
            outcomes[name] = "didn't end"
            continue
        log.write({"cell": cell.title, "begun": name})
        contender.choose()
        ready = enter(Peer(name, contender.prepare), task, exact)
        if not isinstance(ready, Ready):
            outcomes[name] = ready.reason
            continue
        errors = ready.result.errors or {}
        outcomes[name] = {"errors": errors}
        if all(error is not None and error < MOST_ERROR for error in errors.values()):
            runs[name] = contender.timed(ready.run)
    for name, taken in interleaved(runs, clock_for(device), Effort(3, 40, 0.4 * len(runs))).items():
        outcomes[name] |= asdict(taken) if isinstance(taken, Times) else {"failed": str(taken)}
    return outcomes


@dataclass(frozen=True)
class Contender:
    """An op, and the tile that it has while it runs: an entry of its module's table, or None."""

    name: str
    op: Callable[..., Tensor]
    entry: tuple[dict[tuple[int, int], Any], int, Any] | None = None

    def choose(self) -> None:
        if self.entry is not None:
            table, width, tile = self.entry
            table[width, width] = tile

    def prepare(self, task: Task) -> Attention:
        inputs, is_causal = task.drawn.operands.inputs, task.cell.case.is_causal
        return Attention(lambda q, k, v: self.op(q, k, v, **inputs, is_causal=is_causal))

    def timed(self, run: Run) -> Run:
        """The backward looks its tile up when it runs."""

        def chosen() -> object:
            self.choose()
            return run()

        return chosen


def contenders(task: Task) -> tuple[Contender, ...]:
    """The plain op, and the one for Hopper with each tile of the call's kernel, the shipped one first."""
    for_hopper = api.load_text(catalog.read(task.spec), {}, Build("hopper"))
    module = sys.modules[for_hopper.__module__]
    name, tiles = TABLES[task.cell.direction]
    width, table = task.cell.case.d, getattr(module, name, {})
    shapes = {2, 1} if any(kernel.endswith("_solo") for kernel in module.KERNELS) else {2}
    served = [tile for tile in tiles[width] if tile[-1] in shapes] if (width, width) in table else []
    others = (Contender(str(tile), for_hopper, (table, width, module.HopperTile(*tile))) for tile in served)
    return (Contender(PLAIN, task.op), *others)


def main() -> None:
    device, file, *specs = sys.argv[1:]
    log = Log(Path(file))
    for spec in specs:
        for cell in cells_of(spec, device):
            if cell.title in log.done:
                continue
            tiles = measured(cell, device, log)
            log.write({"cell": cell.title, "flops": cell.flops, "tiles": tiles})
            print(cell.title, *(told(name, found, cell.flops) for name, found in tiles.items()), sep="\n  ", flush=True)


def told(name: str, found: Any, flops: float) -> str:
    if not isinstance(found, dict) or "median" not in found:
        return f"{name}: {found}"
    return f"{name}: {1e3 * found['median']:.3f} ms, {flops / found['median'] / 1e12:.0f} TFLOP/s"


if __name__ == "__main__":
    main()
