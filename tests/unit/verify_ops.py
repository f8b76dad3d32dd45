"""Ops for the tests of verification: softmax and sigmoid attention as an op computes them, and ways to break them.

Like a kernel they compute in float32 from the operands' dtype and round the weights before the product with the values.
"""

from collections.abc import Callable
from types import ModuleType
from typing import Any, NamedTuple

import torch
from torch import Tensor

from attngen.ir import Normalizer
from attngen.spec.lower import read_spec

SOFTMAX = (
    "name: softmax\nweights: exp(s) / sum(exp(s))\nclaims: {rows_sum_to: 1, shift_invariant: true, nonnegative: true}"
)
SIGMOID = "name: sigmoid\ninputs:\n  bias: {shape: [head], default: -log(n_k)}\nweights: sigmoid(s + bias)"


def normalizer(text: str) -> Normalizer:
    return read_spec(text, "spec.yaml")


def seen(n_q: int, n_k: int, is_causal: bool, window: Any, alignment: str) -> Tensor:
    shift = n_k - n_q if alignment == "lower_right" else 0
    distance = torch.arange(n_k) - (torch.arange(n_q)[:, None] + shift)
    left, right = (-1, -1) if window is None else (window, window) if isinstance(window, int) else window
    mask = torch.ones(n_q, n_k, dtype=torch.bool)
    mask &= (distance >= -left) | torch.tensor(left < 0)
    mask &= (distance <= right) | torch.tensor(right < 0)
    return mask & ((distance <= 0) | torch.tensor(not is_causal))


def scores(query: Tensor, key: Tensor, scale: float | None) -> Tensor:
    key = key.float().repeat_interleave(query.shape[1] // key.shape[1], dim=1)
    return query.float() @ key.mT * (query.shape[-1] ** -0.5 if scale is None else scale)


def weighted(weights: Tensor, value: Tensor, dtype: torch.dtype) -> Tensor:
    value = value.repeat_interleave(weights.shape[1] // value.shape[1], dim=1)
    return (weights.to(dtype).float() @ value.float()).to(dtype)


def softmax_weights(s: Tensor, mask: Tensor) -> Tensor:
    s = s.masked_fill(~mask, -torch.inf)
    top = s.amax(-1, keepdim=True).detach()
    e = torch.exp(s - top.masked_fill(top == -torch.inf, 0.0))
    total = e.sum(-1, keepdim=True)
    return e / torch.where(total == 0, 1.0, total)


class SoftmaxOp:
    """Softmax attention whose parts can be exchanged for broken ones."""

    def __init__(
        self,
        mask: Callable[..., Tensor] = seen,
        weights: Callable[[Tensor, Tensor], Tensor] = softmax_weights,
        finish: Callable[[Tensor], Tensor] = lambda out: out,
        start: Callable[[Tensor], Tensor] = lambda query: query,
    ) -> None:
        self.mask, self.weights, self.finish, self.start = mask, weights, finish, start

    def __call__(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        *,
        is_causal: bool = False,
        scale: float | None = None,
        window: Any = None,
        alignment: str = "upper_left",
    ) -> Tensor:
        mask = self.mask(query.shape[2], key.shape[2], is_causal, window, alignment)
        weights = self.weights(scores(self.start(query), key, scale), mask)
        return self.finish(weighted(weights, value, query.dtype))


def sigmoid(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    bias: Tensor | float | None = None,
    is_causal: bool = False,
    scale: float | None = None,
    window: Any = None,
    alignment: str = "upper_left",
) -> Tensor:
    n_q, n_k = query.shape[2], key.shape[2]
    bias = torch.as_tensor(-torch.tensor(float(n_k)).log() if bias is None else bias)
    bias = bias.float().reshape(-1, 1, 1)
    weights = torch.sigmoid(scores(query, key, scale) + bias)
    return weighted(weights * seen(n_q, n_k, is_causal, window, alignment), value, query.dtype)


class Tile(NamedTuple):
    block_m: int
    block_n: int
    num_warps: int
    num_stages: int


def module(op: Callable[..., Tensor], name: str = "softmax") -> ModuleType:
    """An op in the form of a generated module."""
    made = ModuleType("made_for_a_test")
    vars(made).update({f"{name}_attention": op, "OVERRIDES": {}, "Tile": Tile})
    return made
