"""What a gradient that nobody wants leaves in the machine code: nothing. And the names that profilers show."""

from functools import partial

import pytest
import torch

import generated.affine_scaled as module
from attngen.audit.compile import Case, CompiledKernel, compile_launches
from attngen.audit.launch import launching_on_cpu
from attngen.audit.targets import TARGETS


def compiled(wanted: str) -> dict[str, CompiledKernel]:
    kernels = compile_launches(TARGETS["sm_90"], Case(64), partial(launch, wanted))
    return {kernel.name.removeprefix("affine_scaled_"): kernel for kernel in kernels}


def launch(wanted: str) -> None:
    query, key, value = (torch.zeros(1, 2, 1024, 64, dtype=torch.bfloat16, requires_grad=x in wanted) for x in "qkv")
    with launching_on_cpu(module):
        out = module.affine_scaled_attention(query, key, value, alpha=torch.ones(1024), beta=torch.ones(1024))
        torch.autograd.backward((out,), (torch.zeros_like(out),))


def products(kernel: CompiledKernel) -> int:
    assert kernel.error is None, kernel.error
    return int(kernel.code.asm["sass"].count("HGMMA"))


@pytest.fixture(scope="module")
def all_wanted() -> dict[str, CompiledKernel]:
    return compiled("qkv")


def test_key_gradients_alone(all_wanted: dict[str, CompiledKernel]) -> None:
    """The query kernel hands over a row value that needs no product over the keys."""
    kernels = compiled("k")
    assert products(kernels["backward_query"]) == 0
    assert 0 < products(kernels["backward_key"]) < products(all_wanted["backward_key"])


def test_value_gradients_alone(all_wanted: dict[str, CompiledKernel]) -> None:
    """Two products of four are left: s, and dV."""
    kernels = compiled("v")
    assert set(kernels) == {"forward", "backward_key"}
    assert products(kernels["backward_key"]) == products(all_wanted["backward_key"]) / 2


def test_profilers_show_spec_and_shape_class(all_wanted: dict[str, CompiledKernel]) -> None:
    for name, kernel in all_wanted.items():
        assert kernel.code.metadata.name == f"affine_scaled_{name}_d64_dv64_bf16"
