"""A run of the bench at a small shape, with a clock that counts: everybody has a result, whatever happens."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from attngen.bench import machine, run
from attngen.bench.grid import Cell
from attngen.bench.peer import Attention, Peer, Task
from attngen.bench.peers import OURS, peers_for
from attngen.bench.record import BenchRun, Ceiling, read
from attngen.bench.run import Plan, Stopwatch, bench
from attngen.verify.case import Case

CASE = Case(kv_heads=2, n_q=40, n_k=40, d=16, d_v=16)
CELLS = (Cell("softmax", CASE, "forward"), Cell("sigmoid", CASE, "both"))


class Tick:
    """Every timed call takes a second longer than the last one; the run's own clock stands still."""

    def __init__(self) -> None:
        self.calls = 0

    def time(self, timed: Callable[[], object]) -> float:
        timed()
        self.calls += 1
        return float(self.calls)


@pytest.fixture(autouse=True)
def no_ceilings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("ATTNGEN_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(run, "ceilings", lambda *_: (Ceiling("memory", "float32", 1.0, ""),))


def plan(tmp_path: Path, cells: tuple[Cell, ...] = CELLS, only: tuple[str, ...] = (OURS, "SDPA")) -> Plan:
    return Plan(("softmax", "sigmoid"), "cpu", tmp_path / "out.json", "attngen bench", 1.0, True, only, cells)


def benched(asked: Plan, now: Callable[[], float] = lambda: 0.0) -> BenchRun:
    return bench(asked, lambda done, of, title: None, Stopwatch(Tick(), now))


def test_a_run(tmp_path: Path) -> None:
    found = benched(plan(tmp_path))
    assert [(r.cell.spec, r.contender, r.status) for r in found.results] == [
        ("softmax", OURS, "measured"), ("softmax", "SDPA", "measured"),
        ("sigmoid", OURS, "measured"), ("sigmoid", "SDPA", "unsupported"),
    ]  # fmt: skip
    ours = found.results[2]
    assert ours.times is not None
    assert ours.errors is not None
    assert ours.times.count == 30
    assert max(ours.errors.values()) < 1e-5
    assert found.complete
    assert len(found.environment.clocks) == 2
    assert read(tmp_path / "out.json") == (found,)


def test_what_comes_too_late_is_told(tmp_path: Path) -> None:
    ticks = iter([0.0, *[10.0] * 29, *[1e6] * 100])
    found = benched(plan(tmp_path), lambda: next(ticks))
    assert [(r.status, r.reason) for r in found.results[2:]] == [("not run", "the time was up")] * 2
    assert found.results[0].status == "measured"


def test_it_is_saved_cell_by_cell(tmp_path: Path) -> None:
    asked = plan(tmp_path)

    def look(done: int, of: int, title: str) -> None:
        if done == 1:
            (so_far,) = read(asked.output)
            assert len(so_far.results) == 2
            assert not so_far.complete
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        bench(asked, look, Stopwatch(Tick(), lambda: 0.0))
    assert asked.output.exists()


def test_a_contender_that_breaks_stops_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def breaks(task: Task) -> Attention:
        raise MemoryError("of all things")

    peers = (Peer("broken", breaks), *peers_for("cpu", quick=True))
    monkeypatch.setattr(run, "peers_for", lambda device, quick: peers)
    found = benched(plan(tmp_path, CELLS[:1], only=("broken", OURS)))
    assert [(r.contender, r.status) for r in found.results] == [("broken", "failed"), (OURS, "measured")]
    assert found.results[0].reason == "MemoryError: of all things"


def test_a_cell_that_breaks_stops_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "expected", lambda task: 1 / 0 if task.cell.spec == "softmax" else {})
    found = benched(plan(tmp_path))
    assert [r.reason for r in found.results[:2]] == ["ZeroDivisionError: division by zero"] * 2
    assert len(found.results) == 4


def test_a_device_or_contender_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no contender is named 'SPDA'"):
        benched(plan(tmp_path, only=("SPDA",)))
    if not run.torch.cuda.is_available():
        with pytest.raises(ValueError, match="no GPU"):
            bench(Plan(("softmax",), "cuda", tmp_path / "x", "", 1.0), lambda *_: None)


def test_peak_memory_of_a_process(tmp_path: Path) -> None:
    """The weights of 2 heads of 2048 rows are 32 MiB in float32; ours needs none of them."""
    case = Case(kv_heads=2, n_q=2048, n_k=2048, d=16, d_v=16)
    cells = (Cell("sigmoid", case, "forward", "memory"),)
    names = (OURS, "written out, eager", "SDPA")
    peaks = {r.contender: r for r in benched(plan(tmp_path, cells, names)).results}
    assert peaks["SDPA"].reason == "softmax only"
    assert peaks["written out, eager"].peak_bytes is not None, peaks
    assert peaks[OURS].peak_bytes is not None, peaks
    assert peaks["written out, eager"].peak_bytes > 64 * 2**20
    assert peaks[OURS].peak_bytes < 64 * 2**20


def test_the_machine_and_its_ceilings() -> None:
    found = machine.environment("cpu")
    assert found.kind == "cpu"
    assert {"python", "torch", "attngen"} <= set(found.versions)
    product, *peak, memory = machine.ceilings("cpu", ("float32",), Tick())
    assert [ceiling.what for ceiling in peak] == ["multiply-adds"] * bool(shutil.which("c++"))
    assert product.rate == pytest.approx(2 * 2048**3)  # the first call takes a second, and is the best
    assert memory.what == "memory"
