"""The oracle's roots and outputs against closed forms written by hand, and against finite differences."""

import pytest
import torch
from torch import Tensor

from attngen.ir import Normalizer
from attngen.spec.lower import read_spec
from attngen.verify.reference import Call, Operands, attention, weights
from attngen.verify.roots import root

F64 = torch.float64
SPARSEMAX = """\
name: sparsemax
let:
  tau: {root: "sum(relu(s - tau)) - 1", between: [amax(s) - 1, amax(s)]}
weights: relu(s - tau)
"""
ENTMAX15 = """\
name: entmax15
let:
  tau: {root: "1 - sum(relu(s / 2 - tau) ** 2)", between: [amax(s / 2), amax(s / 2) - 1]}
weights: relu(s / 2 - tau) ** 2
"""
ENTMAX = """\
name: entmax
inputs: {alpha: {shape: [head]}}
let:
  x: (alpha - 1) * s
  tau: {root: "sum(relu(x - tau) ** (1 / (alpha - 1))) - 1", between: [amax(x) - 1, amax(x)]}
weights: relu(x - tau) ** (1 / (alpha - 1))
"""
SOFTMAX = """\
name: softmax
let:
  tau: {root: "sum(exp(s - tau)) - 1", between: [amax(s) - 1, amax(s) + log(n)]}
weights: exp(s - tau)
"""
TWICE = """\
name: twice
let:
  low: {root: "sum(relu(s - low)) - 1", between: [amax(s) - 1, amax(s)]}
  tau: {root: "mean(softplus(tau - s - low)) - 2 - low", between: [low - 30, low + 30]}
weights: sigmoid(s - tau)
"""
L2 = """\
name: l2
inputs: {gain: {shape: [head, query]}}
weights: exp(s) / sum(exp(s))
output: gain * o / sqrt(csum(o ** 2) / csum(1))
"""
CENTRED = """\
name: centred
weights: exp(s)
output: (o - csum(o) / csum(1)) / sqrt(csum((o - csum(o) / csum(1)) ** 2))
"""
SPECS = [SPARSEMAX, ENTMAX15, ENTMAX, SOFTMAX, TWICE, L2, CENTRED]


def tensors(dtype: torch.dtype = F64, requires_grad: bool = False) -> tuple[Tensor, ...]:
    """query, key, value, and one more for an input."""
    generator = torch.Generator().manual_seed(4)
    shapes = ((2, 4, 5, 8), (2, 2, 6, 8), (2, 2, 6, 3), (4, 1))
    drawn = [torch.randn(*shape, generator=generator, dtype=F64) for shape in shapes]
    drawn[3] = 1.2 + drawn[3].sigmoid()
    return tuple(x.to(dtype).requires_grad_(requires_grad) for x in drawn)


def run(normalizer: Normalizer, drawn: tuple[Tensor, ...], call: Call, dtype: torch.dtype = F64) -> Tensor:
    query, key, value, extra = drawn
    given = {source.name: extra if len(source.axes) == 2 else extra[:, 0] for source in normalizer.inputs}
    return attention(normalizer, Operands(query, key, value, given), call, dtype)


def weights_of(text: str, drawn: tuple[Tensor, ...], dtype: torch.dtype = F64) -> Tensor:
    return weights(read_spec(text, "x"), Operands(*drawn[:3]), Call(scale=1.0), dtype)


def scores(drawn: tuple[Tensor, ...]) -> Tensor:
    return drawn[0] @ drawn[1].repeat_interleave(2, 1).mT


def sparsemax(z: Tensor) -> Tensor:
    """By sorting, as Martins and Astudillo (2016) have it."""
    ordered = z.sort(-1, descending=True).values
    sums, ranks = ordered.cumsum(-1) - 1, torch.arange(1, z.shape[-1] + 1)
    support = (ordered * ranks > sums).sum(-1, keepdim=True)
    return (z - sums.gather(-1, support - 1) / support).clamp(min=0)


def entmax15(z: Tensor) -> Tensor:
    """By sorting, as Peters, Niculae and Martins (2019) have it."""
    ordered, ranks = (z / 2).sort(-1, descending=True).values, torch.arange(1, z.shape[-1] + 1)
    mean, squares = ordered.cumsum(-1) / ranks, (ordered**2).cumsum(-1) / ranks
    thresholds = mean - ((1 - ranks * (squares - mean**2)) / ranks).clamp(min=1e-300).sqrt()
    support = (thresholds <= ordered).sum(-1, keepdim=True)
    return (z / 2 - thresholds.gather(-1, support - 1)).clamp(min=0) ** 2


@pytest.mark.parametrize(
    ("text", "closed"),
    [(SPARSEMAX, sparsemax), (ENTMAX15, entmax15), (SOFTMAX, lambda z: z.softmax(-1))],
    ids=["sparsemax", "entmax15", "softmax"],
)
def test_closed_forms(text: str, closed: "object") -> None:
    drawn = tensors(requires_grad=True)
    ours, wanted = weights_of(text, drawn), closed(scores(drawn))  # type: ignore[operator]
    torch.testing.assert_close(ours, wanted, rtol=0, atol=1e-14)
    upstream = torch.randn(ours.shape, generator=torch.Generator().manual_seed(5), dtype=F64)
    ours_grads, wanted_grads = (torch.autograd.grad(w, drawn[:2], upstream) for w in (ours, wanted))
    torch.testing.assert_close(ours_grads, wanted_grads, rtol=0, atol=1e-12)


@pytest.mark.parametrize("text", SPECS, ids=lambda text: text.split()[1])
def test_gradients_are_those_of_finite_differences(text: str) -> None:
    normalizer, drawn = read_spec(text, "x"), tensors(requires_grad=True)
    call = Call(is_causal=True, alignment="lower_right")
    used = drawn if normalizer.inputs else drawn[:3]

    def attend(*given: Tensor) -> Tensor:
        return run(normalizer, (*given, *drawn[len(given) :]), call)

    assert torch.autograd.gradcheck(attend, used, fast_mode=True)


@pytest.mark.parametrize("text", SPECS, ids=lambda text: text.split()[1])
def test_rows_without_keys_are_zero(text: str) -> None:
    drawn = tensors(requires_grad=True)
    query, key, value, extra = drawn
    out = run(read_spec(text, "x"), (query, key[:, :, :2], value[:, :, :2], extra), Call(window=(1, 0)))
    assert not bool(out[:, :, 3:].any())
    assert bool(out[:, :, :3].any(-1).all())
    found = torch.autograd.grad(out.sum(), drawn, allow_unused=True)
    assert all(bool(x.isfinite().all()) for x in found if x is not None)
    assert not bool(found[0][:, :, 3:].any())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("text", SPECS, ids=lambda text: text.split()[1])
def test_low_precision_errs_as_its_numbers_do(text: str, dtype: torch.dtype) -> None:
    normalizer, rounded = read_spec(text, "x"), tensors(dtype)
    exact = run(normalizer, tuple(x.double() for x in rounded), Call())
    found = run(normalizer, rounded, Call(), dtype)
    assert found.dtype == dtype
    error = float((found.double() - exact).abs().max())
    assert 0 < error < 20 * torch.finfo(dtype).eps * float(exact.abs().max())


def test_without_a_zero_it_is_the_nearer_bound() -> None:
    low, high = torch.tensor([[1.0], [2.0]], dtype=F64, requires_grad=True), torch.tensor(5.0, dtype=F64)
    found = root(lambda t: t**2, low, high)
    (grad,) = torch.autograd.grad(found.sum(), low)
    assert found.tolist() == [[1.0], [2.0]]
    assert grad.tolist() == [[1.0], [1.0]]
    assert root(lambda t: 1 / t, low, high).tolist() == [[5.0], [5.0]]


def test_a_zero_at_a_bound_and_one_where_the_residual_is_flat() -> None:
    x = torch.tensor([[1.0], [2.0]], dtype=F64, requires_grad=True)
    assert root(lambda t: t - x, x.detach(), x.detach() + 3).tolist() == x.tolist()
    assert root(lambda t: t - x, x.detach() - 3, x.detach()).tolist() == x.tolist()
    stepped = root(lambda t: (t - x).sign(), x.detach() - 1.7, x.detach() + 3)
    torch.testing.assert_close(stepped, x)
    assert not stepped.requires_grad or not bool(torch.autograd.grad(stepped.sum(), x)[0].any())


def test_an_unknown_residual_is_not_hidden() -> None:
    bounds = torch.tensor([[-1.0], [1.0]], dtype=F64)
    assert root(torch.log, bounds, bounds + 1).isnan().tolist() == [[True], [False]]


def test_outputs_written_by_hand() -> None:
    drawn = tensors()
    plain = scores(drawn).softmax(-1) @ drawn[2].repeat_interleave(2, 1)
    wanted = drawn[3][..., None] * torch.nn.functional.normalize(plain, dim=-1) * 3**0.5
    torch.testing.assert_close(run(read_spec(L2, "x"), drawn, Call(scale=1.0)), wanted)
    raw = scores(drawn).exp() @ drawn[2].repeat_interleave(2, 1)
    wanted = torch.nn.functional.normalize(raw - raw.mean(-1, keepdim=True), dim=-1)
    torch.testing.assert_close(run(read_spec(CENTRED, "x"), drawn, Call(scale=1.0)), wanted)
