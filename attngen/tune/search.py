"""The timed search: candidates for one kernel, each checked before it is timed, the best against the shipped tile.

A candidate has to give the formula's values and gradients, by the rule that verification has, on small cases with
ragged lengths; one that doesn't, or that raises, is out. The rest are timed side by side, first all of them briefly,
then the best few and the shipped tile at length. A tile wins by more than half of the spread, or the shipped one stays.
A kernel for Hopper has to win against the plain kernels, with their tiles of the time: these are its shipped tile.
Clock and device are values, so that all of this runs on a CPU, in Triton's interpreter.
"""

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from types import ModuleType
from typing import Literal

import torch

from attngen.bench.measure import Clock, Effort, Times, interleaved
from attngen.runtime.replaced import replaced
from attngen.runtime.tiles import HOPPER_KERNELS, PLAIN, Tile, overrides_of
from attngen.tune.candidates import NATIVE, PORTABLE, tile_text
from attngen.verify.case import Case
from attngen.verify.draw import Drawn
from attngen.verify.reference import Operands
from attngen.verify.subject import Subject
from attngen.verify.tolerance import Expectation, Violation, check

Verdict = Literal["timed", "wrong", "failed", "not tried"]
Progress = Callable[[str, int, int], None]  # what is done, candidates done, candidates in all
FINALISTS = 3
_BRIEFLY, _AT_LENGTH = Effort(1, 5, 0.5), Effort(4, 40, 3.0)  # seconds for each contender


@dataclass(frozen=True, slots=True)
class Trial:
    """What came of a candidate."""

    tile: Tile
    verdict: Verdict
    reason: str = ""
    times: Times | None = None


@dataclass(frozen=True, slots=True)
class Question:
    """Which kernel of the subject is tuned, on which call, and which cases a candidate has to get right."""

    kernel: str
    case: Case
    checks: tuple[Case, ...]


@dataclass(frozen=True, slots=True)
class Watch:
    """The clock for candidates; the one that keeps the time bound, and when that is."""

    clock: Clock
    end: float
    now: Callable[[], float] = time.monotonic


@dataclass(frozen=True, slots=True)
class Found:
    """The shipped tile and the best one, which may be the same, and all trials."""

    question: Question
    shipped: Trial
    best: Trial
    trials: tuple[Trial, ...]

    @property
    def is_better(self) -> bool:
        return self.best.tile != self.shipped.tile

    @property
    def is_news(self) -> bool:
        """Whether the op would do something else by itself: it takes kernels for Hopper until it knows better."""
        tried = any(trial.verdict != "not tried" for trial in self.trials if trial.tile != self.shipped.tile)
        return self.is_better or (self.shipped.tile == PLAIN and tried)


def search(subject: Subject, question: Question, tiles: tuple[Tile, ...], watch: Watch, progress: Progress) -> Found:
    """Find the best of the tiles. Raises ValueError if the shipped tile itself can't be timed."""
    drawn = subject.draw(question.case)
    shipped = shipped_tile(subject, question, drawn)
    trials: dict[Tile, Trial] = {}
    checks = [_Check(case, subject.draw(case), subject) for case in question.checks]
    for number, tile in enumerate(dict.fromkeys((shipped, *tiles))):
        progress(tile_text(tile), number, len(tiles) + 1)
        if number > 0 and watch.now() > watch.end:
            trials[tile] = Trial(tile, "not tried", "the time was up")
        else:
            trials[tile] = _checked(subject, question, tile, checks)
    runs = {tile: _timed(subject, question, drawn, tile) for tile, trial in trials.items() if trial.verdict == "timed"}
    if shipped not in runs:
        raise ValueError(f"the shipped tile can't be timed: {trials[shipped].reason}")
    return _decided(question, shipped, trials, runs, watch)


def _decided(
    question: Question, shipped: Tile, trials: dict[Tile, Trial], runs: dict[Tile, Callable[[], object]], watch: Watch
) -> Found:
    trials = trials | _race(trials, runs, watch, _BRIEFLY)
    fast = sorted((t for t in trials.values() if t.times), key=lambda t: t.times.median if t.times else 0.0)
    final = {shipped, *(trial.tile for trial in fast[:FINALISTS])}
    trials = trials | _race(trials, {tile: runs[tile] for tile in final if trials[tile].times}, watch, _AT_LENGTH)
    if trials[shipped].times is None:
        raise ValueError(f"the shipped tile can't be timed: {trials[shipped].reason}")
    finalists = [trials[tile] for tile in final if trials[tile].times]
    best = min(finalists, key=lambda t: t.times.median if t.times else 0.0)
    best = best if _clearly_better(best, trials[shipped]) else trials[shipped]
    return Found(question, trials[shipped], best, tuple(trials.values()))


def _clearly_better(one: Trial, other: Trial) -> bool:
    """By more than half of both spreads together, and by one in a hundred at least."""
    if one.times is None or other.times is None:
        return False
    spread = (one.times.p80 - one.times.p20 + other.times.p80 - other.times.p20) / 2
    return other.times.median - one.times.median > max(spread / 2, 0.01 * other.times.median)


def _race(
    trials: dict[Tile, Trial], runs: dict[Tile, Callable[[], object]], watch: Watch, effort: Effort
) -> dict[Tile, Trial]:
    names = {str(tile): tile for tile in runs}
    effort = replace(effort, seconds=min(effort.seconds * len(runs), max(0.0, watch.end - watch.now())))
    times = interleaved({name: runs[tile] for name, tile in names.items()}, watch.clock, effort, watch.now)
    return {
        names[name]: replace(trials[names[name]], verdict="failed", reason=str(taken))
        if isinstance(taken, Exception)
        else replace(trials[names[name]], times=taken)
        for name, taken in times.items()
    }


@dataclass
class _Check:
    """A case with what the formula makes of it, worked out once."""

    case: Case
    drawn: Drawn
    subject: Subject

    @cached_property
    def expectation(self) -> Expectation:
        return self.subject.expect(self.drawn, self.case.call)

    def hold(self) -> None:
        check(self.subject.results(self.drawn, self.case.call), self.expectation)


def _checked(subject: Subject, question: Question, tile: Tile, checks: list[_Check]) -> Trial:
    """Whether the op gives the formula's results with this tile."""
    try:
        with _using(subject, question.kernel, tile):
            for case in checks:
                case.hold()
    except Violation as violation:
        return Trial(tile, "wrong", str(violation))
    except Exception as error:  # whatever a compiler or a driver raises
        return Trial(tile, "failed", f"{type(error).__name__}: {error}")
    return Trial(tile, "timed")


def _timed(subject: Subject, question: Question, drawn: Drawn, tile: Tile) -> Callable[[], object]:
    """One call of what the kernel is part of: the forward, the backward, or both for the portable path."""
    query, key, value = (x.detach().requires_grad_() for x in _tensors(drawn))
    operands = Operands(query, key, value, drawn.operands.inputs)

    def both() -> object:
        with _using(subject, question.kernel, tile):
            out = subject.run(operands, question.case.call)
            return torch.autograd.grad(out, (query, key, value), drawn.grad_out)

    def forward() -> object:
        with _using(subject, question.kernel, tile), torch.no_grad():
            return subject.run(operands, question.case.call)

    if question.kernel.startswith("forward"):
        return forward
    if question.kernel in (PORTABLE, NATIVE):
        return both
    out = subject.run(operands, question.case.call)

    def backward() -> object:
        with _using(subject, question.kernel, tile):
            return torch.autograd.grad(out, (query, key, value), drawn.grad_out, retain_graph=True)

    return backward


def _tensors(drawn: Drawn) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    return drawn.operands.query, drawn.operands.key, drawn.operands.value


@contextlib.contextmanager
def _using(subject: Subject, kernel: str, tile: Tile) -> Iterator[None]:
    """Within the block the kernel has this tile, whatever the tables say."""
    module = _module(subject)
    with replaced(module, {"OVERRIDES": module.OVERRIDES | overrides_of(module, kernel, tile)}):
        yield


def shipped_tile(subject: Subject, question: Question, drawn: Drawn) -> Tile:
    """What the module takes by itself, of plain kernels."""
    module = _module(subject)
    if question.kernel in HOPPER_KERNELS:
        return PLAIN
    if question.kernel == PORTABLE:
        return tuple(module.PORTABLE_TILE)
    call = module._call(drawn.operands.query, drawn.operands.key, question.case.is_causal, None, None, "upper_left")
    if question.kernel == NATIVE:
        return (*module._native_tile("forward", drawn.operands.query, drawn.operands.value, call), 0, 0)
    return tuple(module._tile_for(question.kernel, drawn.operands.query, drawn.operands.value, call))


def _module(subject: Subject) -> ModuleType:
    assert subject.module is not None, "only the op of a generated module has tiles"
    return subject.module
