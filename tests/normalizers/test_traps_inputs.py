"""Traps of positions, heads, inputs and kinks. Each test shows a common way failing, and the op not failing."""

import math
from collections.abc import Callable
from itertools import accumulate

import pytest
import torch
from torch import Tensor

from tests.normalizers.given_scores import (
    BF16,
    FP32,
    FP64,
    Op,
    bad,
    by_autograd,
    error,
    kernels,
    random,
    weights,
    weights_and_gradient,
)
from tests.ops.subject import Load

ROWS = 8


def rows_of(length: int) -> dict[str, Tensor]:
    """Query, key and value of one sequence."""
    names = ("query", "key", "value")
    return {name: random(1, 2, length, 8, seed=seed) for seed, name in enumerate(names)}


# --------------------------------------------------------------------------------------------------- positions

SLOPE, FACTOR = torch.tensor([0.3, 0.1], dtype=FP64), torch.tensor([0.4, 0.2], dtype=FP64)
BY_POSITION = {
    "alibi": {"slope": SLOPE},
    "log_n": {},
    "lssa": {},
    "lssar": {},
    "retention": {"log_decay": -SLOPE},
    "ssmax": {"slope": FACTOR},
    "temperature_alibi": {"slope": SLOPE},
}
STATICS = {"log_n": {"length": 4}, "lssar": {"power": 3}}


@pytest.mark.parametrize("name", BY_POSITION)
def test_positions_and_counts_are_those_of_the_sequence(name: str, load: Load) -> None:
    """The last queries alone, as in decoding, are rows 8 to 11 of twelve. Counted from zero they'd be other rows."""
    op, given, whole = load(name, **STATICS.get(name, {})), BY_POSITION[name], rows_of(12)
    right = op(**whole, **given, is_causal=True)[:, :, 8:]
    last = whole | {"query": whole["query"][:, :, 8:]}
    assert error(op(**last, **given, is_causal=True), right) > 0.01
    assert error(op(**last, **given, is_causal=True, alignment="lower_right"), right) < 1e-12


def test_counts_are_of_visible_keys(load: Load) -> None:
    """In a window of four keys n is four for every later row, not its index."""
    scores, position = random(12, 12), torch.arange(12)
    seen = (position[:, None] >= position) & (position[:, None] - position < 4)
    by_index = (scores * torch.log(position + 1.0)[:, None]).masked_fill(~seen, -torch.inf).softmax(-1)
    count = seen.sum(-1, keepdim=True).double()
    right = (scores * torch.log(count)).masked_fill(~seen, -torch.inf).softmax(-1)
    assert error(by_index, right) > 0.1
    found = weights(load("ssmax"), scores, slope=torch.ones(1, dtype=FP64), window=(3, 0))
    assert error(found, right) < 1e-12


def test_one_visible_key(load: Load) -> None:
    """log(1) is 0: the only key gets all the weight, whatever its score."""
    found, gradient = weights_and_gradient(load("ssmax"), random(4, 4), torch.ones(4, 4).double(), window=0)
    assert torch.equal(found, torch.eye(4).double())
    assert not bad(gradient)


def test_what_the_n_of_affine_scaling_means(load: Load) -> None:
    """By the visible keys rows sum to the average exactly, by all keys they don't."""
    scores, alpha = random(ROWS, ROWS), torch.linspace(0, 1, ROWS).double().view(1, 1, ROWS)
    given = {"alpha": alpha, "average": torch.tensor([0.4], dtype=FP64), "is_causal": True}
    assert error(weights(load("affine_visible"), scores, **given).sum(-1), torch.full((ROWS,), 0.4, dtype=FP64)) < 1e-12
    share = torch.arange(1, ROWS + 1, dtype=FP64) / ROWS
    right = alpha.flatten() * (1 - share) + 0.4 * share
    assert error(weights(load("affine_total"), scores, **given).sum(-1), right) < 1e-12
    constant = weights(load("affine_total"), scores, length=16.0, **given).sum(-1)
    assert error(constant, alpha.flatten() + (0.4 - alpha.flatten()) * share / 2) < 1e-12


# ------------------------------------------------------------------------------------------------------- heads


def test_sinks_are_of_query_heads(load: Load) -> None:
    """Four query heads share two key heads; by key head a sink would serve two of them, and its gradient be of both."""
    query, key, value = random(2, 4, 5, 8), random(2, 2, 6, 8, seed=1), random(2, 2, 6, 8, seed=2)
    sink = torch.tensor([-1.0, 0.0, 1.0, 2.0]).double()

    def written_out(sink: Tensor) -> Tensor:
        logits = query @ key.repeat_interleave(2, 1).mT / math.sqrt(8)
        column = sink.view(1, 4, 1, 1).expand(2, 4, 5, 1)
        return torch.cat([logits, column], -1).softmax(-1)[..., :-1] @ value.repeat_interleave(2, 1)

    d_out = random(2, 4, 5, 8, seed=3)
    right, right_gradient = by_autograd(written_out, sink, d_out)
    assert error(written_out(sink[:2].repeat_interleave(2)), right) > 0.1
    found, gradient = by_autograd(lambda sink: load("sink")(query, key, value, sink=sink), sink, d_out)
    assert gradient.shape == (4,)
    assert error(found, right) < 1e-12
    assert error(gradient, right_gradient) < 1e-12


# --------------------------------------------------------------------------------------------- affine scaling


def test_alpha_of_exactly_zero(load: Load) -> None:
    """The gradient of alpha by way of (O - beta * sum v) / alpha is 0 / 0 where alpha is clipped to zero."""
    scores, d_weights = random(ROWS, ROWS), random(ROWS, ROWS, seed=1)
    alpha = torch.tensor([0.0, 1.0] * 4, dtype=FP64).view(1, 1, ROWS)
    p = scores.softmax(-1)
    out = alpha.view(ROWS, 1) * p + 0.1
    assert bad((out - 0.1) / alpha.view(ROWS, 1))

    def run(alpha: Tensor) -> Tensor:
        unit = torch.eye(ROWS, dtype=FP64)[None, None]
        return load("affine_scaled")(scores[None, None], unit, unit, scale=1.0, alpha=alpha, beta=0.1)[0, 0]

    found, gradient = by_autograd(run, alpha, d_weights)
    assert error(found, out) < 1e-12
    assert error(gradient.flatten(), (p * d_weights).sum(-1)) < 1e-12
    _, of_scores = weights_and_gradient(load("affine_scaled"), scores, d_weights, alpha=alpha, beta=0.1)
    assert torch.equal(of_scores[::2], torch.zeros(4, ROWS).double())


def test_negative_weights(load: Load) -> None:
    """Above the average alpha, beta is negative: weights below zero are kept, not clamped."""
    scores, alpha = random(ROWS, ROWS, spread=2), torch.full((1, 1, ROWS), 0.9, dtype=FP64)
    right = 0.9 * scores.softmax(-1) + (0.2 - 0.9) / ROWS
    assert error(right.clamp(min=0), right) > 0.05
    found = weights(load("affine_visible"), scores, alpha=alpha, average=torch.tensor([0.2], dtype=FP64))
    assert error(found, right) < 1e-12


def test_no_gradient_flows_into_the_average(load: Load) -> None:
    average = torch.tensor([0.2], requires_grad=True)
    query = random(1, 1, 4, 8).float().requires_grad_()
    alpha = torch.full((1, 1, 4), 0.5, requires_grad=True)
    load("affine_visible")(query, query, query, alpha=alpha, average=average).sum().backward()
    assert alpha.grad is not None
    assert average.grad is None


# ------------------------------------------------------------------------------------------- sums and differences


@pytest.mark.parametrize("interpreted", [False, True], ids=["portable", "kernels"])
def test_cumulated_gates_are_subtracted_from_each_other_first(interpreted: bool, load: Load) -> None:
    """At 16000 keys the cumulated gates are near -5000, where float32 has steps of 5e-4."""
    scores = random(16, 16).to(FP32)
    c = (-5000 - 0.3 * torch.arange(16.0) - random(16).abs() / 10).to(FP32)
    right = (scores.double() + (c.double()[:, None] - c.double())).softmax(-1)
    naive = ((scores + c[:, None]) - c).softmax(-1)
    assert error(naive, right) > 5e-5
    run = in_kernels(load("forgetting")) if interpreted else load("forgetting")
    assert error(weights(run, scores, c_query=c[None, None], c_key=c[None, None]), right) < 5e-6


def in_kernels(op: Op) -> Op:
    def run(*args: Tensor, **given: Tensor) -> Tensor:
        with kernels(op):
            out = op(*args, **given)
        return out.detach().requires_grad_() + 0 * args[0]  # a gradient for `weights`, which drops it

    return run


def test_gradients_of_biases_are_summed_in_fp32(load: Load) -> None:
    """8192 slopes of 0.05 are 420; a bf16 sum stops at 16, where one more doesn't count."""
    query, key = torch.zeros(1, 2, 64, 16, dtype=BF16), torch.zeros(1, 2, 64, 16, dtype=BF16)
    value = torch.ones(1, 2, 64, 16, dtype=BF16)
    slope = torch.sigmoid(torch.tensor(-2.9)) * torch.sigmoid(torch.tensor(2.9))
    right = float(slope) * 2 * 64 * 64
    *_, naive = accumulate([slope.to(BF16)] * (2 * 64 * 64))
    assert float(naive) < 0.1 * right
    bias = torch.tensor(-2.9, requires_grad=True)
    with kernels(load("sigmoid")) as op:
        out = op(query, key, value, bias=bias)
        d_out = torch.zeros_like(out)
        d_out[..., 0] = 1
        (gradient,) = torch.autograd.grad(out, bias, d_out)
    assert abs(float(gradient) / right - 1) < 1e-4


# ------------------------------------------------------------------------------------------------------- kinks


def _relu_l1(s: Tensor) -> Tensor:
    return torch.relu(s) / (torch.relu(s).sum(-1, keepdim=True) + 1e-6)


def _softpick(s: Tensor) -> Tensor:
    return torch.relu(torch.exp(s) - 1) / ((torch.exp(s) - 1).abs().sum(-1, keepdim=True) + 1e-6)


KINKS = {
    "relu_n": lambda s: torch.relu(s) / 8,
    "relu_l1": _relu_l1,
    "softpick": _softpick,
    "cog": lambda s: torch.sign(s) * torch.exp(s.abs()) / torch.exp(s.abs()).sum(-1, keepdim=True),
}


@pytest.mark.parametrize("name", KINKS)
def test_kinks_at_scores_of_exactly_zero(name: str, load: Load) -> None:
    """bf16 scores are exactly zero now and then: relu and abs have slope 0 there, as torch has it, and not 1."""
    formula: Callable[[Tensor], Tensor] = KINKS[name]
    scores, d_weights = random(4, 8), random(4, 8, seed=1)
    scores[:, ::2] = 0
    right, right_gradient = by_autograd(formula, scores, d_weights)
    _, from_the_right = by_autograd(formula, scores.where(scores != 0, 1e-13), d_weights)
    assert error(from_the_right, right_gradient) > 0.05
    found, gradient = weights_and_gradient(load(name), scores, d_weights)
    assert error(found, right) < 1e-12
    assert error(gradient, right_gradient) < 1e-12
