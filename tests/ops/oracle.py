"""Attention with all weights written out, in plain torch: what the tests of ops compare with.

A formula is a function of one `Rows`. In float64 this is the oracle, gradients by autograd; in a low precision it says
how large an error that precision alone brings. It shares nothing with attngen.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

Tensors = dict[str, Tensor]
AXES = ("batch", "head", "kv_head", "query", "key")


@dataclass(frozen=True)
class Mask:
    """The arguments of a call that say which keys a row sees."""

    is_causal: bool = False
    window: Any = None
    alignment: str = "upper_left"

    def arguments(self) -> dict[str, Any]:
        return {"is_causal": self.is_causal, "window": self.window, "alignment": self.alignment}


@dataclass
class Rows:
    """The rows that see a key: products and scores (B, Hq, rows, Nk), what they see, positions i and j, counts, inputs
    by name, and the sizes of the call."""

    qk: Tensor
    s: Tensor
    seen: Tensor
    i: Tensor
    j: Tensor
    n: Tensor
    scale: float
    d: int
    n_q: int
    n_k: int
    given: Tensors = field(default_factory=dict)

    def __getattr__(self, name: str) -> Tensor:
        return self.given[name]

    def sum(self, x: Tensor) -> Tensor:
        return torch.where(self.seen, x, 0.0).sum(-1, keepdim=True)

    def mean(self, x: Tensor) -> Tensor:
        return self.sum(x) / self.n

    def amax(self, x: Tensor) -> Tensor:
        return torch.where(self.seen, x, -torch.inf).amax(-1, keepdim=True)

    def amin(self, x: Tensor) -> Tensor:
        return torch.where(self.seen, x, torch.inf).amin(-1, keepdim=True)

    def softmax(self, x: Tensor) -> Tensor:
        return torch.where(self.seen, x, -torch.inf).softmax(-1)


Weights = Callable[[Rows], Tensor]


def visible(mask: Mask, n_q: int, n_k: int) -> tuple[Tensor, Tensor]:
    """Which keys each row sees, (Nq, Nk), and the rows' positions, key by key as the documentation has it."""
    offset = n_k - n_q if mask.alignment == "lower_right" else 0
    left, right = mask.window if isinstance(mask.window, tuple) else (mask.window, mask.window)
    seen = torch.ones(n_q, n_k, dtype=torch.bool)
    for row in range(n_q):
        for key in range(n_k):
            distance = key - (row + offset)
            hidden = (left not in (None, -1) and distance < -left) or (right not in (None, -1) and distance > right)
            seen[row, key] = not (hidden or (mask.is_causal and distance > 0))
    return seen, torch.arange(n_q) + offset


def attention(
    weights: Weights, tensors: Mapping[str, Tensor], axes: Mapping[str, tuple[str, ...]], mask: Mask, scale: float
) -> Tensor:
    """`tensors`: query, key, value and the inputs, all of one type, in which everything is computed."""
    query, key, value = tensors["query"], tensors["key"], tensors["value"]
    group = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(group, dim=1), value.repeat_interleave(group, dim=1)
    seen, positions = visible(mask, query.shape[2], key.shape[2])
    live = seen.any(-1)
    given = {name: _four_axes(tensors[name], axes[name], group, live) for name in axes}
    dtype = query.dtype
    qk = query[:, :, live] @ key.mT
    rows = Rows(
        qk=qk,
        s=qk * scale,
        seen=seen[live],
        i=positions[live, None].to(dtype),
        j=torch.arange(key.shape[2]).to(dtype),
        n=seen[live].sum(-1, keepdim=True).to(dtype),
        scale=scale,
        d=query.shape[3],
        n_q=query.shape[2],
        n_k=key.shape[2],
        given=given,
    )
    out = torch.where(rows.seen, weights(rows), 0.0).to(dtype) @ value
    return torch.zeros(*query.shape[:3], value.shape[3], dtype=dtype).index_copy(2, live.nonzero()[:, 0], out)


def _four_axes(tensor: Tensor, axes: tuple[str, ...], group: int, live: Tensor) -> Tensor:
    """An input of its full shape as (batch, head, rows that see a key, key), with 1 for the axes that it lacks."""
    if "kv_head" in axes:
        tensor = tensor.repeat_interleave(group, dim=axes.index("kv_head"))
    present = ("batch" in axes, "head" in axes or "kv_head" in axes, "query" in axes, "key" in axes)
    sizes = iter(tensor.shape)
    tensor = tensor.reshape([next(sizes) if here else 1 for here in present])
    return tensor[:, :, live] if "query" in axes else tensor


def results(
    compute: Callable[[Tensors], Tensor], tensors: Tensors, d_out: Tensor, fixed: tuple[str, ...] = ()
) -> Tensors:
    """Output and the gradients of all tensors but the fixed ones."""
    leaves = {name: tensor.detach().requires_grad_() for name, tensor in tensors.items() if name not in fixed}
    out = compute(tensors | leaves)
    gradients = torch.autograd.grad(out, list(leaves.values()), d_out.to(out.dtype))
    return {"out": out.detach()} | dict(zip(leaves, gradients, strict=True))
