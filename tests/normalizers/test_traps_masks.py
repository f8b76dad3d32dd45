"""Traps of masks and shifts. Each test shows a common way to write the formula failing, and the op not failing."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tests.normalizers.given_scores import bad, by_autograd, error, random, weights, weights_and_gradient
from tests.ops.subject import Load

ROWS = 8
VISIBLE = torch.ones(ROWS, ROWS, dtype=torch.bool).tril()
CAUSAL = {"is_causal": True}


def by_row(formula: Callable[[Tensor], Tensor], scores: Tensor) -> Tensor:
    """Each row's formula on the keys that it sees, and zero elsewhere."""
    out = torch.zeros_like(scores)
    for row in range(ROWS):
        out[row, : row + 1] = formula(scores[row, : row + 1])
    return out


def _taylor(s: Tensor) -> Tensor:
    return (1 + s + s**2 / 2) / (1 + s + s**2 / 2).sum(-1, keepdim=True)


def _softpick(s: Tensor) -> Tensor:
    return torch.relu(torch.exp(s) - 1) / ((torch.exp(s) - 1).abs().sum(-1, keepdim=True) + 1e-6)


def _stablemax(s: Tensor) -> Tensor:
    h = torch.where(s < 0, 1 / (1 - s), s + 1)
    return h / h.sum(-1, keepdim=True)


NOT_ZERO_AT_MINUS_INFINITY = {
    "identity": lambda s: s,
    "power": lambda s: s**3 / ROWS**0.5,
    "poly2": _taylor,
    "polynomial": lambda s: s**4 / (s**4).sum(-1, keepdim=True),
    "rebased": lambda s: s**2 / ((s**2).sum(-1, keepdim=True) + 1e-6),
    "hstu": lambda s: F.silu(s) / ROWS,
    "softpick": _softpick,
}


@pytest.mark.parametrize("name", NOT_ZERO_AT_MINUS_INFINITY)
def test_masked_scores_of_minus_infinity(name: str, load: Load) -> None:
    """f(-inf) is 0 for exp, sigmoid and relu; it is inf, NaN or 1 here, so that weights must be masked instead."""
    formula, scores = NOT_ZERO_AT_MINUS_INFINITY[name], random(ROWS, ROWS)
    right = by_row(formula, scores)
    naive = formula(scores.masked_fill(~VISIBLE, -torch.inf))
    assert bad(naive) or error(naive, right) > 0.1
    assert error(weights(load(name), scores, **CAUSAL), right) < 1e-12


LEAKS = {"stablemax": _stablemax, "polynomial": NOT_ZERO_AT_MINUS_INFINITY["polynomial"], "poly2": _taylor}


@pytest.mark.parametrize("name", LEAKS)
def test_finite_masks_leak(name: str, load: Load) -> None:
    """stablemax(-1e5) is 1e-5, s ** 4 is 1e20: a large negative number in the place of a masked score has weight."""
    formula, scores = LEAKS[name], random(ROWS, ROWS)
    right = by_row(formula, scores)
    naive = formula(scores.masked_fill(~VISIBLE, -1e5))
    assert float(naive[~VISIBLE].max()) > 1e-6
    found = weights(load(name), scores, **CAUSAL)
    assert float(found[~VISIBLE].abs().max()) == 0
    assert error(found, right) < 1e-12


def test_masks_come_after_a_soft_cap(load: Load) -> None:
    """Before it, a masked score is capped to -50 like any other."""
    scores = random(ROWS, ROWS, spread=30)
    naive = (50 * torch.tanh(scores.masked_fill(~VISIBLE, -torch.inf) / 50)).softmax(-1)
    assert float(naive[~VISIBLE].max()) > 0
    found = weights(load("softcap"), scores, **CAUSAL)
    assert error(found, by_row(lambda s: (50 * torch.tanh(s / 50)).softmax(-1), scores)) < 1e-12


def test_the_beta_of_affine_scaling_is_for_visible_keys(load: Load) -> None:
    scores, alpha, beta = random(ROWS, ROWS), torch.full((1, 1, ROWS), 0.5).double(), torch.full((1, 1, ROWS), 0.1)
    naive = 0.5 * scores.masked_fill(~VISIBLE, -torch.inf).softmax(-1) + 0.1
    assert float(naive[~VISIBLE].min()) == 0.1
    found = weights(load("affine_scaled"), scores, alpha=alpha, beta=beta.double(), **CAUSAL)
    assert error(found, by_row(lambda s: 0.5 * s.softmax(-1) + 0.1, scores)) < 1e-8


EMPTY = (
    "softmax",
    "sink",
    "softmax_n",
    "sigmoid",
    "affine_visible",
    "lssar",
    "retention",
    "exp_l2",
    "t_softmax",
    "cog",
)


@pytest.mark.parametrize("name", EMPTY)
def test_rows_that_see_no_key(name: str, load: Load) -> None:
    """The softmax of nothing is 0 / 0; here it is nothing, and no gradient either."""
    assert bad(torch.full((1, 4), -torch.inf).softmax(-1))
    op, scores = load(name), random(ROWS, 4)  # the first rows stand before the first key
    given = {"sink": torch.zeros(1), "alpha": torch.ones(1, 1, ROWS), "average": torch.ones(1)}
    used = {"sink": ("sink",), "affine_visible": ("alpha", "average")}.get(name, ())
    inputs = {key: given[key].double().requires_grad_(key != "average") for key in used}
    found, gradient = weights_and_gradient(
        op, scores, torch.ones_like(scores), alignment="lower_right", **CAUSAL, **inputs
    )
    assert torch.equal(found[: ROWS - 4], torch.zeros(ROWS - 4, 4).double())
    assert torch.equal(gradient[: ROWS - 4], torch.zeros(ROWS - 4, 4).double())
    assert not bad(found)
    assert not bad(gradient)


NOT_INVARIANT = {
    "softplus_l1": lambda s: F.softplus(s) / F.softplus(s).sum(-1, keepdim=True),
    "sigmoid_l1": lambda s: torch.sigmoid(s) / torch.sigmoid(s).sum(-1, keepdim=True),
    "stablemax": _stablemax,
    "poly2": _taylor,
    "softpick": _softpick,
    "softmax1": lambda s: torch.exp(s) / (1 + torch.exp(s).sum(-1, keepdim=True)),
}


@pytest.mark.parametrize("name", NOT_INVARIANT)
def test_no_maximum_is_subtracted_where_that_changes_the_weights(name: str, load: Load) -> None:
    formula, scores = NOT_INVARIANT[name], random(ROWS, ROWS)
    right, right_gradient = by_autograd(formula, scores, random(ROWS, ROWS, seed=1))
    assert error(formula(scores - scores.amax(-1, keepdim=True)), right) > 0.02
    found, gradient = weights_and_gradient(load(name), scores, random(ROWS, ROWS, seed=1))
    assert error(found, right) < 1e-9
    assert error(gradient, right_gradient) < 1e-9


BIASED_SIGMOID = """
name: sigmoid_alibi
inputs:
  slope: {shape: [head]}
score: scale * qk - slope * abs(i - j)
weights: sigmoid(s)
"""


def test_a_bias_of_the_key_alone_is_no_alibi_for_sigmoid(load: Load) -> None:
    """softmax(s + slope * j) is softmax(s - slope * (i - j)), for sigmoid it is not: no shift-invariance."""
    scores, position = random(ROWS, ROWS), torch.arange(ROWS)
    right = torch.sigmoid(scores - 0.25 * (position[:, None] - position).abs()).tril()
    assert error(torch.sigmoid(scores + 0.25 * position).tril(), right) > 0.1
    assert error(weights(load(BIASED_SIGMOID), scores, slope=torch.tensor([0.25]).double(), **CAUSAL), right) < 1e-12


def test_softpick_leaves_masked_keys_out_of_the_denominator(load: Load) -> None:
    """|exp(-inf) - 1| is one for each of them."""
    scores = random(ROWS, ROWS)
    f = torch.relu(torch.expm1(scores)).tril()
    naive = f / (torch.expm1(scores.masked_fill(~VISIBLE, -torch.inf)).abs().sum(-1, keepdim=True) + 1e-6)
    right = by_row(_softpick, scores)
    assert error(naive, right) > 0.1
    assert error(weights(load("softpick"), scores, **CAUSAL), right) < 1e-9


def test_softpick_of_scores_far_below_zero(load: Load) -> None:
    """exp(-m) overflows where the maximum m starts below zero; no key has a weight then, and none a gradient of NaN."""
    scores = torch.full((ROWS, ROWS), -100.0, requires_grad=True)
    m = scores.amax(-1, keepdim=True)
    naive = torch.relu(torch.exp(scores - m) - torch.exp(-m))
    naive = naive / ((torch.exp(scores - m) - torch.exp(-m)).abs().sum(-1, keepdim=True) + 1e-6)
    assert bad(torch.autograd.grad(naive.sum(), scores)[0])
    scores = scores.detach()
    found, gradient = weights_and_gradient(load("softpick"), scores, torch.ones_like(scores))
    assert torch.equal(found, torch.zeros_like(found))
    assert not bad(gradient)
