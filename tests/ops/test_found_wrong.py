"""Formulas that once made a wrong module: what they compile to computes what torch computes, far out as well."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import attngen
from attngen.diagnostics import SpecError


@pytest.fixture
def op(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Callable[..., Tensor]]:
    """The op of a formula of the weights."""
    monkeypatch.setenv("ATTNGEN_CACHE_DIR", str(tmp_path / "cache"))

    def load(weights: str) -> Callable[..., Tensor]:
        spec = tmp_path / "found.yaml"
        spec.write_text(f"name: found\nweights: {weights}\n")
        return attngen.load(spec)

    return load


def tensors(dtype: torch.dtype, largest: float = 2.0) -> list[Tensor]:
    """Query, key and value; the largest score has this size."""
    generator = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(1, 2, 6, 4, generator=generator, dtype=torch.float64) for _ in range(3))
    query = query * (largest / (query @ key.mT / 2).abs().max())
    return [x.to(dtype).requires_grad_() for x in (query, key, value)]


def written_out(weights: Callable[[Tensor], Tensor], dtype: torch.dtype, largest: float) -> list[Tensor]:
    """Output and gradients in float64, for the tensors of `dtype`."""
    inputs = [x.detach().double().requires_grad_() for x in tensors(dtype, largest)]
    query, key, value = inputs
    return with_gradients(weights(query @ key.mT / 2) @ value, inputs)


def with_gradients(out: Tensor, inputs: list[Tensor]) -> list[Tensor]:
    return [out.detach(), *torch.autograd.grad(out.sin().sum(), inputs)]


@pytest.mark.parametrize("weights", ["0", "0 * s", "s - s"])
def test_weights_of_zero(weights: str, op: Callable[[str], Callable[..., Tensor]]) -> None:
    inputs = tensors(torch.float32)
    for found in with_gradients(op(weights)(*inputs), inputs):
        assert torch.equal(found, torch.zeros_like(found))


def test_a_choice_of_numbers_in_float64(op: Callable[[str], Callable[..., Tensor]]) -> None:
    inputs = tensors(torch.float64)
    right = written_out(
        lambda s: torch.where(s >= s.amax(-1, keepdim=True), 1.0, 0.1).double() + 0 * s, torch.float64, 2.0
    )
    for found, wanted in zip(with_gradients(op("where(s >= amax(s), 1, 0.1)")(*inputs), inputs), right, strict=True):
        assert torch.allclose(found, wanted, rtol=1e-12, atol=1e-12)


DECIDED = ["sum(p) < 1e-9", "not sum(p) > 1e-9", "sum(p) > 2 or n_k < 0", "sum(p) > 0.5 and n_k < 0"]


@pytest.mark.parametrize("condition", DECIDED)
def test_conditions_on_numbers(condition: str, op: Callable[[str], Callable[..., Tensor]]) -> None:
    """A softmax's weights sum to one, as the analysis knows; torch takes no conditions that aren't tensors."""
    inputs = tensors(torch.float32)
    condition = condition.replace("sum(p)", "sum(exp(s) / sum(exp(s)))")
    found = with_gradients(op(f"exp(s) / sum(exp(s)) / where({condition}, 1e-9, 1)")(*inputs), inputs)
    for one, right in zip(found, written_out(lambda s: s.softmax(-1), torch.float32, 2.0), strict=True):
        torch.testing.assert_close(one.double(), right, rtol=1e-5, atol=1e-6)


FAR_OUT = {
    "exp(s) / amax(exp(s))": lambda s: s.exp() / s.exp().amax(-1, keepdim=True),
    "exp(-s) / (amax(exp(-s)) + sum(exp(-s)))": lambda s: (
        (-s).exp() / ((-s).exp().amax(-1, keepdim=True) + (-s).exp().sum(-1, keepdim=True))
    ),
    "amin(exp(s)) / exp(s)": lambda s: s.exp().amin(-1, keepdim=True) / s.exp(),
    "log(1 - sigmoid(s)) / n": lambda s: torch.nn.functional.logsigmoid(-s) / 6,
    "log(sigmoid(s)) / n": lambda s: torch.nn.functional.logsigmoid(s) / 6,
    "log(sigmoid(s)) / sum(log(sigmoid(s)))": lambda s: (
        torch.nn.functional.logsigmoid(s) / torch.nn.functional.logsigmoid(s).sum(-1, keepdim=True)
    ),
}


@pytest.mark.parametrize("weights", FAR_OUT)
@pytest.mark.parametrize("largest", [2.0, 150.0])
def test_scores_far_out(weights: str, largest: float, op: Callable[[str], Callable[..., Tensor]]) -> None:
    inputs = tensors(torch.float32, largest)
    right = written_out(FAR_OUT[weights], torch.float32, largest)
    for found, wanted in zip(with_gradients(op(weights)(*inputs), inputs), right, strict=True):
        assert torch.allclose(found.double(), wanted, rtol=1e-4, atol=1e-4 * float(wanted.abs().max()))


def test_a_statistic_beside_its_detached_twin(op: Callable[[str], Callable[..., Tensor]]) -> None:
    """In value exp(s) / sum(exp(s)) * detach(sum(exp(s))) needs no sum, but its gradient does."""
    inputs = tensors(torch.float64)

    def straight_through(s: Tensor) -> Tensor:
        total = s.exp().sum(-1, keepdim=True)
        return s.exp() / total * total.detach()

    right = written_out(straight_through, torch.float64, 2.0)
    found = with_gradients(op("exp(s) / sum(exp(s)) * detach(sum(exp(s)))")(*inputs), inputs)
    for mine, wanted in zip(found, right, strict=True):
        assert torch.allclose(mine, wanted, rtol=1e-10, atol=1e-10)


def test_bounds_that_meet(op: Callable[[str], Callable[..., Tensor]]) -> None:
    """A row that sees one key: its extrema are the score itself, whatever its sign."""
    inputs = tensors(torch.float64)

    def one_key(s: Tensor) -> Tensor:
        return torch.eye(6, dtype=s.dtype) * s.clamp(s / 2, s / 2)

    right = written_out(one_key, torch.float64, 2.0)
    found = with_gradients(op("clip(s, amin(s) / 2, amax(s) / 2)")(*inputs, window=0), inputs)
    for mine, wanted in zip(found, right, strict=True):
        assert torch.allclose(mine, wanted, rtol=1e-10, atol=1e-10)


def test_bounds_that_cross(op: Callable[[str], Callable[..., Tensor]]) -> None:
    inputs = tensors(torch.float64)
    right = written_out(
        lambda s: s.clamp(1 + s.amax(-1, keepdim=True), 1 + s.amin(-1, keepdim=True)), torch.float64, 2.0
    )
    found = with_gradients(op("clip(s, 1 + amax(s), 1 + amin(s))")(*inputs), inputs)
    for mine, wanted in zip(found, right, strict=True):
        assert torch.allclose(mine, wanted, rtol=1e-10, atol=1e-10)


def test_a_gradient_that_is_nowhere_finite(op: Callable[[str], Callable[..., Tensor]]) -> None:
    with pytest.raises(SpecError, match="no finite value"):
        op("0 ** relu(s)")


CANCELLING = {
    "(s - amin(s) + 0.001) / sum(s - amin(s) + 0.001)": lambda s: (
        (s - s.amin(-1, keepdim=True) + 0.001) / (s - s.amin(-1, keepdim=True) + 0.001).sum(-1, keepdim=True)
    ),
    "s - mean(s)": lambda s: s - s.mean(-1, keepdim=True),
}


@pytest.mark.parametrize("weights", CANCELLING)
def test_differences_with_a_statistic_are_taken_before_they_are_summed(
    weights: str, op: Callable[[str], Callable[..., Tensor]]
) -> None:
    inputs = tensors(torch.float32, 150.0)
    right = written_out(CANCELLING[weights], torch.float32, 150.0)
    for found, wanted in zip(with_gradients(op(weights)(*inputs), inputs), right, strict=True):
        assert torch.allclose(found.double(), wanted, rtol=1e-4, atol=1e-4 * float(wanted.abs().max()))


def test_no_pivot_follows_a_branch_of_zero(op: Callable[[str], Callable[..., Tensor]]) -> None:
    """The largest scores of a row may be those of keys that a condition leaves out."""
    inputs = tensors(torch.float32, 150.0)

    def first_two(s: Tensor) -> Tensor:
        e = torch.where(torch.arange(6) < 2, s.exp(), 0.0)
        return e / e.sum(-1, keepdim=True)

    right = written_out(first_two, torch.float32, 150.0)
    found = with_gradients(op("where(j < 2, exp(s), 0) / sum(where(j < 2, exp(s), 0))")(*inputs), inputs)
    for mine, wanted in zip(found, right, strict=True):
        assert torch.allclose(mine.double(), wanted, rtol=1e-4, atol=1e-4 * float(wanted.abs().max()))


@pytest.mark.parametrize(
    "text",
    [
        "weights: exp(s)\noutput: log1p(o ** 2) * sign(o)",
        "weights: exp(s)\noutput: max(o, 0.1)",
        'let:\n  t: {root: "mean(s) - t", between: [-100, 100]}\nweights: relu(s - t)',
    ],
)
def test_what_is_built_can_be_called(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Functions that only the step behind the sum calls, and a residual whose slope is a number, are there as well."""
    monkeypatch.setenv("ATTNGEN_CACHE_DIR", str(tmp_path / "cache"))
    spec = tmp_path / "found.yaml"
    spec.write_text(f"name: found\n{text}\n")
    leaves = tensors(torch.float64)
    gradients = torch.autograd.grad(attngen.load(spec)(*leaves).sum(), leaves)
    assert all(x.isfinite().all() for x in gradients)


def test_a_sum_that_only_another_sum_is_made_of(op: Callable[[str], Callable[..., Tensor]]) -> None:
    """The first sum's adjoint is a sum over the keys, which needs delta; the gradient itself doesn't."""
    total = "sum(sigmoid(s))"
    body = f"softplus(where(s > 0, {total}, 0))"

    def weights(s: Tensor) -> Tensor:
        x = F.softplus(torch.where(s > 0, s.sigmoid().sum(-1, keepdim=True), 0.0))
        return x / (0.1 + x.sum(-1, keepdim=True))

    inputs = tensors(torch.float64)
    right = written_out(weights, torch.float64, 2.0)
    for found, wanted in zip(with_gradients(op(f"{body} / (0.1 + sum({body}))")(*inputs), inputs), right, strict=True):
        assert torch.allclose(found, wanted, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("text", "weights"),
    [
        ("where(s > mean(s), s, 0)", lambda s: torch.where(s > s.mean(), s, 0.0)),
        ("s * amin(s ** 2)", lambda s: s * (s**2).amin()),
    ],
)
def test_a_causal_op_finds_the_same_scores_twice(
    text: str, weights: Callable[[Tensor], Tensor], op: Callable[[str], Callable[..., Tensor]]
) -> None:
    """A first row's only key is its mean and its extremum, forward and backward; the last keys no row sees."""
    generator = torch.Generator().manual_seed(0)
    inputs = [torch.randn(4, 8, n, 8, generator=generator, dtype=torch.float64).requires_grad_() for n in (9, 13, 13)]
    found = with_gradients(op(text)(*inputs, is_causal=True), inputs)
    query, key, value = inputs
    scores = query @ key.mT / 8**0.5
    rows = [(b, h, i) for b in range(4) for h in range(8) for i in range(9)]
    seen = [F.pad(weights(scores[b, h, i, : i + 1]), (0, 12 - i)) for b, h, i in rows]
    wanted = with_gradients(torch.stack(seen).reshape(scores.shape) @ value, inputs)
    for one, other in zip(found, wanted, strict=True):
        assert torch.allclose(one, other, rtol=1e-9, atol=1e-9)
