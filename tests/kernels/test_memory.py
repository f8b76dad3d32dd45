"""Generated kernels under the sanitizer: no access outside of a tensor, no race, no element that nobody wrote.

Lengths are no multiple of a block and head dims are no power of two, so that every mask has something to hide.
"""

import pytest
import torch

from attngen import catalog
from attngen.pipeline import Compilation, compile_spec
from attngen.runtime.interpreter import interpreting
from attngen.runtime.loader import load_module
from attngen.runtime.sanitizer import Sanitizer

# The interpreter computes with numpy, which warns of what kernels do on purpose in the lanes that they mask.
pytestmark = pytest.mark.filterwarnings("ignore:.*encountered in:RuntimeWarning")

KEYS_AND_PAIRS = """
name: keys_and_pairs
inputs:
  bias: {shape: [batch, kv_head, query, key]}
  gate: {shape: [head, key]}
weights: sigmoid(gate) * exp(s + bias) / sum(exp(s + bias))
"""
STAGED = """
name: staged
let:
  p: softplus(s) / sum(softplus(s))
  r: relu(n * p - 0.5)
weights: r / (1 + sum(r))
"""
SPECS = {name: catalog.read(name).text for name in ("sigmoid", "softmax", "affine_scaled", "sink")}
SPECS |= {"keys_and_pairs": KEYS_AND_PAIRS, "staged": STAGED}
MASKS = ({}, {"is_causal": True, "alignment": "lower_right"}, {"window": (3, 5)})  # the last has rows without keys
SIZES = {"batch": 2, "head": 2, "kv_head": 1, "query": 37, "key": 19}


def run(compilation: Compilation, mask: dict[str, object]) -> list[torch.Tensor]:
    """The output and all gradients, of kernels with blocks of 16."""
    module, random = load_module(compilation), torch.Generator().manual_seed(0)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=random).requires_grad_()

    query, key, value = normal(2, 2, 37, 24), normal(2, 1, 19, 24), normal(2, 1, 19, 40)
    inputs = {i.name: normal(*(SIZES[axis] for axis in i.axes)) for i in compilation.normalizer.inputs}
    tile = module.Tile(16, 16, num_warps=4, num_stages=1)
    with pytest.MonkeyPatch.context() as patch, interpreting(module), Sanitizer():
        for kernel in ("forward", "backward_query", "backward_key", "backward_pair"):
            patch.setitem(module.OVERRIDES, kernel, tile)
        out = getattr(module, f"{compilation.normalizer.name}_attention")(query, key, value, **inputs, **mask)
        leaves = [query, key, value, *inputs.values()]
        return [out.detach(), *torch.autograd.grad(out, leaves, torch.ones_like(out))]


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ATTNGEN_CACHE_DIR", str(tmp_path_factory.getbasetemp() / "cache"))


@pytest.mark.parametrize("mask", MASKS, ids=str)
@pytest.mark.parametrize("name", SPECS)
def test_generated_kernels_keep_to_their_tensors(name: str, mask: dict[str, object]) -> None:
    for found in run(compile_spec(SPECS[name], f"{name}.yaml"), mask):
        assert found.isfinite().all()
