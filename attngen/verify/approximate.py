"""Logistic functions and tanh as `tanh.approx` may give them: torch functions that err by all that is allowed.

PTX bounds the instruction's relative error by 2^-11 and leaves its sign open. So the sign is a choice: away from zero,
towards zero, or drawn for each element. sigmoid(x) is 0.5 tanh(x / 2) + 0.5, and derivatives are those that follow from
the erring values, as kernels compute them. Nothing is known here of how kernels are spelled.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from attngen import ir

LARGEST_ERROR = 2.0**-11
PATTERNS = 8  # of signs: the two that are the same everywhere, and drawn ones
NAMES = frozenset({"tanh", "sigmoid", "silu", "softplus"})  # what has such a value, or a derivative that has one


def names_any(normalizer: ir.Normalizer) -> bool:
    """Whether the formulas name a function that this is about."""
    formulas = (normalizer.score, normalizer.weights, normalizer.output)
    nodes = (node for formula in formulas for node in ir.walk(formula))
    return any(isinstance(node, ir.Apply) and node.op in NAMES for node in nodes)


def operations(pattern: int) -> Mapping[str, Callable[[Tensor], Tensor]]:
    """The functions by their names, with errors of the signs of a pattern."""
    generator = torch.Generator().manual_seed(pattern)

    def signs(x: Tensor) -> Tensor:
        if pattern < 2:
            return torch.full(x.shape, 1.0 - 2.0 * pattern, dtype=torch.float64, device=x.device)
        return (torch.randint(2, x.shape, generator=generator, dtype=torch.float64) * 2 - 1).to(x.device)

    def tanh(x: Tensor) -> Tensor:
        erring: Tensor = _Tanh.apply(x, LARGEST_ERROR * signs(x))  # type: ignore[no-untyped-call]
        return erring

    def sigmoid(x: Tensor) -> Tensor:
        return 0.5 * tanh(0.5 * x) + 0.5

    def softplus(x: Tensor) -> Tensor:
        value, slope = torch.logaddexp(x.detach(), torch.zeros_like(x)), sigmoid(x.detach())
        sloping: Tensor = _WithSlope.apply(x, value, slope)  # type: ignore[no-untyped-call]
        return sloping

    return {"tanh": tanh, "sigmoid": sigmoid, "silu": lambda x: x * sigmoid(x), "softplus": softplus}


class _Tanh(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, error: Tensor) -> Tensor:
        y = (torch.tanh(x) * (1 + error)).clamp(-1.0, 1.0)
        ctx.save_for_backward(y)
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (y,) = ctx.saved_tensors
        return grad * (1 - y * y), None


class _WithSlope(torch.autograd.Function):
    """A value with a derivative that is given."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, value: Tensor, slope: Tensor) -> Tensor:
        ctx.save_for_backward(slope)
        return value

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        (slope,) = ctx.saved_tensors
        return grad * slope, None, None
