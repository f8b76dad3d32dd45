"""The kernels for Hopper, run on the CPU in an emulation of what they use of Gluon: numbers, masks, and the protocol.

The order of copies and partitions is drawn; what a program reads too early is NaN or an error.
"""

import sys
from collections.abc import Callable
from dataclasses import replace
from functools import cache

import pytest
import torch
import triton
import triton.language as tl
from torch import Tensor

from attngen.build import Build
from attngen.catalog import read
from attngen.pipeline import Compilation, compile_spec
from attngen.runtime.interpreter import interpreting
from attngen.runtime.interpreter_gluon import Emulation, emulating_hopper
from attngen.runtime.loader import load_module
from attngen.verify.case import Case
from attngen.verify.subject import subject_of
from attngen.verify.tolerance import check, expect

CAUSAL = Case(batch=1, kv_heads=1, group=2, n_q=150, n_k=300, d=64, d_v=64, dtype="bfloat16", is_causal=True)
CASES = (
    CAUSAL,
    replace(CAUSAL, is_causal=False, n_k=520, dtype="float16"),
    replace(CAUSAL, n_k=100, d=128, d_v=128, alignment="lower_right"),  # rows that see no key
    replace(CAUSAL, is_causal=False, n_k=520, window=(200, 3), layout="transposed"),
)


@cache
def compilation(name: str) -> Compilation:
    spec = read(name)
    return compile_spec(spec.text, spec.path, build=Build("hopper"))


# A tile with two warpgroups that compute, and one with one that loads itself, for either head dim.
PAIR, SOLO = (64, 128, 3, 4, 2), (64, 128, 2, 4, 1)
Tile = tuple[int, int, int, int, int]


def error_of(built: Compilation, case: Case, seed: int = 0, tile: Tile | None = None) -> float:
    """The output's largest error, in units of its tolerance; infinite where it isn't a number."""
    tested = subject_of(load_module(built), built.normalizer)
    drawn = tested.draw(case)
    expected = expect(tested.normalizer, drawn, case.call)
    with pytest.MonkeyPatch.context() as patch:
        if tile is not None:
            module = load_module(built)
            patch.setitem(module.OVERRIDES, "forward_hopper", module.HopperTile(*tile))
        out = emulated(built, lambda: tested.run(drawn.operands, case.call), seed)
    error = float((out.double() - expected.exact["out"]).abs().amax()) / expected.tolerance["out"]
    return error if error == error else float("inf")


def emulated(built: Compilation, call: Callable[[], Tensor], seed: int) -> Tensor:
    module = load_module(built)
    launches: list[None] = []
    launch = module.launch_forward_hopper
    with pytest.MonkeyPatch.context() as patch, torch.no_grad(), interpreting(module), emulating_hopper(module, seed):
        patch.setattr(module, "launch_forward_hopper", lambda *args: (launches.append(None), launch(*args))[1])
        found = call()
    assert launches
    return found


# an input with a query and a key axis; a maximum; shared reciprocals; positions; inputs of keys; two sums with one
# maximum; two walks; two accumulators, of products or of one and of sums
@pytest.mark.parametrize("case", CASES, ids=Case.to_json)
@pytest.mark.parametrize(
    "name",
    ["additive_bias", "affine_scaled", "alibi", "forgetting", "retention", "sigmoid", "t_softmax", "two_temperatures"],
)
def test_output(name: str, case: Case) -> None:
    assert error_of(compilation(name), case) <= 1


# a maximum, with either number of warpgroups; and, of one that loads itself, inputs of keys and of pairs
@pytest.mark.parametrize("case", CASES, ids=Case.to_json)
@pytest.mark.parametrize(
    ("name", "tile"), [("softmax", PAIR), ("softmax", SOLO), ("forgetting", SOLO), ("additive_bias", SOLO)]
)
def test_output_of_either_shape(name: str, tile: Tile, case: Case) -> None:
    assert error_of(compilation(name), case, tile=tile) <= 1


@pytest.mark.parametrize("name", ["cosformer", "softplus_l1"])
def test_output_where_float16_is_left_to_the_others(name: str) -> None:
    assert error_of(compilation(name), CAUSAL) <= 1


# the widest; values of more channels or of fewer, and some that tiles add zeros to; with formulas of the head dim, sums
# of values, several sums, and a step behind the weighted sum
@pytest.mark.parametrize(
    ("name", "d", "d_v"),
    [
        ("softmax", 256, 256),
        ("lssa", 96, 256),
        ("affine_scaled", 64, 80),
        ("two_temperatures", 128, 64),
        ("transnormer", 64, 256),
    ],
)
def test_output_of_other_head_dims(name: str, d: int, d_v: int) -> None:
    assert error_of(compilation(name), replace(CAUSAL, n_q=70, n_k=140, d=d, d_v=d_v)) <= 1


def test_sums_of_values_and_several_sums_are_of_fewer_channels() -> None:
    assert (256, 256) not in load_module(compilation("affine_scaled")).HOPPER_TILES["forward_hopper"]


def test_output_of_the_longest_formulas() -> None:
    assert error_of(compilation("softpick"), CAUSAL) <= 1


def test_pairs_in_every_walk() -> None:
    text = """
name: biased_variance
inputs:
  bias: {shape: [query, key]}
score: scale * qk + bias
let:
  m: mean(s)
weights: (s - m) / (1 + sum((s - m) ** 2))
"""
    built = compile_spec(text, "biased_variance.yaml", build=Build("hopper"))
    assert error_of(built, CASES[2]) <= 1


@pytest.mark.parametrize("tile", [PAIR, SOLO])
@pytest.mark.parametrize("seed", range(1, 6))
def test_no_order_of_events_changes_the_output(seed: int, tile: Tile) -> None:
    assert error_of(compilation("softmax"), replace(CAUSAL, n_k=900, is_causal=False), seed, tile) <= 1


# Scores of a hundred and more: whole tiles have some far above those at edges.
AGAIN = replace(CAUSAL, n_q=150, n_k=600, is_causal=False, gain=100.0)


# by either number of warpgroups; with sums of values, which aren't summed up again; two pivots; positions
@pytest.mark.parametrize(
    ("name", "tile"),
    [("softmax", PAIR), ("softmax", SOLO), ("affine_scaled", None), ("two_temperatures", None), ("alibi", None)],
)
def test_output_where_pivots_must_not_rest(name: str, tile: Tile | None) -> None:
    assert error_of(compilation(name), AGAIN, 1, tile) <= 1


UNLIKE = Case(n_q=128, n_k=64, d=64, d_v=64, dtype="bfloat16", is_causal=True, alignment="lower_right")
TWO_SEARCHES = """\
name: two_searches
let:
  low: {root: "sum(relu(s - low)) - 1", between: [amax(s) - 1, amax(s)]}
  tau: {root: "mean(softplus(tau - s - low)) - 2 - low", between: [low - 30, low + 30]}
weights: sigmoid(s - tau)
"""


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize(
    ("name", "case"),
    [
        ("alpha_entmax", replace(UNLIKE, n_q=70, n_k=90, d=128, d_v=128)),
        ("entmax15", replace(UNLIKE, n_q=70, n_k=140, is_causal=False, window=(70, 3), dtype="float16")),
        ("sparsemax", UNLIKE),  # one consumer's rows see no keys
    ],
)
def test_output_of_searches(name: str, case: Case, seed: int) -> None:
    assert error_of(compilation(name), case, seed) <= 1


def test_output_of_two_searches() -> None:
    built = compile_spec(TWO_SEARCHES, "two_searches.yaml", build=Build("hopper"))
    assert error_of(built, replace(UNLIKE, n_q=70, n_k=70)) <= 1


# a row value; accumulators, of some channels; the weighted sum that a step follows; a root
@pytest.mark.parametrize(
    ("name", "d_v"), [("softmax", 64), ("sparsemax", 64), ("two_temperatures", 72), ("transnormer", 64)]
)
def test_what_is_saved_serves_the_backward(name: str, d_v: int) -> None:
    built = compilation(name)
    module = load_module(built)
    tested, case = subject_of(module, built.normalizer), replace(CAUSAL, n_q=70, n_k=70, d_v=d_v)
    drawn = tested.draw(case)
    with interpreting(module), emulating_hopper(module):
        check(tested.results(drawn, case.call), expect(tested.normalizer, drawn, case.call))


def test_no_program_answers_for_what_the_one_before_wrote(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its shared memory may be where that of the other was, of which a tile that no fence showed is remembered."""
    place = torch.zeros(1, 4)
    monkeypatch.setattr(torch, "full", lambda *_, **__: place)
    emulation = Emulation(seed=0)
    emulation.write(emulation.allocate(tl.float32, place.shape, None).index(0).home)
    assert emulation.dirty
    emulation.allocate(tl.float32, place.shape, None)
    assert not emulation.dirty


# What the protocol needs, and the kernel without it.
MUTANTS = {
    "tiles are overwritten": ("mbarrier.wait(empty.index(slot), parity ^ 1)", "pass"),
    "keys are not there": ("mbarrier.wait(k_full.index(slot), (tile // SLOTS) & 1)", "pass"),
    "values are not there": ("mbarrier.wait(v_full.index(slot), (tile // SLOTS) & 1)", "pass"),
    "queries are not there": ("mbarrier.wait(q_full.index(CONSUMER), 0)\n    q =", "q ="),
    "a slot is never empty": ("mbarrier.arrive(v_empty.index((before + tile - 1) % SLOTS), count=1)", "pass"),
    "the parity is wrong": ("parity = (step // SLOTS) & 1", "parity = step & 1"),
    "one consumer suffices": ("v_empty = _barriers(SLOTS, CONSUMERS)", "v_empty = _barriers(SLOTS, 1)"),
    "the output is not seen": ("fence_async_shared()\n    _tma_store(out_desc", "_tma_store(out_desc"),
    "a product is not awaited": (
        "acc = warpgroup_mma_wait(0, deps=(acc_next,))\n                mbarrier",
        "acc = acc_next.result\n                mbarrier",
    ),
}


KEYS_FOLLOW, VALUES_FOLLOW = (
    f"_renew({ring}_desc, batch, kv_head, {tile} + SLOTS, before, tiles, at_edges, first_edge, first_full, last_full, "
    f"{ring}_full, {ring}_ring, not full)  # fmt: skip\n"
    for ring, tile in (("k", "before + tile"), ("v", "before + tile - 1"))
)
SCORES_DONE = "qk = warpgroup_mma_wait(1, deps=(scores,))\n"
OUTPUT_DONE = "acc = warpgroup_mma_wait(0, deps=(acc_next,))\n"
BETWEEN = 16 * " "

# The same of the warpgroup that loads itself.
SOLO_MUTANTS = {
    "keys are overwritten": (f"{SCORES_DONE}{BETWEEN}{KEYS_FOLLOW}", f"{KEYS_FOLLOW}{BETWEEN}{SCORES_DONE}"),
    "values are overwritten": (f"{OUTPUT_DONE}{BETWEEN}{VALUES_FOLLOW}", f"{VALUES_FOLLOW}{BETWEEN}{OUTPUT_DONE}"),
    "no keys follow": (KEYS_FOLLOW, "pass\n"),
    "queries are not there": ("mbarrier.wait(q_full.index(0), 0)\n    q =", "q ="),
    "keys are not there": MUTANTS["keys are not there"],
    "values are not there": MUTANTS["values are not there"],
    "the parity is wrong": ("mbarrier.wait(v_full.index(slot), (tile // SLOTS) & 1)",
                            "mbarrier.wait(v_full.index(slot), tile & 1)"),
    "a tile is missing": ("exists = tile < tiles", "exists = tile < tiles - 1"),
    "a copy goes on behind the end": ("exists = tile < tiles", "exists = tile <= tiles"),
    "the output is not seen": MUTANTS["the output is not seen"],
}  # fmt: skip

# The same of sums of values.
SUMS_MUTANTS = {
    "values to be summed up are not there": ("mbarrier.wait(v_full.index(slot), (tile // SLOTS) & 1)\n    v =",
                                             "v ="),
    "sums are not there": ("mbarrier.wait(sums_full.index(0), 0)", "pass"),
    "values at edges are not brought again": ("v_full, before + tile, seen", "v_full, tile, seen"),
    "a slot is kept": ("mbarrier.arrive(v_empty.index((before - 1) % SLOTS), count=1)", "pass"),
}  # fmt: skip

# The same of a walk that is done again, whoever brings its tiles.
AGAIN_MUTANTS = {
    "nobody asks for it": ("(inside == 0)", "(inside != inside)"),
    "whole tiles are taken as such again": ("masked = tiles", "masked = at_edges"),
    "sums go on": ("row_sum = gl.where(another > 0.0, 0.0, row_sum)", "pass"),
    "the output goes on": ("acc = gl.where(another > 0.0, 0.0, acc)", "pass"),
    "nothing makes way": ("        if another > 0.0:\n", "        if another > 2.0:\n"),
}  # fmt: skip

# The same of several walks.
WALKS_MUTANTS = {
    "the producer counts each walk from zero": ("first_key, before + tile, k_full", "first_key, tile, k_full"),
    "consumers count each walk from zero": ("_start_scores(q, k_ring, k_full, before + tile, blank)",
                                            "_start_scores(q, k_ring, k_full, tile, blank)"),
    "a slot is never let go": ("mbarrier.arrive(k_empty.index((before + tile + 1) % SLOTS), count=1)", "pass"),
    "scores are not awaited": ("qk = warpgroup_mma_wait(0, deps=(qk_next,))", "qk = qk_next.result"),
}  # fmt: skip

# The same of a number of walks that the rows decide.
VOTE_MUTANTS = {
    "a vote is not awaited": ("mbarrier.wait(voted.index(0), parity)", "pass"),
    "the phase is wrong": ("mbarrier.wait(voted.index(0), parity)", "mbarrier.wait(voted.index(0), 0)"),
    "one vote suffices": ("voted = _barriers(1, CONSUMERS)", "voted = _barriers(1, 1)"),
    "the first one's vote alone counts": ("for consumer in gl.static_range(1, CONSUMERS):", "for consumer in ():"),
    "the last turn's votes are read": ("mbarrier.wait(voted.index(0), parity)",
                                       "mbarrier.wait(voted.index(0), parity)\n    parity ^= 1"),
    "keys come no sooner than the vote": ("before + ahead, before + ahead + tiles):\n            first_key",
                                          "before, before + tiles):\n            first_key"),
    "the producer stops a walk early": ("before += tiles\n        another = _another_walk(votes, voted, parity)",
                                        "before += tiles\n        another = parity * _another_walk(votes, voted, 0)"),
    "the producer doesn't count trials": ("before += tiles\n        another", "another"),
}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "mistake", "tile"),
    [
        *(("softmax", mistake, PAIR) for mistake in MUTANTS.items()),
        *(("softmax", mistake, SOLO) for mistake in SOLO_MUTANTS.items()),
        *(("softmax", mistake, tile) for mistake in AGAIN_MUTANTS.items() for tile in (PAIR, SOLO)),
        *(("t_softmax", mistake, None) for mistake in WALKS_MUTANTS.items()),
        *(("affine_scaled", mistake, None) for mistake in SUMS_MUTANTS.items()),
        *(("sparsemax", mistake, None) for mistake in VOTE_MUTANTS.items()),
    ],
    ids=lambda part: part[0] if isinstance(part, tuple) and isinstance(part[0], str) else None,
)
def test_mistakes_in_the_protocol_show(name: str, mistake: tuple[str, tuple[str, str]], tile: Tile | None) -> None:
    built, (title, (right, wrong)) = compilation(name), mistake
    assert built.source.count(right) in (1, 2)  # the two shapes share some of it
    mutant = replace(built, source=built.source.replace(right, wrong))

    def shows(case: Case, seed: int) -> bool:
        try:
            return error_of(mutant, case, seed, tile) > 1
        except Exception as error:
            return "RaceError" in repr(error) or "DeadlockError" in repr(error)

    cases = [replace(CAUSAL, n_k=900, is_causal=False)]
    if title in AGAIN_MUTANTS:
        cases = [AGAIN]
    if title in VOTE_MUTANTS:
        cases = [UNLIKE]
    if title in SUMS_MUTANTS:  # whole tiles alone, and tiles at edges alone
        cases = [replace(CAUSAL, n_q=64, n_k=896, is_causal=False), replace(CASES[3], n_q=256)]
    assert any(shows(case, seed) for seed in range(5) for case in cases)


# -------------------------------------------------------------------------------------------------- spellings


@triton.jit
def applied(x_ptr, y_ptr, FUNCTION: tl.constexpr, SIZE: tl.constexpr):
    places = tl.arange(0, SIZE)
    tl.store(y_ptr + places, FUNCTION(tl.load(x_ptr + places)))


def values(name: str, function: str, x: Tensor, *more: int) -> Tensor:
    """A device function of a module on each element."""
    module, y = load_module(compilation(name)), torch.empty_like(x)
    with interpreting(module, sys.modules[__name__]):
        device_function = getattr(module, function)
        applied[(1,)](x, y, lambda x: device_function(x, *more), x.numel())
    return y


@pytest.mark.parametrize("shared", [2, 4])
def test_shared_reciprocals_are_as_good_as_their_own(shared: int) -> None:
    """No weight is too small: a floor under each would be a large one under the sum of 16 thousand."""
    x = torch.linspace(-140.0, 120.0, 4096)[torch.randperm(4096)]
    found = values("sigmoid", "_logistic2_shared", x, shared, True)
    torch.testing.assert_close(found.double(), 1 / (1 + torch.exp2(x.double())), rtol=2e-6, atol=0)


@pytest.mark.parametrize(("name", "function"), [("softcap", "tanh"), ("laplace", "erf")])
def test_short_functions_are_good_to_16_bits(name: str, function: str) -> None:
    x = torch.cat([torch.linspace(-10.0, 10.0, 4092), torch.tensor([1e-20, 1e30, -float("inf"), float("nan")])])
    found, right = values(name, f"_{function}_short", x), getattr(torch, function)(x.double())
    torch.testing.assert_close(found.double(), right, rtol=1e-6, atol=0, equal_nan=True)
    assert found.abs().nan_to_num().max() == 1


def test_the_short_softplus_is_good_to_16_bits() -> None:
    x = torch.linspace(-80.0, 80.0, 4096)
    found = values("softplus_l1", "_softplus_short", x)
    torch.testing.assert_close(found.double(), torch.nn.functional.softplus(x.double()), rtol=1.2e-5, atol=1e-30)
