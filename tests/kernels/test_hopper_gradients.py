"""The backward kernel for Hopper, in an emulation on the CPU of what it uses of Gluon: numbers, masks, the protocol."""

from dataclasses import replace
from functools import cache, partial

import pytest
import torch

from attngen.build import Build
from attngen.catalog import read
from attngen.pipeline import Compilation, compile_spec
from attngen.runtime.interpreter import interpreting
from attngen.runtime.interpreter_gluon import emulating_hopper
from attngen.runtime.loader import load_module
from attngen.verify.case import Case
from attngen.verify.subject import subject_of
from attngen.verify.tolerance import expect

CAUSAL = Case(batch=1, kv_heads=1, group=2, n_q=150, n_k=300, d=64, d_v=64, dtype="bfloat16", is_causal=True)


@cache
def compilation(name: str) -> Compilation:
    spec = read(name)
    return compile_spec(spec.text, spec.path, build=Build("hopper"))


# row values and a mask; a window, keys and queries that share slots; what rows alone decide; inputs of rows and keys,
# whose gradients come from plain kernels or from both
@pytest.mark.parametrize(
    ("name", "case"),
    [
        ("softmax", replace(CAUSAL, d=128, d_v=128)),
        ("sigmoid", replace(CAUSAL, is_causal=False, n_k=520, window=(200, 3), layout="transposed")),
        ("retention", replace(CAUSAL, n_q=70, n_k=140)),
        ("temperature_alibi", replace(CAUSAL, n_q=70, n_k=140, alignment="lower_right")),
        ("gaussian", replace(CAUSAL, n_q=70, n_k=140, is_causal=False)),
        ("forgetting", replace(CAUSAL, n_q=70, n_k=140, d=128, d_v=128)),
        ("lssa", replace(CAUSAL, n_q=3, n_k=70)),  # NaN beyond the last query would spoil what shares a reciprocal
        # tiles that wait in shared memory, with a product beside that of dP and without; sums over keys made before
        ("l2", replace(CAUSAL, n_q=150, n_k=140, d=128, d_v=128)),
        ("cog", replace(CAUSAL, n_q=150, n_k=140, d=128, d_v=128)),
        ("elu_l1", replace(CAUSAL, n_q=70, n_k=140)),
        # values of more channels or of fewer, and some that tiles add zeros to
        ("softmax", replace(CAUSAL, n_q=70, n_k=140, d_v=128)),
        ("lssa", replace(CAUSAL, n_q=70, n_k=140, d=80, d_v=56)),
        # tiles of 32 queries, of which dQ comes transposed
        ("t_softmax", replace(CAUSAL, n_q=70, n_k=140, d=128, d_v=64)),
        ("cosformer", replace(CAUSAL, n_q=70, n_k=70, d=128, d_v=128)),
        ("t_softmax", replace(CAUSAL, n_q=70, n_k=140)),
        ("affine_scaled", replace(CAUSAL, n_q=70, n_k=140)),
    ],
)
def test_gradients_of_one_kernel(name: str, case: Case) -> None:
    error, launches = error_of_gradients(compilation(name), case)
    assert error <= 1
    assert launches == 1


SUMMED = """
name: summed
inputs:
  bias: {shape: []}
  column: {shape: [batch, kv_head, key]}
weights: sigmoid(s + bias - 2 * column)
"""


def test_gradients_of_inputs_come_with_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that are multiples of the gradients of q . k, where all queries share the input: no plain kernel runs."""
    built = compile_spec(SUMMED, "summed.yaml", build=Build("hopper"))
    monkeypatch.setattr(load_module(built), "_constants", None)  # of the plain kernels
    error, launches = error_of_gradients(built, replace(CAUSAL, batch=2, n_q=70, n_k=140))
    assert error <= 1
    assert launches == 1


MOMENTS = """
name: moments
inputs: {g: {shape: [key]}, b: {shape: [key]}}
let: {m: mean(s), v: mean((s - m) ** 2)}
weights: g * (s - m) / sqrt(v + 1) + b
"""
POWER = "{name: raised, inputs: {p: {shape: [head]}}, weights: softplus(s) ** p / sum(softplus(s) ** p)}"


@pytest.mark.parametrize(("text", "served"), [(SUMMED, {64: 64, 128: 64}), (MOMENTS, {64: 64, 128: 32}), (POWER, {})])
def test_formulas_that_registers_do_not_hold_are_left_to_the_others(text: str, served: dict[int, int]) -> None:
    """`served` has the queries of a tile at each head dim."""
    module = load_module(compile_spec(text, "made_up.yaml", build=Build("hopper")))
    tiles = module.HOPPER_TILES.get("backward_hopper", {})
    assert {d: tiles[d, d].queries for d in (64, 128) if (d, d) in tiles} == served


def test_keys_that_do_not_exist_add_nothing() -> None:
    """Beside scores far below zero a product with zeros would weigh more than 16 bits hold."""
    module = load_module(compilation("softmax"))
    query = torch.full((1, 1, 64, 64), 2.0, dtype=torch.float16)
    key = torch.full((1, 1, 70, 64), -2.0, dtype=torch.float16)
    leaves = [x.clone().requires_grad_() for x in (query, key, key)]
    with interpreting(module), emulating_hopper(module):
        gradients = torch.autograd.grad(module.softmax_attention(*leaves), leaves, query)
    assert all(gradient.isfinite().all() for gradient in gradients)


def test_the_gradient_of_a_sum_takes_the_one_kernel() -> None:
    """Its strides are zero, which the copy engine can't address."""
    error, launches = error_of_gradients(compilation("softmax"), replace(CAUSAL, n_q=64, n_k=64), is_sum=True)
    assert error <= 1
    assert launches == 1


@pytest.mark.parametrize("by_argument", [True, False])
def test_deterministic_gradients_take_two_kernels(by_argument: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    built = compilation("softmax")
    module = load_module(built)
    op = partial(module.softmax_attention, deterministic=by_argument)
    monkeypatch.setattr(module, "softmax_attention", op)
    monkeypatch.setattr(torch, "are_deterministic_algorithms_enabled", lambda: not by_argument)
    error, launches = error_of_gradients(built, replace(CAUSAL, n_q=64, n_k=64))
    assert error <= 1
    assert launches == 0


def error_of_gradients(built: Compilation, case: Case, seed: int = 3, is_sum: bool = False) -> tuple[float, int]:
    """The largest error of a gradient in units of its tolerance, and how often the one kernel was launched."""
    module = load_module(built)
    tested = subject_of(module, built.normalizer)
    drawn = tested.draw(case)
    if is_sum:
        drawn = replace(drawn, grad_out=drawn.grad_out.new_ones(()).expand_as(drawn.grad_out))
    expected = expect(tested.normalizer, drawn, case.call)
    leaves = {name: getattr(drawn.operands, name).detach().requires_grad_() for name in ("query", "key", "value")}
    trained = [declared.name for declared in tested.normalizer.inputs if declared.grad]
    inputs = {name: drawn.operands.inputs[name].detach().requires_grad_() for name in trained}
    operands = replace(drawn.operands, **leaves, inputs={**drawn.operands.inputs, **inputs})
    leaves |= inputs
    launches: list[None] = []
    launch = module.launch_backward_hopper
    with pytest.MonkeyPatch.context() as patch, interpreting(module), emulating_hopper(module, seed):
        patch.setattr(module, "launch_backward_hopper", lambda *args: (launches.append(None), launch(*args))[1])
        found = torch.autograd.grad(tested.run(operands, case.call), [*leaves.values()], drawn.grad_out)
    errors = [
        float((gradient.double() - expected.exact[f"grad {name}"]).abs().amax()) / expected.tolerance[f"grad {name}"]
        for gradient, name in zip(found, leaves, strict=True)
    ]
    return max(error if error == error else float("inf") for error in errors), len(launches)


BACKWARD_MUTANTS = {
    "a slot is never let go": ("mbarrier.arrive(empty.index(slot), count=1)", "pass"),
    "queries are overwritten": ("mbarrier.wait(empty.index(slot), phase)", "pass"),
    "gradients of scores are not seen": ("fence_async_shared()\n            mbarrier.arrive(ds_full",
                                         "mbarrier.arrive(ds_full"),
    "gradients of scores are not there": ("mbarrier.wait(ds_full.index(0), parity)\n            dq", "dq"),
    "dQ is overwritten": ("tma.store_wait(0)\n            if TURNED", "if TURNED"),
    "keys are overwritten": ("mbarrier.wait(ds_full.index(0), parity)  # until", "pass  # until"),
}  # fmt: skip

# The same of a tile that waits where dQ's share comes later.
WAITING_MUTANT = "tma.store_wait(0)\n                _matrix(dq_tile)", "_matrix(dq_tile)"


@pytest.mark.parametrize("mistake", BACKWARD_MUTANTS)
def test_mistakes_in_the_backward_show(mistake: str) -> None:
    show_in_gradients("softmax", BACKWARD_MUTANTS[mistake], replace(CAUSAL, n_q=300, is_causal=False))


def test_a_tile_that_waits_does_not_overwrite_dq() -> None:
    show_in_gradients("l2", WAITING_MUTANT, replace(CAUSAL, n_q=300, is_causal=False, d=128, d_v=128))


def show_in_gradients(name: str, mistake: tuple[str, str], case: Case) -> None:
    built, (right, wrong) = compilation(name), mistake
    assert built.source.count(right) == 1
    mutant = replace(built, source=built.source.replace(right, wrong))

    def shows(seed: int) -> bool:
        try:
            return error_of_gradients(mutant, case, seed)[0] > 1
        except Exception as error:
            return "RaceError" in str(error) or "DeadlockError" in str(error)

    assert any(map(shows, range(5)))
