"""Traps of range and rounding. Each test shows a common way to write the formula failing, and the op not failing."""

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tests.normalizers.given_scores import (
    BF16,
    FP16,
    FP32,
    FP64,
    bad,
    by_autograd,
    error,
    kernels,
    random,
    weights,
    weights_and_gradient,
)
from tests.ops.subject import Load

KEYS = 32


def spread_out(low: float, high: float, dtype: torch.dtype = FP32, rows: int = 3) -> Tensor:
    return torch.linspace(low, high, KEYS, dtype=FP64).expand(rows, KEYS).to(dtype)


# -------------------------------------------------------------------------------------- sigmoid, softplus, expm1


def test_sigmoid_by_tanh_cancels(load: Load) -> None:
    """With a bias of -log(65536), weights are differences of numbers near one half."""
    scores, bias = random(3, KEYS).to(FP32), -math.log(65536)
    right = torch.sigmoid(scores.double() + bias)
    naive = 0.5 * torch.tanh((scores + bias) / 2) + 0.5
    assert float((naive / right - 1).abs().max()) > 1e-3
    with kernels(load("sigmoid")) as op:
        assert float((weights(op, scores, bias=bias) / right - 1).abs().max()) < 5e-6


@pytest.mark.parametrize(("low", "high"), [(60, 120), (-60, -20)])
def test_softplus_by_the_logarithm_of_one_plus_exp(low: float, high: float, load: Load) -> None:
    """log(1 + exp(s)) is inf from 89 on and 0 from -17 down, in float32."""
    scores = spread_out(low, high)
    right = torch.logaddexp(scores.double(), torch.zeros(()).double())
    right = right / right.sum(-1, keepdim=True)
    naive = torch.log(1 + torch.exp(scores))
    assert bad(naive / naive.sum(-1, keepdim=True))
    with kernels(load("softplus_l1")) as op:
        found, gradient = weights_and_gradient(op, scores, random(3, KEYS))
    assert error(found, right) < 1e-5
    assert not bad(gradient)


def test_softpick_of_scores_near_zero(load: Load) -> None:
    """exp(s) - 1 has lost half of its digits at 1e-4."""
    scores = spread_out(-1e-4, 2e-4)
    exact = torch.expm1(scores.double())
    right = torch.relu(exact) / (exact.abs().sum(-1, keepdim=True) + 1e-6)
    plain = torch.exp(scores) - 1
    assert error(torch.relu(plain) / (plain.abs().sum(-1, keepdim=True) + 1e-6), right) > 1e-4
    with kernels(load("softpick")) as op:
        assert error(weights(op, scores), right) < 1e-4


# --------------------------------------------------------------------------------------------------- exponentials


def _power(s: Tensor, p: float) -> Tensor:
    return torch.exp(s) / torch.exp(s).sum(-1, keepdim=True) ** p


BEYOND_EXP = {  # the formula as it stands; the same in float64
    "softmax": lambda s: torch.exp(s) / torch.exp(s).sum(-1, keepdim=True),
    "exp_l2": lambda s: torch.exp(s) / torch.sqrt(torch.exp(2 * s).sum(-1, keepdim=True)),
    "softmax_power": lambda s: _power(s, 1.0),
    "softmax1": lambda s: torch.exp(s) / (1 + torch.exp(s).sum(-1, keepdim=True)),
    "cog": lambda s: torch.sign(s) * torch.exp(s.abs()) / torch.exp(s.abs()).sum(-1, keepdim=True),
    "softpick": lambda s: torch.relu(torch.exp(s) - 1) / ((torch.exp(s) - 1).abs().sum(-1, keepdim=True) + 1e-6),
    "two_temperatures": lambda s: s.softmax(-1) / 2 + torch.exp(s / 2) / torch.exp(s / 2).sum(-1, keepdim=True) / 2,
}


@pytest.mark.parametrize("name", BEYOND_EXP)
def test_exponentials_beyond_the_range(name: str, load: Load) -> None:
    formula, scores, d_weights = BEYOND_EXP[name], spread_out(100, 260), random(3, KEYS)
    right, right_gradient = by_autograd(formula, scores.double(), d_weights)
    assert bad(formula(scores)) or name == "two_temperatures"
    with kernels(load(name)) as op:
        found, gradient = weights_and_gradient(op, scores, d_weights)
    assert error(found, right) < 1e-4
    assert float((gradient - right_gradient).abs().max()) < 1e-4  # its terms are of the order of one, and cancel


def test_a_power_of_the_sum_needs_the_maximum_back(load: Load) -> None:
    """exp(s) / sum(exp(s)) ** p isn't shift-invariant: a shift by m has to be undone by exp((1 - p) m)."""
    scores, p = random(3, KEYS, spread=4), 0.5
    shifted = scores - scores.amax(-1, keepdim=True)
    assert error(_power(shifted, p), _power(scores, p)) > 0.1
    assert error(weights(load("softmax_power"), scores, p=torch.tensor([p]).double()), _power(scores, p)) < 1e-12


@pytest.mark.parametrize("name", ["softmax1", "softmax_n"])
def test_scores_far_below_the_constant_of_the_denominator(name: str, load: Load) -> None:
    """Shifted by the row's maximum alone, the constant becomes exp(-m): inf from -89 down."""
    scores = spread_out(-140, -95)
    m = scores.amax(-1, keepdim=True)
    assert bad(torch.exp(-m))
    with kernels(load(name)) as op:
        found, gradient = weights_and_gradient(op, scores, random(3, KEYS))
    assert float(found.abs().max()) < 1e-38
    assert float(gradient.abs().max()) < 1e-36


def test_the_constant_of_the_denominator_is_in_natural_units(load: Load) -> None:
    """A maximum in units of log 2 needs 2 ** -m; exp(-m) is another number."""
    scores, n = random(3, 8, spread=2), 1.7
    right = torch.exp(scores) / (n + torch.exp(scores).sum(-1, keepdim=True))
    m = scores.amax(-1, keepdim=True) / math.log(2)
    shifted = torch.exp2(scores / math.log(2) - m)
    naive = shifted / (n * torch.exp(-m) + shifted.sum(-1, keepdim=True))
    assert error(naive, right) > 0.02
    found = weights(load("softmax_n"), scores, extra=torch.tensor([n], dtype=FP64))
    assert error(found, right) < 1e-12


@pytest.mark.parametrize("name", ["softmax_n", "sink"])
def test_the_saved_logarithm_includes_the_constant(name: str, load: Load) -> None:
    """Weights that the backward computes anew from a log-sum-exp without it are too large, and so is dS."""
    scores, d_weights, n = random(3, 8), random(3, 8, seed=1), 2.5
    formula = lambda s: torch.exp(s) / (n + torch.exp(s).sum(-1, keepdim=True))  # noqa: E731
    right, right_gradient = by_autograd(formula, scores, d_weights)
    without = scores.softmax(-1)
    naive = without * (d_weights - (d_weights * right).sum(-1, keepdim=True))
    assert error(naive, right_gradient) > 0.1
    given = {"extra": torch.tensor([n])} if name == "softmax_n" else {"sink": torch.tensor([math.log(n)])}
    given = {key: value.double() for key, value in given.items()}
    found, gradient = weights_and_gradient(load(name), scores, d_weights, **given)
    assert error(found, right) < 1e-7
    assert error(gradient, right_gradient) < 1e-7


def test_softpicks_eps_is_in_the_units_of_the_formula(load: Load) -> None:
    """Added behind a shift by the maximum, it would stand for eps * exp(m)."""
    scores, eps = random(3, 8, spread=3), 0.5
    f = torch.expm1(scores)
    right = torch.relu(f) / (f.abs().sum(-1, keepdim=True) + eps)
    m = scores.amax(-1, keepdim=True)
    shifted = f * torch.exp(-m)
    assert error(torch.relu(shifted) / (shifted.abs().sum(-1, keepdim=True) + eps), right) > 0.1
    assert error(weights(load("softpick", eps=eps), scores), right) < 1e-12


@pytest.mark.parametrize(("name", "f"), [("softplus_l1", F.softplus), ("sigmoid_l1", torch.sigmoid)])
@pytest.mark.parametrize("score", [-96.0, -130.0])
def test_rows_that_underflow_as_a_whole(name: str, f: Callable[[Tensor], Tensor], score: float, load: Load) -> None:
    """0 / 0 from -104 on; from -89 on 1 / z is too large to be multiplied by any gradient."""
    scores, d_weights = spread_out(score - 2, score), random(3, KEYS)
    naive, naive_gradient = by_autograd(lambda s: f(s) / f(s).sum(-1, keepdim=True), scores, d_weights)
    assert bad(naive) or bad(naive_gradient) or score > -104
    with kernels(load(name)) as op:
        found, gradient = weights_and_gradient(op, scores, d_weights)
    assert float(found.max()) < 1e-10
    assert float(found.min()) >= 0
    assert float(gradient.abs().max()) < 1e-10


def test_squares_of_divisors_that_underflow(load: Load) -> None:
    """In a mixture the slope by each sum is -dO . A / z ** 2, and z ** 2 is zero at scores of -56."""
    spec = "name: mixture\nweights: exp(s) / sum(exp(s)) + sigmoid(s) / sum(sigmoid(s))\n"
    scores, d_weights = spread_out(-58, -56), random(3, KEYS)
    assert not (torch.sigmoid(scores).sum(-1) ** 2).any()
    f = torch.sigmoid
    right, right_gradient = by_autograd(lambda s: s.softmax(-1) + f(s) / f(s).sum(-1, True), scores.double(), d_weights)
    with kernels(load(spec)) as op:
        found, gradient = weights_and_gradient(op, scores, d_weights)
    assert error(found, right) < 1e-4
    assert error(gradient, right_gradient) < 1e-4


@pytest.mark.parametrize(
    "weights",
    [
        "f * sum(f) / sum(f ** 2)",
        "f / sum(f) * log1p(sum(f))",
        "relu(f / sum(f) - 1 / n) * sum(f)",
        "f / sum(f) + f * sum(f)",
    ],
)
@pytest.mark.parametrize("f", ["sigmoid", "softplus"])
def test_sums_that_are_factors_as_well(f: str, weights: str, load: Load) -> None:
    """A factor may be zero, but delta / sum(f) is the slope by it."""
    spec = f"name: factors\nlet: {{f: {f}(s)}}\nweights: {weights}\n"
    scores, d_weights = spread_out(-130, -96), random(3, KEYS)
    with kernels(load(spec)) as op:
        found, gradient = weights_and_gradient(op, scores, d_weights)
    assert not bad(found)
    assert float(gradient.abs().max()) < 1e-4


@pytest.mark.parametrize("share", ["relu(s) ** 2 / sum(relu(s) ** 2)", "relu(s) / sqrt(sum(relu(s) ** 2))"])
def test_staged_shares_of_rows_that_have_none(share: str, load: Load) -> None:
    """The slope by the sum z is that of 1 / z ** 2 or z ** -1.5, which is infinite, times relu(s), which is zero."""
    spec = f"name: shares\nlet: {{a: {share}}}\nweights: softplus(a)\n"
    scores, d_weights = spread_out(-3, -1), random(3, KEYS)
    with kernels(load(spec)) as op:
        found, gradient = weights_and_gradient(op, scores, d_weights)
    assert error(found, torch.full_like(found, math.log(2))) < 1e-6
    assert not gradient.any()


def test_powers_of_what_underflows(load: Load) -> None:
    """sigmoid(s) ** p is zero from -104 on, and the slope by p zero times the logarithm of zero."""
    spec = "name: powers\ninputs: {p: {shape: []}}\nweights: sigmoid(s) ** p / sum(sigmoid(s) ** p)\n"
    scores, d_weights, p = spread_out(-160, -104), random(3, KEYS), torch.tensor(0.7, requires_grad=True)
    base = torch.sigmoid(scores)
    assert bad(base**p / (base**p).sum(-1, keepdim=True))
    exact = p.detach().double().requires_grad_()
    right = (exact * F.logsigmoid(scores.double())).softmax(-1)
    (right_gradient,) = torch.autograd.grad(right, exact, d_weights)
    with kernels(load(spec)) as op:
        found = op(scores[None, None], *[torch.eye(KEYS)[None, None]] * 2, scale=1.0, p=p)[0, 0]
        (gradient,) = torch.autograd.grad(found, p, d_weights.float())
    assert error(found, right) < 1e-4
    assert error(gradient, right_gradient) < 1e-4


# -------------------------------------------------------------------------------------------------------- powers


def test_powers_that_overflow_before_they_are_normalized(load: Load) -> None:
    """A row that attends to one key of 400 has r = 399 there, and r ** 15 is 1e39."""
    n, d = 400, 256
    query, key, value = torch.zeros(1, 1, 4, d), torch.zeros(1, 1, n, d), torch.zeros(1, 1, n, 16)
    query[..., 0], query[..., 1] = 0.8, -1.0
    key[..., 1], key[..., 7, 1], key[..., 7, 0], value[..., 7, :] = 1.0, 0.0, 1.0, 1.0
    s = math.log(d) * math.log(n) * torch.tensor([0.8, -1.0]).double()
    hot, other = F.softplus(s)
    r = n * hot / (hot + (n - 1) * other) - 1
    assert bad(r.float() ** 15)
    leaves = [x.requires_grad_() for x in (query, key, value)]
    out = load("lssar")(*leaves)
    assert error(out, torch.ones(1)) < 1e-6
    assert not any(bad(x) for x in torch.autograd.grad(out.sum(), leaves))


@pytest.mark.parametrize("power", [3, 15])
def test_powers_in_fp16(power: int, load: Load) -> None:
    """r ** 15 leaves fp16 from r = 2.1 on, r ** 3 from 40 on."""
    qk = random(6, KEYS, spread=0.3).to(FP16)
    qk[:, 3] = 0.9
    s = math.log(KEYS) * math.log(KEYS) * qk.double()
    a = F.softplus(s) / F.softplus(s).sum(-1, keepdim=True)
    r = torch.relu(KEYS * a - (torch.arange(6) >= 3).double()[:, None])
    assert power == 3 or bad(r.half() ** power)
    with kernels(load("lssar", power=power)) as op:
        found, gradient = weights_and_gradient(op, qk, random(6, KEYS))
    assert error(found, r**power / (r**power).sum(-1, keepdim=True)) < 2e-3
    assert not bad(gradient)


IN_FP16 = {
    "relu_squared": (300.0, lambda s: torch.relu(s) ** 2 / KEYS**2),
    "polynomial": (30.0, lambda s: s**4 / (s**4).sum(-1, keepdim=True)),
    "rebased": (300.0, lambda s: s**2 / ((s**2).sum(-1, keepdim=True) + 1e-6)),
    "l2": (300.0, lambda s: s / torch.sqrt((s**2).sum(-1, keepdim=True) + 1e-12)),
}


@pytest.mark.parametrize("name", IN_FP16)
def test_squares_and_fourth_powers_in_fp16(name: str, load: Load) -> None:
    """relu(s) ** 2 leaves fp16 at 256, s ** 4 at 16: before the division that would bring it back."""
    largest, formula = IN_FP16[name]
    scores = spread_out(-largest / 2, largest, FP16)
    right = formula(scores.double())
    assert bad(formula(scores)) or error(formula(scores), right) > 0.1
    with kernels(load(name)) as op:
        assert error(weights(op, scores), right) < 2e-3


def test_powers_of_negative_scores(load: Load) -> None:
    """exp(3 * log(s)) has no value below zero."""
    scores = spread_out(-2, 2)
    assert bad(torch.exp(3 * torch.log(scores)))
    with kernels(load("power")) as op:
        found, gradient = weights_and_gradient(op, scores, torch.ones_like(scores))
    assert error(found, scores.double() ** 3 / math.sqrt(KEYS)) < 1e-6
    assert error(gradient, 3 * scores.double() ** 2 / math.sqrt(KEYS)) < 1e-6


# ------------------------------------------------------------------------------------- branches that aren't taken


def _stablemax(s: Tensor) -> Tensor:
    h = torch.where(s >= 0, s + 1, 1 / (1 - s))
    return h / h.sum(-1, keepdim=True)


def _elu(s: Tensor) -> Tensor:
    f = torch.where(s > 0, s + 1, torch.exp(s))
    return f / f.sum(-1, keepdim=True)


@pytest.mark.parametrize(("name", "formula", "score"), [("stablemax", _stablemax, 1.0), ("elu_l1", _elu, 200.0)])
def test_branches_that_are_not_taken(name: str, formula: Callable[[Tensor], Tensor], score: float, load: Load) -> None:
    """1 / (1 - s) at 1 and exp(200) are not wanted there, but autograd multiplies their slopes by zero: NaN."""
    scores = torch.tensor([[score, -0.5, 2.0, 0.3] * 4])
    d_weights = random(1, 16)
    assert bad(by_autograd(formula, scores, d_weights)[1])
    found, gradient = weights_and_gradient(load(name), scores, d_weights)
    _, right = by_autograd(formula, scores.double() + 1e-7, d_weights)
    assert error(found, formula(scores)) < 1e-6
    assert error(gradient, right) < 1e-5


# ------------------------------------------------------------------------------------------------------ nothing


def test_rows_of_zero_scores(load: Load) -> None:
    """0 / 0 without an eps."""
    scores = torch.zeros(2, 16)
    assert bad(scores / torch.sqrt((scores**2).sum(-1, keepdim=True)))
    for name in ("l2", "rebased", "relu_l1"):
        found, gradient = weights_and_gradient(load(name), scores, torch.ones_like(scores))
        assert torch.equal(found, scores)
        assert not bad(gradient), name


def test_rows_without_a_positive_score(load: Load) -> None:
    scores = -random(2, 16).abs().float() - 0.1
    f = torch.relu(scores)
    assert bad(f / f.sum(-1, keepdim=True))
    found, gradient = weights_and_gradient(load("relu_l1"), scores, random(2, 16))
    assert torch.equal(found, torch.zeros_like(found))
    assert torch.equal(gradient, torch.zeros_like(gradient))


def test_norms_of_rows_of_zeros(load: Load) -> None:
    """The slope of a square root at zero is infinite, that of a sum of squares zero: NaN in autograd."""
    spec = "name: norm\nweights: s / (sqrt(sum(s ** 2)) + 1e-3)\n"
    scores, d_weights = torch.zeros(2, 16).double(), random(2, 16)
    naive = lambda s: s / ((s**2).sum(-1, keepdim=True).sqrt() + 1e-3)  # noqa: E731
    assert bad(by_autograd(naive, scores, d_weights)[1])
    found, gradient = weights_and_gradient(load(spec), scores, d_weights)
    assert torch.equal(found, scores)
    assert error(gradient, 1e3 * d_weights) < 1e-12


def test_norms_with_a_power_of_their_own_of_rows_of_zeros(load: Load) -> None:
    """As before, where nobody knows whether the power is below one."""
    spec = "name: norm\ninputs:\n  p: {shape: []}\nweights: relu(s) ** p / (sum(relu(s) ** p) ** (1 / p) + 1e-3)\n"
    scores = torch.stack([torch.zeros(16), random(16).float()]).double()
    power = torch.tensor(1.5, dtype=torch.float64)
    found, gradient = weights_and_gradient(load(spec), scores, random(2, 16), p=power)
    assert torch.equal(found[0], scores[0])
    assert not bad(gradient)


def test_ties_are_not_blown_up(load: Load) -> None:
    """All keys alike: n * a - 1 is rounding noise, and a ratio of noise to noise is any number at all."""
    qk = torch.full((6, 31), 0.3)
    a = F.softplus(math.log(31.0) * math.log(31.0) * qk)
    noise = torch.relu(31 * (a / a.sum(-1, keepdim=True)) - 1 + 1e-7)
    assert float((noise / noise.sum(-1, keepdim=True)).max()) > 0.03
    found, gradient = weights_and_gradient(load("lssar"), qk, random(6, 31))
    assert error(found[:3], torch.full((3, 31), 1 / 31)) < 1e-4
    assert float(found[3:].abs().max()) < 1e-6
    assert not bad(gradient)


def test_weights_are_rounded_apart_from_beta(load: Load) -> None:
    """In bf16 a beta of 0.0015 vanishes beside a weight of one. Values that cancel the weights show what is left."""
    candidates = torch.arange(-3, -0.5, 2.0**-7).to(BF16).double()
    exact = torch.exp(candidates)
    low = candidates[((exact.to(BF16).double() - exact) / exact).abs().argmin()]  # exp(low) is nearly a bf16 number
    scores = torch.cat([torch.zeros(16).double(), low.expand(16)])
    value = torch.cat([torch.ones(16).double(), -(1 / exact[candidates == low]).to(BF16).double().expand(16)])
    alpha, beta = torch.exp(scores).sum(), 0.0015
    p = alpha * scores.softmax(-1)
    right = ((p + beta) * value).sum()
    naive = ((p + beta).to(BF16).double() * value).sum()
    assert abs(naive - right) > 0.3 * abs(beta * value.sum())
    query, key = scores.to(BF16)[None, None, None], torch.eye(32, dtype=BF16)[None, None]
    values = value.to(BF16)[None, None, :, None].expand(1, 1, 32, 16).contiguous()
    given = {"alpha": alpha.float().view(1, 1, 1), "beta": torch.full((1, 1, 1), beta)}
    with kernels(load("affine_scaled")) as op:
        found = op(query, key, values, scale=1.0, **given)[0, 0, 0, 0].double()
    assert abs(found - right) < 0.1 * abs(beta * value.sum())
