"""Timing with a clock that counts: who runs when, how often, and what becomes of the samples."""

from collections.abc import Callable, Iterator
from types import SimpleNamespace

import pytest

from attngen.bench.measure import CpuClock, Effort, Times, clock_for, interleaved, times_of


class Counting:
    """Runs what it times, and says 1, 2, 3, ... seconds."""

    def __init__(self) -> None:
        self.calls = 0

    def time(self, run: Callable[[], object]) -> float:
        run()
        self.calls += 1
        return float(self.calls)


def seconds(step: float) -> Callable[[], float]:
    def count() -> Iterator[float]:
        now = 0.0
        while True:
            yield now
            now += step

    ticks = count()
    return lambda: next(ticks)


def test_contenders_take_turns_forth_and_back() -> None:
    order: list[str] = []
    runs = {name: (lambda name=name: order.append(name)) for name in "abc"}
    times = interleaved(runs, Counting(), Effort(least=3, most=3), seconds(0))
    assert "".join(order) == "abccbaabc"
    assert times["a"] == Times(median=6.0, least=1.0, most=7.0, p20=1.0, p80=7.0, count=3)


def test_no_round_begins_after_the_time_but_the_least() -> None:
    runs = {"a": lambda: None}
    assert interleaved(runs, Counting(), Effort(2, 100, seconds=5), seconds(100))["a"].count == 2
    assert interleaved(runs, Counting(), Effort(2, 100, seconds=5), seconds(1))["a"].count == 7
    assert interleaved(runs, Counting(), Effort(2, 4, seconds=5), seconds(0))["a"].count == 4


def test_one_that_raises_leaves_the_race_alone() -> None:
    calls: list[str] = []

    def fails() -> None:
        calls.append("b")
        if len(calls) == 2:
            raise RuntimeError("no more")

    times = interleaved({"a": lambda: None, "b": fails}, Counting(), Effort(4, 4), seconds(0))
    assert isinstance(times["b"], RuntimeError)
    assert times["a"].count == 4
    assert len(calls) == 2


def test_medians_and_spread() -> None:
    found = times_of([5.0, 1.0, 3.0, 2.0, 4.0, 6.0])
    assert found == Times(median=3.5, least=1.0, most=6.0, p20=2.0, p80=5.0, count=6)


def test_the_clock_of_a_cpu_runs_what_it_times() -> None:
    done: list[int] = []
    assert CpuClock().time(lambda: done.append(1)) >= 0
    assert done == [1]


def test_without_contenders_there_is_nothing() -> None:
    assert interleaved({}, Counting(), Effort(), seconds(1)) == {}
    with pytest.raises(IndexError):
        times_of([])


def test_the_clock_of_a_gpu_empties_the_cache_first(monkeypatch: pytest.MonkeyPatch) -> None:
    log: list[str] = []

    class Event:
        def __init__(self, enable_timing: bool) -> None:
            assert enable_timing

        def record(self) -> None:
            log.append("event")

        def elapsed_time(self, end: "Event") -> float:
            return 250.0

    class Buffer:
        def zero_(self) -> None:
            log.append("flush")

    sizes: list[int] = []
    monkeypatch.setattr("torch.cuda.Event", Event)
    monkeypatch.setattr("torch.cuda._sleep", lambda cycles: log.append("sleep"))
    monkeypatch.setattr("torch.cuda.synchronize", lambda: log.append("wait"))
    monkeypatch.setattr("torch.cuda.get_device_properties", lambda: SimpleNamespace(L2_cache_size=200 * 2**20))
    monkeypatch.setattr("torch.empty", lambda size, **_: sizes.append(size) or Buffer())
    assert clock_for("cuda").time(lambda: log.append("run")) == 0.25
    assert log == ["flush", "sleep", "event", "run", "event", "wait"]
    assert sizes == [400 * 2**20]
