"""From functions to the times that they take: one of each in turn, forth and back, in one process.

Interleaving gives every contender the same clocks, temperature and neighbours. On a GPU the second-level cache is
emptied before each call, by writing a buffer that is larger. The clock is a value: a test brings its own.
"""

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

import torch

Run = Callable[[], object]


class Clock(Protocol):
    """Measures one call, in seconds."""

    def time(self, run: Run) -> float: ...


@dataclass(frozen=True, slots=True)
class CpuClock:
    """Wall-clock time of a call."""

    def time(self, run: Run) -> float:
        start = time.perf_counter()
        run()
        return time.perf_counter() - start


class CudaClock:
    """Time on the GPU between two events, with a cold second-level cache. The GPU waits before the first, so that the
    launches stand in its queue: what Python takes to launch is no part of the time unless it is longer.
    """

    _AHEAD = 2_000_000  # cycles, about a millisecond

    def __init__(self) -> None:
        size = max(256 * 2**20, 2 * torch.cuda.get_device_properties().L2_cache_size)
        self._flush = torch.empty(size, dtype=torch.int8, device="cuda")

    def time(self, run: Run) -> float:
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
        self._flush.zero_()
        torch.cuda._sleep(self._AHEAD)  # type: ignore[no-untyped-call]
        begin.record()
        run()
        end.record()
        torch.cuda.synchronize()
        return float(begin.elapsed_time(end)) / 1e3


def clock_for(device: str) -> Clock:
    return CudaClock() if device == "cuda" else CpuClock()


@dataclass(frozen=True, slots=True)
class Effort:
    """How often: at least and at most so many calls of each contender, and no new round after `seconds` for all."""

    least: int = 5
    most: int = 50
    seconds: float = 4.0


@dataclass(frozen=True, slots=True)
class Times:
    """The calls of one contender, in seconds."""

    median: float
    least: float
    most: float
    p20: float
    p80: float
    count: int


def times_of(samples: list[float]) -> Times:
    ordered = sorted(samples)
    last = len(ordered) - 1
    low, high = ordered[round(0.2 * last)], ordered[round(0.8 * last)]
    return Times(statistics.median(ordered), ordered[0], ordered[-1], low, high, len(ordered))


def interleaved(
    runs: Mapping[str, Run], clock: Clock, effort: Effort, now: Callable[[], float] = time.monotonic
) -> dict[str, Times | Exception]:
    """Time all contenders round by round, in alternating order. One that raises leaves the race with its error."""
    samples: dict[str, list[float]] = {name: [] for name in runs}
    names, errors = list(runs), dict[str, Exception]()
    end = now() + effort.seconds
    for round_number in range(effort.most):
        if round_number >= effort.least and now() > end:
            break
        for name in names if round_number % 2 == 0 else reversed(names):
            if name in errors:
                continue
            try:
                samples[name].append(clock.time(runs[name]))
            except Exception as error:
                errors[name] = error
    return {name: errors.get(name) or times_of(samples[name]) for name in runs}
