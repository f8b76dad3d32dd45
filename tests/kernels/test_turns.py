"""The order of programs: under a mask the blocks of heads that fit into the cache together take turns."""

from types import ModuleType

import pytest
import torch
from torch import Tensor

from attngen.catalog import read
from attngen.pipeline import compile_spec
from attngen.runtime.interpreter import interpreting
from attngen.runtime.loader import load_module

HEADS, LENGTH, WIDTH = 3, 40, 16
BYTES_OF_HEAD = LENGTH * 2 * WIDTH * 4


@pytest.fixture(scope="module")
def module() -> ModuleType:
    spec = read("softmax")
    return load_module(compile_spec(spec.text, spec.path))


def results(module: ModuleType, group: int) -> list[Tensor]:
    torch.manual_seed(0)
    query = torch.randn(1, HEADS * group, LENGTH, WIDTH, requires_grad=True)
    key, value = (torch.randn(1, HEADS, LENGTH, WIDTH, requires_grad=True) for _ in range(2))
    tile = module.Tile(16, 16, num_warps=4, num_stages=1)
    with pytest.MonkeyPatch.context() as patch, interpreting(module):
        patch.setattr(module, "OVERRIDES", dict.fromkeys(("forward", "backward_query", "backward_key"), tile))
        out = module.softmax_attention(query, key, value, is_causal=True)
        return [out, *torch.autograd.grad(out.square().sum(), (query, key, value))]


@pytest.mark.parametrize("group", [1, 2])
@pytest.mark.parametrize("heads", [2, 8])
def test_the_order_changes_no_result(
    module: ModuleType, heads: int, group: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_l2_bytes", lambda device: 0)
    expected = results(module, group)
    monkeypatch.setattr(module, "_l2_bytes", lambda device: 2 * heads * BYTES_OF_HEAD)
    found = results(module, group)
    assert all(map(torch.equal, found, expected))


def test_as_many_heads_as_fit(module: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_l2_bytes", lambda device: 2 * 2 * BYTES_OF_HEAD)
    walked = torch.empty(2, HEADS, LENGTH, WIDTH)
    causal, full = (module.Call(1.0, 2 * LENGTH, right, 0) for right in (0, 2 * LENGTH))
    assert module._together(walked, walked, HEADS, causal) == 2
    assert module._together(walked, walked, 4 * HEADS, causal) == 8  # four heads of queries share keys
    assert module._together(walked, walked, HEADS, full) == 1  # all rows are alike
    few = walked[:, :, :1]  # of more heads than there are, kernels couldn't count the programs
    assert module._together(few, few, HEADS, causal) == 2 * HEADS
    assert module._together(few[:, :0], few[:, :0], HEADS, causal) == 2 * HEADS
