"""Tiles on which all weights are zero are passed over: what lies in them is not even read."""

import math
from types import ModuleType

import pytest
import torch
from torch import Tensor

from attngen.runtime.interpreter import interpreting
from generated import entmax15, relu_squared, sparsemax

BLOCK = 16
FAR = 40.0  # the scores of the keys behind the first block lie so far below those of its own


def tensors() -> list[Tensor]:
    """Query, key, value: one head, whose rows see nothing of the second and third block of keys."""
    generator = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(1, 1, 3 * BLOCK, 16, generator=generator) for _ in range(3))
    query[..., 0], key[..., 0] = math.sqrt(16), 0.0
    key[:, :, BLOCK:, 0] = -FAR
    return [query, key, value]


@pytest.mark.parametrize("module", [sparsemax, entmax15, relu_squared], ids=lambda m: m.__name__.split(".")[-1])
def test_values_of_tiles_without_weight_are_not_read(module: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    for kernel in ("forward", "backward_query", "backward_key"):
        monkeypatch.setitem(module.OVERRIDES, kernel, module.Tile(BLOCK, BLOCK, 4, 1))
    query, key, value = tensors()
    value[:, :, BLOCK:] = torch.nan  # zero times NaN is NaN, in every product
    leaves = [x.requires_grad_() for x in (query, key, value)]
    op = getattr(module, f"{module.__name__.split('.')[-1]}_attention")
    with interpreting(module):
        out = op(*leaves)
        gradients = torch.autograd.grad(out, leaves, torch.ones_like(out))
    assert out.isfinite().all()
    assert all(x.isfinite().all() for x in gradients)
    assert (gradients[1][:, :, BLOCK:] == 0).all()
    assert (gradients[2][:, :, :BLOCK] != 0).any()
