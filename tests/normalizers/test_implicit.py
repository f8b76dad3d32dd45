"""Sparsemax and alpha-entmax against the `entmax` package: by sorting where it is exact, else by its bisection."""

import inspect

import entmax
import pytest
import torch
from torch import Tensor

from tests.normalizers.given_scores import FP32, FP64, bad, by_autograd, error, kernels, random, weights_and_gradient
from tests.ops.formulas import Formula
from tests.ops.oracle import Mask, Rows
from tests.ops.subject import Case, Load, Subject, check

HIDDEN = -1e4  # the support lies within one of the largest score: this is far enough


def _alpha_entmax(r: Rows) -> Tensor:
    scores = torch.where(r.seen, r.s, HIDDEN)
    alpha = r.alpha.to(scores).expand(*scores.shape[:-1], 1)
    return entmax.entmax_bisect(scores, alpha, dim=-1, n_iter=60)


FORMULAS = {
    "sparsemax": Formula("sparsemax", lambda r: entmax.sparsemax(torch.where(r.seen, r.s, HIDDEN), dim=-1)),
    "entmax15": Formula("entmax15", lambda r: entmax.entmax15(torch.where(r.seen, r.s, HIDDEN), dim=-1)),
    "alpha_entmax": Formula("alpha_entmax", _alpha_entmax, {"alpha": ("head",)}, {"alpha": (1.2, 1.9)}),
}
NAMES = tuple(FORMULAS)
CASES = (
    Case(n_q=19, n_k=35, d=12, d_v=20, batch=2, kv_heads=2, group=2, blocks=(16, 32), scale=1.0),
    Case(n_q=35, n_k=19, d=16, d_v=8, kv_heads=2, group=3, mask=Mask(is_causal=True), blocks=(32, 16)),
    Case(n_q=21, n_k=37, batch=2, mask=Mask(window=(6, 3), alignment="lower_right")),
)
ROUNDING = 1e5  # of float64: the package's own bisection ends at 1e-11


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_portable_in_float64(name: str, case: Case, load: Load) -> None:
    check(Subject(load, FORMULAS[name]), case, FP64, ROUNDING)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=["fp32", "fp16", "bf16"])
@pytest.mark.parametrize("name", NAMES)
def test_kernels(name: str, dtype: torch.dtype, load: Load) -> None:
    check(Subject(load, FORMULAS[name], kernels=True), CASES[1], dtype, 4.0)


# ------------------------------------------------------------------------------------------------------- traps

RIGHT = {
    "sparsemax": lambda s: entmax.sparsemax(s, dim=-1),
    "entmax15": lambda s: entmax.entmax15(s, dim=-1),
    "alpha_entmax": lambda s: entmax.entmax_bisect(s, 1.5, dim=-1, n_iter=60),
}


def one_key_far_ahead() -> Tensor:
    """The support is one key: the slope of the sum at the threshold is that of a kink."""
    scores = random(4, 24, spread=0.1)
    scores[:, 5] += 40
    return scores


ROWS = {
    "one key far ahead": one_key_far_ahead(),
    "ties": torch.zeros(4, 24, dtype=FP64),
    "two keys tied": torch.zeros(4, 24, dtype=FP64).index_fill(1, torch.tensor([3, 8]), 7.0),
    "far from zero": random(4, 24) + 1000,
    "wide": random(4, 24, spread=300),
    "one key": random(4, 1),
    "many keys, small differences": random(4, 300, spread=1e-3),
}


@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("name", NAMES)
def test_thresholds_that_are_hard_to_find(name: str, rows: str, load: Load) -> None:
    scores = ROWS[rows][:, :256]
    d_weights = random(*scores.shape, seed=3)
    right, right_gradient = by_autograd(RIGHT[name], scores, d_weights)
    found, gradient = weights_and_gradient(load(name), scores, d_weights)
    assert error(found, right) < 1e-9
    if "ties" not in rows and "tied" not in rows:
        assert float((gradient - right_gradient).abs().max()) < 1e-8


@pytest.mark.parametrize("name", NAMES)
def test_rows_sum_to_one_in_fp32(name: str, load: Load) -> None:
    """Scores of a thousand leave a threshold to 6e-5 only: what is left over must not stay in the row's sum."""
    scores = (random(8, 64) + 1000).to(FP32)
    with kernels(load(name)) as op:
        found, gradient = weights_and_gradient(op, scores, torch.ones(8, 64))
    assert float((found.sum(-1) - 1).abs().max()) < 1e-3
    assert not bad(gradient)


@pytest.mark.parametrize("name", NAMES)
def test_the_row_adjoint_is_not_that_of_a_ratio(name: str, load: Load) -> None:
    """delta is the mean of dP over u = P ** (2 - alpha), not dO . O: dS = u (dP - delta)."""
    scores, d_weights, alpha = random(6, 20), random(6, 20, seed=3), 2.0 if name == "sparsemax" else 1.5
    p, right = by_autograd(RIGHT[name], scores, d_weights)
    u = torch.where(p > 0, p ** (2 - alpha), 0.0)
    assert error(u * (d_weights - (p * d_weights).sum(-1, keepdim=True)), right) > 0.1
    _, gradient = weights_and_gradient(load(name), scores, d_weights)
    assert float((gradient - right).abs().max()) < 1e-8
    assert torch.equal(gradient != 0, (p > 0) & (gradient != 0))  # no gradient where there is no weight


@pytest.mark.parametrize("name", NAMES)
def test_few_walks_find_the_threshold(name: str, load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 32 rows of 4096 keys the slowest takes 5 to 8; halving a bracket to float32's precision would take 24."""
    op = load(name)
    module = inspect.getmodule(op)
    assert module is not None
    walks, step = [], module._Search.next
    monkeypatch.setattr(module._Search, "next", lambda *args: walks.append(1) or step(*args))
    query, key, value = (random(1, 1, n, 64, seed=n).float() for n in (32, 4096, 4096))
    op(query, key, value)
    assert len(walks) <= 9


@pytest.mark.parametrize("name", NAMES)
def test_forward_mode_where_the_threshold_is_a_bound(name: str, load: Load) -> None:
    """A row of one key has weight one whatever its score; its threshold is the lower bound, give or take a rounding."""
    op = load(name)
    for seed in range(64):
        query, key, value = (random(1, 1, 1, 4, seed=3 * seed + n) for n in range(3))
        _, tangent = torch.func.jvp(lambda q: op(q, key, value), (query,), (torch.ones_like(query),))  # noqa: B023
        assert tangent.abs().max() < 1e-9
