"""A run of the bench: cell by cell, all contenders of a cell side by side, saved after each.

Nothing is dropped: a contender that isn't installed, can't run a case, fails, or comes too late for the time bound has
a result that says so. No error ends a run but one: if the GPU's context is lost, what is left can't be run.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from attngen.bench.contend import Ready, enter, expected, failure, task_of
from attngen.bench.grid import Cell, Quantity, cpu_cells, gpu_cells
from attngen.bench.machine import ceilings, clocks, environment
from attngen.bench.measure import Clock, Effort, clock_for, interleaved
from attngen.bench.memory import peak_of
from attngen.bench.peer import Peer
from attngen.bench.peers import peers_for
from attngen.bench.record import BenchRun, Result, save
from attngen.bench.subject import Benched, subject

Progress = Callable[[int, int, str], None]  # cells done, cells in all, what comes next
MEMORY_SECONDS = 400.0


@dataclass(frozen=True, slots=True)
class Plan:
    """What to run. `only` names the contenders, all if empty; `cells` None is the device's own grid.

    `quantity` leaves the cells that measure something else out.
    """

    specs: tuple[str, ...]
    device: str
    output: Path
    command: str
    minutes: float
    quick: bool = False
    only: tuple[str, ...] = ()
    cells: tuple[Cell, ...] | None = None
    threads: int | None = None
    quantity: Quantity | None = None

    @property
    def effort(self) -> Effort:
        return Effort(3, 30, 3.0) if self.quick else Effort(5, 100, 6.0)


@dataclass(frozen=True, slots=True)
class Stopwatch:
    """The clock that times contenders, and the one that keeps the run's time bound."""

    clock: Clock
    now: Callable[[], float] = time.monotonic


def bench(plan: Plan, progress: Progress, stopwatch: Stopwatch | None = None) -> BenchRun:
    """Run the plan's grid and write its file. Raises ValueError for a device or a contender that isn't there."""
    if plan.device == "cuda" and not torch.cuda.is_available():
        raise ValueError("there is no GPU that torch can use; --device cpu benches on the CPU")
    watch = stopwatch or Stopwatch(clock_for(plan.device))
    end = watch.now() + 60 * plan.minutes
    if plan.threads is not None:
        torch.set_num_threads(plan.threads)
    peers = _peers(plan)
    subjects = {found.normalizer.name: found for found in map(subject, plan.specs)}
    cells = _cells(plan, tuple(subjects))
    run, lost = _begun(plan, cells, watch.clock), ""
    for done, cell in enumerate(cells):
        progress(done, len(cells), cell.title)
        if lost or watch.now() > end:
            run = run.with_results(_not_run(cell, peers, lost or "the time was up"))
        else:
            run = run.with_results(_measured(plan, subjects[cell.spec], cell, peers, watch))
            lost = "" if _alive(plan.device) else "the GPU's context was lost"
        save(plan.output, [run])
    run = run if lost else _ended(run, plan.device)
    save(plan.output, [run])
    return run


def _peers(plan: Plan) -> tuple[Peer, ...]:
    peers = peers_for(plan.device, plan.quick)
    unknown = set(plan.only) - {peer.name for peer in peers}
    if unknown:
        raise ValueError(f"no contender is named '{min(unknown)}'; there are {', '.join(p.name for p in peers)}")
    return tuple(peer for peer in peers if not plan.only or peer.name in plan.only)


def _cells(plan: Plan, names: tuple[str, ...]) -> tuple[Cell, ...]:
    if plan.cells is not None:
        return plan.cells
    cells = gpu_cells(names, plan.quick) if plan.device == "cuda" else cpu_cells(names, plan.quick)
    return tuple(cell for cell in cells if plan.quantity in (None, cell.quantity))


def _begun(plan: Plan, cells: tuple[Cell, ...], clock: Clock) -> BenchRun:
    dtypes = tuple(dict.fromkeys(cell.case.dtype for cell in cells))
    started = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    return BenchRun(started, plan.command, environment(plan.device), ceilings(plan.device, dtypes, clock))


def _ended(run: BenchRun, device: str) -> BenchRun:
    before = run.environment
    after = environment(device)
    found = replace(before, clocks=(*before.clocks, clocks(device)), load=(*before.load, *after.load))
    return replace(run, environment=found, complete=True)


def _not_run(cell: Cell, peers: tuple[Peer, ...], reason: str) -> tuple[Result, ...]:
    return tuple(Result(cell, peer.name, "not run", reason) for peer in peers)


def _measured(
    plan: Plan, benched: Benched, cell: Cell, peers: tuple[Peer, ...], watch: Stopwatch
) -> tuple[Result, ...]:
    try:
        if cell.quantity == "memory" and plan.device == "cpu":
            return tuple(peak_of(benched.spec, cell, peer.name, MEMORY_SECONDS) for peer in peers)
        return tuple(_raced(plan, benched, cell, peers, watch))
    except Exception as error:  # the cell itself: its tensors or its reference don't fit
        return tuple(failure(peer.name, cell, error) for peer in peers)


def _raced(plan: Plan, benched: Benched, cell: Cell, peers: tuple[Peer, ...], watch: Stopwatch) -> Iterator[Result]:
    task = task_of(cell, benched, plan.device)
    exact = expected(task)
    entered = {peer.name: enter(peer, task, exact) for peer in peers}
    runs = {name: ready.run for name, ready in entered.items() if isinstance(ready, Ready)}
    times = interleaved(runs, watch.clock, plan.effort, watch.now)
    for name, contender in entered.items():
        if isinstance(contender, Result):
            yield contender
            continue
        taken = times[name]
        yield failure(name, cell, taken) if isinstance(taken, Exception) else replace(contender.result, times=taken)


def _alive(device: str) -> bool:
    """Whether the GPU still answers: an illegal access takes the whole process's context with it."""
    try:
        if device == "cuda":
            torch.cuda.synchronize()
    except RuntimeError:
        return False
    return True
