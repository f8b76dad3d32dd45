"""Ops on prescribed scores: keys and values are unit vectors, so that q . k is the score and the output the weights."""

import contextlib
import inspect
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from attngen.runtime.interpreter import interpreting

Op = Callable[..., Tensor]
FP16, BF16, FP32, FP64 = torch.float16, torch.bfloat16, torch.float32, torch.float64


def weights(op: Op, scores: Tensor, **call: Any) -> Tensor:
    """The weights (rows, keys) that an op gives to scores (rows, keys), in their type."""
    return weights_and_gradient(op, scores, torch.ones_like(scores), **call)[0]


def weights_and_gradient(op: Op, scores: Tensor, d_weights: Tensor, **call: Any) -> tuple[Tensor, Tensor]:
    """The weights, and the gradient of the scores for a gradient of the weights."""
    query = scores[None, None].clone().requires_grad_()
    unit = torch.eye(scores.shape[1], dtype=scores.dtype)[None, None]
    out = op(query, unit, unit, **{"scale": 1.0, **call})
    (gradient,) = torch.autograd.grad(out, query, d_weights[None, None].to(out.dtype))
    return out[0, 0].detach(), gradient[0, 0]


def by_autograd(formula: Op, scores: Tensor, d_weights: Tensor) -> tuple[Tensor, Tensor]:
    """The same of a formula in torch."""
    leaf = scores.clone().requires_grad_()
    out = formula(leaf)
    (gradient,) = torch.autograd.grad(out, leaf, d_weights.to(out.dtype))
    return out.detach(), gradient


@contextlib.contextmanager
def kernels(op: Op) -> Iterator[Op]:
    """The op by its Triton kernels, in the interpreter."""
    module = inspect.getmodule(op)
    assert module is not None
    with interpreting(module):
        yield op


def bad(x: Tensor) -> bool:
    """Whether anything overflowed or is no number."""
    return not bool(x.isfinite().all())


def error(found: Tensor, right: Tensor) -> float:
    """The largest error, relative to the largest number."""
    found, right = found.detach().double(), right.detach().double()
    return float((found - right).abs().max() / right.abs().max().clamp(min=1e-30))


def random(*shape: int, spread: float = 1.0, seed: int = 0) -> Tensor:
    return spread * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=FP64)
