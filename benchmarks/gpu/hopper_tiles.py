"""Tiles of the kernels for Hopper, those that `attngen tune` would time, beside the plain kernels.

    python -m benchmarks.gpu.hopper_tiles DEVICE FILE SPEC...

A line of JSON per call that was measured, with every tile's time or why it has none. A tile is told before it runs, and
one that was told and has no result is not tried again: it may be what ended the last run. Results are compared with the
formula's float64 meaning before anything is timed.
"""

import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import cache
from itertools import product
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import Tensor

from attngen import api, catalog
from attngen.audit import compile as audit
from attngen.bench.contend import Ready, enter, expected, task_of
from attngen.bench.grid import HIDDEN, TOKENS, Cell
from attngen.bench.measure import Effort, Run, Times, clock_for, interleaved
from attngen.bench.peer import Attention, Peer, Task
from attngen.bench.subject import subject
from attngen.build import Build
from attngen.runtime.tiles import PLAIN, Tile, overrides_of
from attngen.tune.candidates import hopper_candidates, tile_text
from attngen.tune.cost import Question
from attngen.tune.session import tiles_of_gpu
from attngen.verify.case import Case

KERNELS = {"forward": "forward_hopper", "backward": "backward_hopper"}
HEAD_DIMS = (64, 128)
LENGTHS = (2048, 8192)
MOST_ERROR = 0.02  # of the largest element; bfloat16 gives a few thousandths


def cells_of(spec: str, device: str) -> Iterator[Cell]:
    if device == "cpu":
        yield Cell(spec, Case(kv_heads=2, n_q=48, n_k=48, d=64, d_v=64), "forward")
        return
    for way, n, masked, d in product(KERNELS, LENGTHS, (False, True), HEAD_DIMS):
        yield Cell(spec, Case(batch=TOKENS // n, kv_heads=HIDDEN // d, n_q=n, n_k=n, d=d, d_v=d, dtype="bfloat16",
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
    """The op that is built for Hopper, and what its module's OVERRIDES say while it runs."""

    name: str
    op: Callable[..., Tensor]
    overrides: dict[str, Any]

    def choose(self) -> None:
        table = sys.modules[self.op.__module__].OVERRIDES
        table.clear()
        table.update(self.overrides)

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
    """The plain kernels, and that for Hopper with each tile, the shipped one first."""
    op = api.load_text(catalog.read(task.spec), {}, Build("hopper"))
    module, kernel = sys.modules[op.__module__], KERNELS[task.cell.direction]
    served = tiles_of(task.spec, module, kernel, task.cell.case.d, task.device)
    if not served:
        return (Contender(tile_text(PLAIN), op, {}),)
    tiles = {tile_text(PLAIN): PLAIN} | {str(tile): tile for tile in served}
    return tuple(Contender(name, op, overrides_of(module, kernel, tile)) for name, tile in tiles.items())


@cache
def tiles_of(spec: str, module: ModuleType, kernel: str, head_dim: int, device: str) -> tuple[Tile, ...]:
    """As `attngen tune` finds them before it times any. On a CPU a few: nothing is compiled there."""
    found = hopper_candidates(module, kernel, head_dim)
    if device == "cpu" or not found:
        return found[:4]
    return tiles_of_gpu(spec, module, Question(kernel, "sm_90", audit.Case(head_dim)), lambda done, of: True)


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
