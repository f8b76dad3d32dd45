"""Outputs that are normalized: the weighted sum over its own norm, forward and gradients, by plain torch."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck

from tests.normalizers.given_scores import bad, error, kernels, random
from tests.ops.subject import Load

N, D = 19, 16
SEEN = torch.ones(N, N, dtype=torch.bool).tril()
LOG_DECAY = torch.tensor([-2.0, -1.0], dtype=torch.float64)


def _transnormer(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    position = torch.arange(N, dtype=query.dtype)
    decay = torch.exp(-LOG_DECAY.exp()[:, None, None] * (position[:, None] - position).abs())
    out = (query @ key.mT * decay * SEEN) @ value
    return out / torch.sqrt(out.square().sum(-1, keepdim=True) + 1e-6)


def _exp_norm(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    scores = (query @ key.mT / math.sqrt(D)).masked_fill(~SEEN, -torch.inf)
    out = torch.exp(scores - scores.amax(-1, keepdim=True).detach()) @ value  # the factor cancels
    return out / out.norm(dim=-1, keepdim=True)


RIGHT: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {"transnormer": _transnormer, "exp_norm": _exp_norm}
GIVEN = {"transnormer": {"log_decay": LOG_DECAY}, "exp_norm": {}}
NAMES = tuple(RIGHT)


def tensors(spread: float = 1.0) -> list[Tensor]:
    leaves = [random(1, 2, N, D, seed=seed) for seed in range(3)]
    leaves[0] = spread * leaves[0]
    return leaves


def both(name: str, run: Callable[..., Tensor], given: list[Tensor]) -> list[tuple[Tensor, Tensor]]:
    """Output and gradients of the op and of the reference in float64."""
    mine = [x.requires_grad_() for x in given]
    exact = [x.detach().double().requires_grad_() for x in given]
    found, right = run(*mine, is_causal=True, **GIVEN[name]), RIGHT[name](*exact)
    d_out = random(*right.shape, seed=9)
    gradients = zip(
        torch.autograd.grad(found, mine, d_out.to(found.dtype)), torch.autograd.grad(right, exact, d_out), strict=True
    )
    return [(found.detach(), right.detach()), *gradients]


@pytest.mark.parametrize("name", NAMES)
def test_portable_in_float64(name: str, load: Load) -> None:
    for found, right in both(name, load(name), tensors()):
        assert error(found, right) < 1e-10


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 1e-5), (torch.bfloat16, 0.03)], ids=["fp32", "bf16"])
@pytest.mark.parametrize("name", NAMES)
def test_kernels(name: str, dtype: torch.dtype, bound: float, load: Load) -> None:
    with kernels(load(name)) as op:
        for found, right in both(name, op, [x.to(dtype) for x in tensors()]):
            assert error(found, right) < bound


@pytest.mark.parametrize("spread", [40.0, -40.0])
def test_exponentials_beyond_the_range(spread: float, load: Load) -> None:
    """The norm of the sum overflows long before their quotient means nothing."""
    given = [x.float() for x in tensors(spread)]
    scores = (given[0] @ given[1].mT / math.sqrt(D)).masked_fill(~SEEN, -torch.inf)
    naive = torch.exp(scores) @ given[2]
    assert bad(naive / naive.norm(dim=-1, keepdim=True))
    found, right = both("exp_norm", load("exp_norm"), given)[0]
    assert error(found, right) < 1e-4


@pytest.mark.parametrize("name", NAMES)
def test_rows_that_see_no_key(name: str, load: Load) -> None:
    """0 / 0 otherwise: the norm of nothing is zero."""
    leaves = [x.requires_grad_() for x in tensors()]
    out = load(name)(
        leaves[0], *(x[:, :, :4] for x in leaves[1:]), is_causal=True, alignment="lower_right", **GIVEN[name]
    )
    assert torch.equal(out[:, :, : N - 4], torch.zeros(1, 2, N - 4, D, dtype=torch.float64))
    assert not any(bad(x) for x in torch.autograd.grad(out.sum(), leaves))


@pytest.mark.parametrize("name", NAMES)
def test_gradcheck(name: str, load: Load) -> None:
    op, inputs = load(name), {key: value.requires_grad_() for key, value in GIVEN[name].items()}
    leaves = [random(1, 2, 4, 3, seed=seed).requires_grad_() for seed in range(3)]

    def function(query: Tensor, key: Tensor, value: Tensor, *rest: Tensor) -> Tensor:
        return op(query, key, value, **dict(zip(inputs, rest, strict=True)), is_causal=True)

    assert gradcheck(function, [*leaves, *inputs.values()])
