"""Tiles of the kernels for Hopper: candidates, the race against the plain kernels, and what a module makes of a result.

The kernels run in the emulation; the clock is one that knows each tile's time.
"""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch

from attngen.audit.compile import Case as CompiledCase
from attngen.build import Build
from attngen.catalog import read as read_text
from attngen.pipeline import compile_spec
from attngen.runtime import tiles
from attngen.runtime.interpreter import interpreting
from attngen.runtime.interpreter_gluon import emulating_hopper
from attngen.runtime.loader import load_module
from attngen.runtime.tiles import PLAIN, Tile, Tuned, digest_of, this_machine, use_tuned
from attngen.tune import cost, session
from attngen.tune.candidates import hopper_candidates, tile_text
from attngen.tune.search import Found, Question, Watch, search
from attngen.tune.session import Wanted, questions
from attngen.verify.case import Case
from attngen.verify.subject import Subject, subject_of
from attngen.verify.tolerance import check

CASE = Case(kv_heads=1, n_q=24, n_k=24, d=64, d_v=64, dtype="bfloat16")
CHECKS = (replace(CASE, group=2, n_q=70, is_causal=True, alignment="lower_right"),)
PAIR, SOLO = (64, 64, 2, 1, 2), (64, 128, 2, 1, 1)  # the shipped one is SOLO
BACKWARD = (64, 64, 2, 1, 2)


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ATTNGEN_CACHE_DIR", str(tmp_path / "cache"))


@cache
def subject(name: str) -> Subject:
    spec = read_text(name)
    compilation = compile_spec(spec.text, spec.path, build=Build("hopper"))
    return subject_of(load_module(compilation), compilation.normalizer)


def module_of(name: str) -> ModuleType:
    module = subject(name).module
    assert module is not None
    return module


@pytest.fixture
def module() -> Iterator[ModuleType]:
    """That of softmax, in the emulation."""
    module = module_of("softmax")
    with interpreting(module), emulating_hopper(module):
        yield module
    module.TUNED.clear()


# --------------------------------------------------------------------------------------------- candidates


def test_candidates_are_what_a_formula_has_a_use_for() -> None:
    softmax, sigmoid, walks = (
        hopper_candidates(module_of(name), "forward_hopper", 64) for name in ("softmax", "sigmoid", "t_softmax")
    )
    assert softmax[0] == SOLO
    assert len(set(softmax)) == len(softmax)
    assert {shared for *_, shared, _ in softmax} == {1}
    assert {shared for *_, shared, _ in sigmoid} == {2, 4}
    assert {consumers for *_, consumers in softmax} == {1, 2}
    assert {consumers for *_, consumers in walks} == {2}


def test_other_kernels_and_head_dims_have_none() -> None:
    assert hopper_candidates(module_of("softmax"), "backward_hopper", 64)
    assert not hopper_candidates(module_of("softmax"), "backward_hopper", 256)
    assert not hopper_candidates(module_of("softmax"), "forward", 64)


def test_compiled_and_ranked_without_a_gpu() -> None:
    question = cost.Question("forward_hopper", "sm_90", CompiledCase(64))
    wide = (64, 128, 8, 1, 2)  # more than there is shared memory for
    rows = {tile: cost._compiled("softmax", question, tile) for tile in (SOLO, wide)}
    best, last = (cost.outcome(tile, [row]) for tile, row in rows.items() if row)
    assert best.problems == ()
    assert best.warps_per_scheduler == best.ctas > 1
    assert last.ctas == 0
    assert best.rank < last.rank


def test_an_op_without_such_a_shape_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("softmax_forward_hopper_solo", "softmax_backward_hopper")
    monkeypatch.setattr(cost, "compile_launches", lambda *_: [SimpleNamespace(name=name) for name in names])
    monkeypatch.setattr(cost, "row_of", lambda kernel: kernel.name)
    question = cost.Question("forward_hopper", "sm_90", CompiledCase(64))
    assert cost._compiled("softmax", question, SOLO) == names[0]
    monkeypatch.setattr(cost, "compile_launches", lambda *_: [SimpleNamespace(name="softmax_forward_hopper")])
    assert cost._compiled("softmax", question, SOLO) is None
    assert cost._compiled("softmax", question, PAIR)


# ----------------------------------------------------------------------------------- against the plain kernels


class Knowing:
    """Runs what it times, sees which tile the kernel got, and says what that takes."""

    def __init__(self, kernel: str, seconds: dict[Tile, float]) -> None:
        self.kernel, self.seconds = kernel, seconds

    def time(self, run: Callable[[], object]) -> float:
        with seeing(module_of("softmax")) as used:
            run()
        return self.seconds.get(used.get(self.kernel, PLAIN), 1.0)


@contextlib.contextmanager
def seeing(module: ModuleType) -> Iterator[dict[str, Tile]]:
    """Grows by what is launched: the kernel's tile."""
    used: dict[str, Tile] = {}

    def noted(name: str) -> Callable[..., object]:
        launch = getattr(module, f"launch_{name}")
        return lambda *args: (used.update({name: tuple(args[-1])}), launch(*args))[1]

    def noted_tile(kernel: str, *args: object) -> object:
        used[kernel] = tuple(tile_for(kernel, *args))
        return tile_for(kernel, *args)

    tile_for = module._tile_for
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_tile_for", noted_tile)
        for name in tiles.HOPPER_KERNELS:
            patch.setattr(module, f"launch_{name}", noted(name))
        yield used


def found(kernel: str, seconds: dict[Tile, float], given: tuple[Tile, ...], end: float = 1e9) -> Found:
    minutes = iter(range(0, 10**8, 60))
    watch = Watch(Knowing(kernel, seconds), end, lambda: float(next(minutes)))
    return search(subject("softmax"), Question(kernel, CASE, CHECKS), given, watch, lambda what, done, of: None)


@pytest.mark.parametrize(("kernel", "tile"), [("forward_hopper", PAIR), ("backward_hopper", BACKWARD)])
def test_a_faster_tile_takes_the_place_of_the_plain_kernels(kernel: str, tile: Tile, module: ModuleType) -> None:
    outcome = found(kernel, {PLAIN: 0.5, tile: 0.2}, (tile,))
    assert (outcome.best.tile, outcome.shipped.tile) == (tile, PLAIN)
    assert outcome.is_better
    assert outcome.is_news
    assert [tile_text(trial.tile) for trial in outcome.trials] == ["plain", "2 of 64x64, 2 slots"]


def test_plain_kernels_stay_unless_another_is_clearly_faster(module: ModuleType) -> None:
    outcome = found("forward_hopper", {PLAIN: 0.5, SOLO: 0.499}, (SOLO,))
    assert outcome.best.tile == PLAIN
    assert outcome.is_news  # by itself the module would take its kernel for Hopper


def test_nothing_is_decided_where_nothing_was_tried(module: ModuleType) -> None:
    assert not found("forward_hopper", {SOLO: 0.1}, (SOLO,), end=-1).is_news


@pytest.mark.parametrize("mistake", ["wrong", "failed"])
def test_what_a_gpu_makes_nonsense_of_is_left_to_the_plain_kernels(
    mistake: str, module: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    launch = module.launch_forward_hopper

    def spoiled(query: object, key: object, value: object, inputs: object, call: object, *rest: object) -> None:
        if mistake == "failed":
            raise RuntimeError("illegal instruction")
        launch(query, key, value, inputs, call, *rest)
        rest[0][0].mul_(1.2)  # type: ignore[index]

    monkeypatch.setattr(module, "launch_forward_hopper", spoiled)
    outcome = found("forward_hopper", {PLAIN: 0.5, SOLO: 0.1}, (SOLO,))
    assert outcome.best.tile == PLAIN
    assert outcome.is_news
    assert next(trial for trial in outcome.trials if trial.tile == SOLO).verdict == "wrong"


def test_plain_kernels_are_not_passed_over_while_they_are_tuned(module: ModuleType) -> None:
    tile = (16, 16, 4, 1)
    assert found("forward", {tile: 0.2}, (tile,)).best.tile == tile
    assert module.OVERRIDES == {}


# ----------------------------------------------------------------------------------------- what a result means


def entry(module: ModuleType, kernel: str, tile: Tile) -> Tuned:
    return Tuned(this_machine("cpu"), digest_of(module), kernel, "bfloat16", 64, 64, True, tile, 1e-3, 2e-3, 2048)


def launched(module: ModuleType, *, is_causal: bool = True) -> dict[str, Tile]:
    query, key, value = (torch.randn(1, 1, 40, 64, dtype=torch.bfloat16, requires_grad=True) for _ in range(3))
    with seeing(module) as used:
        module.softmax_attention(query, key, value, is_causal=is_causal).sum().backward()
    return used


def test_a_module_obeys_what_was_kept(module: ModuleType) -> None:
    assert launched(module)["forward_hopper"] == SOLO
    kept = (entry(module, "forward_hopper", PAIR), entry(module, "backward_hopper", PLAIN))
    tiles.keep("softmax", kept)
    assert set(tiles.read("softmax")) == set(kept)
    use_tuned("softmax", module)
    used = launched(module)
    assert used["forward_hopper"] == PAIR
    assert {"backward_query", "backward_key"} <= set(used)
    assert "backward_hopper" not in used
    assert "backward_hopper" in launched(module, is_causal=False)  # the entries are of calls with a mask


def test_each_direction_is_decided_by_itself(module: ModuleType) -> None:
    """The plain forward saves what the backward for Hopper reads."""
    module.TUNED[entry(module, "forward_hopper", PLAIN).place] = module.HopperTile(*PLAIN)
    used = launched(module)
    assert "forward_hopper" not in used
    assert {"forward", "backward_hopper"} <= set(used)
    tested = subject("softmax")
    drawn = tested.draw(CHECKS[0])
    check(tested.results(drawn, CHECKS[0].call), tested.expect(drawn, CHECKS[0].call))


def test_a_tile_of_another_kind_of_kernel_is_told_of_and_unused(module: ModuleType) -> None:
    tiles.keep("softmax", [entry(module, "forward_hopper", (64, 64, 4, 1))])
    with pytest.warns(UserWarning, match=r"is not used"):
        use_tuned("softmax", module)


# ------------------------------------------------------------------------------------------------- a session


def test_questions_of_a_hopper_gpu_end_with_its_own_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    tested, wanted = subject("softmax"), Wanted("softmax", "cuda", ("bfloat16", "float32"), (128, 256), 1.0)

    def asked() -> dict[tuple[str, int], list[str]]:
        kinds: dict[tuple[str, int], list[str]] = {}
        for question in questions(tested, wanted):
            if not question.case.is_causal:
                kinds.setdefault((question.case.dtype, question.case.d), []).append(question.kernel)
        return kinds

    plain = ["forward", "backward_query", "backward_key"]
    monkeypatch.setattr(tested.module, "_is_hopper", lambda: True)
    kinds = asked()
    assert kinds["bfloat16", 128] == [*plain, "forward_hopper", "backward_hopper"]
    assert kinds["bfloat16", 256] == [*plain, "forward_hopper"]
    assert kinds["float32", 128] == plain
    monkeypatch.setattr(tested.module, "_is_hopper", lambda: False)
    assert list(asked().values()) == [plain] * 4


def test_the_shipped_tile_is_timed_whatever_its_machine_code(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cost, "ranked", lambda *_: (cost.Outcome(PAIR, 168, 0, 1, 0.25, 8.0, ()),))
    question = cost.Question("forward_hopper", "sm_90", CompiledCase(64))
    found = session.tiles_of_gpu("softmax", module_of("softmax"), question, lambda done, of: True)
    assert found == (SOLO, PAIR)


def test_a_session_keeps_which_kernels_serve(module: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "_checks", lambda dtype, width: CHECKS)
    monkeypatch.setattr(session, "_timed_case", lambda *_: CASE)
    monkeypatch.setattr(session, "hopper_candidates", lambda *_: (SOLO,))
    wanted = Wanted("softmax", "cpu", ("bfloat16",), (64,), 1e6, (False,), ("forward_hopper",))
    minutes = iter(range(0, 10**8, 60))
    watch = Watch(Knowing("forward_hopper", {PLAIN: 0.25}), 1e9, lambda: float(next(minutes)))
    (outcome,) = session.tune(subject("softmax"), wanted, lambda what, done, of: None, watch)
    assert not outcome.is_better
    (kept,) = tiles.read("softmax")
    assert (kept.kernel, kept.tile, kept.seconds) == ("forward_hopper", PLAIN, 0.25)
    assert "forward_hopper" not in launched(module, is_causal=False)
