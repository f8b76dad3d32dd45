"""The timed search, with a clock that knows each tile's time: interpreted kernels, and the CPU's own path."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch

from attngen.bench.measure import CpuClock
from attngen.runtime.interpreter import interpreting
from attngen.runtime.tiles import Tile, read
from attngen.tune import cost, session
from attngen.tune.cost import Outcome
from attngen.tune.search import Found, Question, Watch, search
from attngen.tune.session import Wanted, questions, tune
from attngen.verify.case import Case
from attngen.verify.subject import Subject
from tests.tune.subjects import subject_of

pytestmark = pytest.mark.filterwarnings("ignore:.*encountered in:RuntimeWarning")

CASE = Case(kv_heads=1, n_q=24, n_k=24, d=16, d_v=16)
CHECKS = (Case(kv_heads=1, group=2, n_q=17, n_k=23, d=16, d_v=16, is_causal=True, alignment="lower_right"),)
A, B, C = (16, 16, 4, 1), (32, 32, 2, 1), (16, 32, 4, 1)  # the shipped one is 32x16


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ATTNGEN_CACHE_DIR", str(tmp_path / "cache"))


class Knowing:
    """Runs what it times, sees which tile it used, and says what that takes."""

    def __init__(self, module: ModuleType, kernel: str, seconds: dict[Tile, float]) -> None:
        self.module, self.kernel, self.seconds = module, kernel, seconds
        self.used: list[Tile] = []

    def time(self, run: Callable[[], object]) -> float:
        path = {"portable": "_portable_tile", "native": "_native_tile"}.get(self.kernel, "_tile_for")
        wrapped = getattr(self.module, path)
        name = wrapped.__name__

        def noted(*args: object) -> object:
            tile = wrapped(*args)
            if args[0] == self.kernel or self.kernel in ("portable", "native"):
                self.used.append((*tile, 0, 0)[:4])
            return tile

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(self.module, name, noted)
            run()
        return self.seconds.get(self.used[-1], 1.0)


def hasty(clock: Knowing, end: float = 1e9) -> Watch:
    """Every look at the clock is a minute later than the last one."""
    minutes = iter(range(0, 10**8, 60))
    return Watch(clock, end, lambda: float(next(minutes)))


def found(
    subject: Subject, kernel: str, seconds: dict[Tile, float], tiles: tuple[Tile, ...] = (A, B, C), end: float = 1e9
) -> Found:
    assert subject.module is not None
    clock = Knowing(subject.module, kernel, seconds)
    watch = hasty(clock, end)
    with interpreting(subject.module):
        return search(subject, Question(kernel, CASE, CHECKS), tiles, watch, lambda what, done, of: None)


@pytest.mark.parametrize("kernel", ["forward", "backward_query", "backward_key"])
def test_the_fastest_tile_wins(kernel: str) -> None:
    subject = subject_of("softmax")
    outcome = found(subject, kernel, {A: 0.9, B: 0.2, C: 0.5})
    assert outcome.best.tile == B
    assert outcome.is_better
    assert subject.module is not None
    assert subject.module.OVERRIDES == {}
    assert {trial.tile for trial in outcome.trials} == {A, B, C, outcome.shipped.tile}


def test_the_shipped_tile_stays_unless_another_is_clearly_faster() -> None:
    outcome = found(subject_of("softmax"), "forward", {A: 0.995, B: 1.5, C: 0.9951})
    assert outcome.best == outcome.shipped
    assert not outcome.is_better


def test_a_fast_tile_that_is_wrong_is_out(monkeypatch: pytest.MonkeyPatch) -> None:
    subject = subject_of("softmax")
    module = subject.module
    assert module is not None
    launch = module.launch_forward

    def wrong_with_b(query: object, key: object, value: object, inputs: object, call: object, *more: object) -> object:
        out, *saved = launch(query, key, value, inputs, call, *more)
        return (out * 1.01 if tuple(module._tile_for("forward", query, value, call)) == B else out), *saved

    monkeypatch.setattr(module, "launch_forward", wrong_with_b)
    outcome = found(subject, "forward", {A: 0.9, B: 0.1, C: 0.5})
    assert outcome.best.tile == C
    (trial,) = (trial for trial in outcome.trials if trial.tile == B)
    assert trial.verdict == "wrong"
    assert "times the tolerance" in trial.reason
    assert trial.times is None


def test_a_tile_that_raises_is_out() -> None:
    impossible = (24, 16, 4, 1)  # no power of two
    outcome = found(subject_of("softmax"), "forward", {impossible: 0.01, C: 0.5}, (impossible, C))
    assert outcome.best.tile == C
    (trial,) = (trial for trial in outcome.trials if trial.tile == impossible)
    assert trial.verdict in ("failed", "wrong")


def test_no_candidate_is_begun_when_the_time_is_up() -> None:
    outcome = found(subject_of("softmax"), "forward", {A: 0.1}, end=-1)
    assert [trial.verdict for trial in outcome.trials] == ["timed", "not tried", "not tried", "not tried"]
    assert not outcome.is_better


# ---------------------------------------------------------------- a whole session, on the CPU's own path


@pytest.fixture
def wanted() -> Wanted:
    return Wanted("sigmoid", "cpu", ("float32",), (16,), minutes=1e6, masks=(False,), length=40)


@pytest.fixture
def subject() -> Iterator[Subject]:
    subject = subject_of("sigmoid")
    yield subject
    assert subject.module is not None
    subject.module.TUNED.clear()


def test_a_session_keeps_what_it_finds(wanted: Wanted, subject: Subject) -> None:
    assert subject.module is not None
    clock = Knowing(subject.module, "portable", {(256, 512, 0, 0): 0.25})
    (outcome,) = tune(subject, wanted, lambda what, done, of: None, hasty(clock))
    assert outcome.best.tile == (256, 512, 0, 0)
    (kept,) = read("sigmoid")
    assert kept.tile == (256, 512, 0, 0)
    assert (kept.seconds, kept.shipped_seconds) == (0.25, 1.0)
    assert list(subject.module.TUNED.values()) == [(256, 512, 0, 0)]


@pytest.mark.skipif(shutil.which("c++") is None and shutil.which("g++") is None, reason="needs a C++ compiler")
def test_a_session_of_native_kernels(wanted: Wanted, subject: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ATTNGEN_CPU", "native")
    module = subject.module
    assert module is not None
    watch = hasty(Knowing(module, "native", {(64, 64, 0, 0): 0.25}))
    (outcome,) = tune(subject, wanted, lambda what, done, of: None, watch)
    assert outcome.best.tile == (64, 64, 0, 0)
    assert {trial.verdict for trial in outcome.trials} == {"timed"}
    assert list(module.TUNED) == [("native", "float32", 16, 16, False)]
    query = torch.empty(1, 1, 40, 16)
    call = module._call(query, query, False, None, None, "upper_left")
    assert module._native_tile("forward", query, query, call) == (64, 64)


def test_a_session_keeps_nothing_where_nothing_is_better(wanted: Wanted, subject: Subject) -> None:
    assert subject.module is not None
    watch = hasty(Knowing(subject.module, "portable", {}))
    (outcome,) = tune(subject, wanted, lambda what, done, of: None, watch)
    assert not outcome.is_better
    assert read("sigmoid") == ()


def test_questions_of_a_gpu_are_its_kernels_at_the_size_of_the_bench() -> None:
    wanted = Wanted("sigmoid", "cuda", ("bfloat16",), (64, 128), 1.0)
    asked = list(questions(subject_of("sigmoid"), wanted))
    assert [q.kernel for q in asked[:3]] == ["forward", "backward_query", "backward_key"]
    assert len(asked) == 2 * 2 * 3
    assert {q.case.batch * q.case.n_q * q.case.heads * q.case.d for q in asked} == {16384 * 2048}
    assert {check.dtype for q in asked for check in q.checks} == {"bfloat16"}


@pytest.mark.parametrize("spoiled", [False, True])
def test_candidates_of_a_gpu_are_compiled_first(spoiled: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """By rank and by instructions in turn; with problems only where there are no others; none that doesn't fit."""

    def made(n: int) -> Outcome:
        problems = ("spills",) if spoiled or n == 2 else ()
        return Outcome((16 * n, 16, 4, 1), 128, 0, min(n - 1, 2), 0.25, -float(n), problems)

    asked: list[cost.Question] = []

    def ranked(specs: object, question: cost.Question, *rest: object) -> tuple[Outcome, ...]:
        asked.append(question)
        return tuple(map(made, range(1, 20)))

    monkeypatch.setattr(cost, "ranked", ranked)
    monkeypatch.setattr("torch.cuda.get_device_capability", lambda: (9, 0))
    wanted = Wanted("sigmoid", "cuda", ("bfloat16",), (64,), 1.0)
    subject = subject_of("sigmoid")
    question = next(questions(subject, wanted))
    tiles = session._tiles(subject, wanted, question, Watch(CpuClock(), 1e9), lambda what, done, of: None)
    first = 2 if spoiled else 3
    assert [tile[0] // 16 for tile in tiles[:4]] == [first, 19, first + 1, 18]
    assert len(tiles) == session.TIMED
    assert (asked[0].kernel, asked[0].target, asked[0].case.head_dim) == ("forward", "sm_90", 64)
