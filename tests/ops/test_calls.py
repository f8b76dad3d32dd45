"""Wrong calls are told what was given and what it should be; calls without rows, keys or batches give what fits."""

import inspect
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import attngen
from attngen.runtime.interpreter import interpreting

BFLOAT16, META = torch.bfloat16, torch.device("meta")


def tensors(n_q: int = 5, n_k: int = 7, batch: int = 2, **kind: Any) -> dict[str, Tensor]:
    return {
        "query": torch.randn(batch, 4, n_q, 8, **kind),
        "key": torch.randn(batch, 2, n_k, 8, **kind),
        "value": torch.randn(batch, 2, n_k, 6, **kind),
    }


def of(*shape: int, **kind: Any) -> Tensor:
    return torch.zeros(shape, **kind)


WRONG: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "query is a list": ({"query": [1.0]}, TypeError, "query is a list; it should be a tensor"),
    "key is None": ({"key": None}, TypeError, "key is a NoneType; it should be a tensor"),
    "query of three dims": (
        {"query": of(4, 5, 8)}, ValueError,
        "query is of shape (4, 5, 8); it should be (batch, heads, length, head dim)",
    ),
    "integer query": (
        {"query": of(2, 4, 5, 8, dtype=torch.int64)}, ValueError,
        "query is of type torch.int64; it should be float16, bfloat16, float32 or, outside of GPUs, float64",
    ),
    "complex value": (
        {"value": of(2, 2, 7, 6, dtype=torch.complex64)}, ValueError,
        "value is of type torch.complex64; it should be float16, bfloat16, float32 or, outside of GPUs, float64",
    ),
    "types differ": (
        {"key": of(2, 2, 7, 8, dtype=BFLOAT16)}, ValueError,
        "key is torch.bfloat16 on cpu; it should be like query, torch.float32 on cpu",
    ),
    "devices differ": (
        {"value": of(2, 2, 7, 6, device=META)}, ValueError,
        "value is torch.float32 on meta; it should be like query, torch.float32 on cpu",
    ),
    "batches differ": (
        {"value": of(1, 2, 7, 6)}, ValueError, "value is of batch size 1; it should be of query's, 2",
    ),
    "head dims differ": ({"key": of(2, 2, 7, 9)}, ValueError, "key is of head dim 9; it should be of query's, 8"),
    "lengths differ": (
        {"value": of(2, 2, 6, 6)}, ValueError, "value is of 2 heads and length 6; it should be 2 and 7, like key",
    ),
    "heads don't divide": (
        {"query": of(2, 5, 5, 8)}, ValueError, "query is of 5 heads; it should be of a multiple of key's 2",
    ),
    "no key heads": (
        {"key": of(2, 0, 7, 8), "value": of(2, 0, 7, 6)}, ValueError,
        "key is of 0 heads; it should be of one head or more",
    ),
    "no query heads": (
        {"query": of(2, 0, 5, 8)}, ValueError, "query is of 0 heads; it should be of one head or more",
    ),
    "fewer query heads": (
        {"query": of(2, 1, 5, 8)}, ValueError, "query is of 1 heads; it should be of a multiple of key's 2",
    ),
    "head dim above 256": (
        {"query": of(2, 4, 5, 257), "key": of(2, 2, 7, 257)}, ValueError,
        "query is of head dim 257; it should be between 1 and 256",
    ),
    "value's head dim above 256": (
        {"value": of(2, 2, 7, 300)}, ValueError, "value is of head dim 300; it should be between 1 and 256",
    ),
    "head dim 0": (
        {"query": of(2, 4, 5, 0), "key": of(2, 2, 7, 0)}, ValueError,
        "query is of head dim 0; it should be between 1 and 256",
    ),
    "window is text": ({"window": "3"}, TypeError, "window is '3'; it should be an int, a pair of ints or None"),
    "window is a float": ({"window": 3.0}, TypeError, "window is 3.0; it should be an int, a pair of ints or None"),
    "window is a bool": ({"window": True}, TypeError, "window is True; it should be an int, a pair of ints or None"),
    "window of three": (
        {"window": (1, 2, 3)}, ValueError, "window is (1, 2, 3); it should be an int, a pair (left, right) or None",
    ),
    "window of floats": ({"window": (1, 2.5)}, TypeError, "window is 2.5; it should be an int, a pair of ints or None"),
    "negative window": ({"window": -1}, ValueError, "window is -1; it should be 0 or more, and less than 2^31"),
    "window's side below -1": (
        {"window": (-2, 0)}, ValueError, "window is -2; it should be -1 or more, and less than 2^31",
    ),
    "huge window": ({"window": 2**31}, ValueError, "window is 2147483648; it should be 0 or more, and less than 2^31"),
    "huge scale": ({"scale": 1e300}, ValueError, "scale is 1e+300; it should be a finite number in float32's range"),
    "unknown alignment": (
        {"alignment": "center"}, ValueError, "alignment is 'center'; it should be 'upper_left' or 'lower_right'",
    ),
    "alignment is a list": (
        {"alignment": ["x"]}, ValueError, "alignment is ['x']; it should be 'upper_left' or 'lower_right'",
    ),
    "scale is text": ({"scale": "1"}, TypeError, "scale is '1'; it should be a float or None"),
    "scale is a bool": ({"scale": True}, TypeError, "scale is True; it should be a float or None"),
    "deterministic is a number": (
        {"deterministic": 1}, TypeError, "deterministic is 1; it should be True or False"
    ),
    "is_causal is a number": ({"is_causal": 1}, TypeError, "is_causal is 1; it should be True or False"),
    "input is text": ({"alpha": "1"}, TypeError, "alpha is a str; it should be a tensor or a number"),
    "input is a bool": ({"alpha": True}, TypeError, "alpha is a bool; it should be a tensor or a number"),
    "input is None": ({"alpha": None}, TypeError, "alpha is a NoneType; it should be a tensor or a number"),
    "input of another shape": (
        {"alpha": of(2, 4, 6)}, ValueError,
        "alpha is of shape (2, 4, 6); it should be of shape (2, 4, 5) (batch, head, query), or broadcast to it",
    ),
    "input of too many dims": (
        {"beta": of(1, 2, 4, 5)}, ValueError,
        "beta is of shape (1, 2, 4, 5); it should be of shape (2, 4, 5) (batch, head, query), or broadcast to it",
    ),
    "integer input": (
        {"beta": of(5, dtype=torch.int32)}, ValueError,
        "beta is torch.int32 on cpu; it should be of a floating-point type on cpu",
    ),
    "input elsewhere": (
        {"beta": of(5, device=META)}, ValueError,
        "beta is torch.float32 on meta; it should be of a floating-point type on cpu",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_wrong_calls(case: str) -> None:
    changed, error, message = WRONG[case]
    arguments = tensors() | {"alpha": 1.0, "beta": 0.0} | changed
    with pytest.raises(error) as caught:
        attngen.load("affine_scaled")(**arguments)
    assert str(caught.value) == f"affine_scaled_attention: {message}"


def test_pythons_own_errors() -> None:
    op = attngen.load("affine_scaled")
    with pytest.raises(TypeError, match=r"affine_scaled_attention.* missing 1 required keyword-only argument: 'beta'"):
        op(**tensors(), alpha=1.0)
    with pytest.raises(TypeError, match=r"affine_scaled_attention.* unexpected keyword argument 'causal'"):
        op(**tensors(), alpha=1.0, beta=0.0, causal=True)


def test_scalar_input_of_another_shape() -> None:
    with pytest.raises(ValueError) as caught:
        attngen.load("sigmoid")(**tensors(), bias=of(4))
    wanted = "sigmoid_attention: bias is of shape (4,); it should be of shape () (a scalar), or broadcast to it"
    assert str(caught.value) == wanted


@pytest.mark.parametrize("alpha", [2, 2.0, torch.tensor(2.0), torch.full((4, 1), 2.0), torch.full((2, 4, 5), 2.0)])
def test_inputs_are_broadcast(alpha: Any) -> None:
    given, op = tensors(), attngen.load("affine_scaled")
    assert torch.equal(op(**given, alpha=alpha, beta=0), op(**given, alpha=torch.full((2, 4, 5), 2.0), beta=0.0))


def test_broadcast_inputs_get_gradients_of_their_own_shape() -> None:
    alpha, beta = torch.full((4, 1), 2.0, requires_grad=True), torch.zeros((), requires_grad=True)
    given = tensors()
    attngen.load("affine_scaled")(**given, alpha=alpha, beta=beta).sum().backward()
    assert alpha.grad is not None
    assert beta.grad is not None
    # sum over rows of p v, and of v
    full = given["value"].sum(3).repeat_interleave(2, dim=1)
    weights = (given["query"] @ given["key"].repeat_interleave(2, dim=1).mT * 8**-0.5).softmax(-1)
    torch.testing.assert_close(alpha.grad, (weights @ full[..., None]).sum((0, 2)))
    torch.testing.assert_close(beta.grad, 5 * full.sum())


@pytest.mark.parametrize("kernels", [False, True], ids=["portable", "kernels"])
@pytest.mark.parametrize("sizes", [{"batch": 0}, {"n_q": 0}, {"n_k": 0}, {"n_q": 0, "n_k": 0}], ids=str)
@pytest.mark.parametrize("name", ["sigmoid", "softmax", "affine_scaled", "softplus_l1"])
def test_nothing_in_nothing_out(name: str, sizes: dict[str, int], kernels: bool) -> None:
    op, given = attngen.load(name), tensors(**sizes)
    leaves = {name: tensor.requires_grad_() for name, tensor in given.items()}
    leaves |= {name: torch.tensor(0.5, requires_grad=True) for name in required_inputs(op)}
    module = inspect.getmodule(op)
    assert module is not None
    with interpreting(*([module] if kernels else [])):
        out = op(**leaves)
        out.sum().backward()
    assert out.shape == (*leaves["query"].shape[:3], 6)
    assert not out.any()
    for name, leaf in leaves.items():
        assert leaf.grad is not None, name
        assert leaf.grad.shape == leaf.shape, name
        assert not leaf.grad.any(), name


def required_inputs(op: Any) -> list[str]:
    parameters = inspect.signature(op).parameters.values()
    return [p.name for p in parameters if p.kind is p.KEYWORD_ONLY and p.default is p.empty]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_types_are_kept(dtype: torch.dtype) -> None:
    given = {name: tensor.to(dtype).requires_grad_() for name, tensor in tensors().items()}
    bias = torch.tensor(-1.0, requires_grad=True)
    out = attngen.load("sigmoid")(**given, bias=bias)
    out.sum().backward()
    assert out.dtype == dtype
    assert all(tensor.grad is not None and tensor.grad.dtype == dtype for tensor in given.values())
    assert bias.grad is not None
    assert bias.grad.dtype == torch.float32


INTERPRETED = """
import torch
import generated.softmax as module

assert not isinstance(module.softmax_forward, __import__("triton").JITFunction)
calls, launch = [], module.launch_forward
module.launch_forward = lambda *args: calls.append(1) or launch(*args)
tensors = [torch.randn(1, 2, 33, 16, generator=torch.Generator().manual_seed(n)).bfloat16() for n in range(3)]
for dtype in (torch.float32, torch.bfloat16):
    query, key, value = (x.to(dtype).requires_grad_() for x in tensors)
    out = module.softmax_attention(query, key, value, is_causal=True)
    right = torch.nn.functional.scaled_dot_product_attention(*(x.double() for x in tensors), is_causal=True)
    torch.testing.assert_close(out.double(), right, rtol=0, atol=4 * torch.finfo(dtype).eps * right.abs().max().item())
    assert out.dtype == dtype
    out.sum().backward()
    assert torch.isfinite(query.grad).all() and query.grad.dtype == dtype
assert len(calls) == 2
"""


def test_kernels_on_a_cpu_by_tritons_own_switch() -> None:
    """With TRITON_INTERPRET=1, CPU tensors go through the kernels in a module that was merely imported."""
    root = Path(__file__).parents[2]
    environment = os.environ | {"TRITON_INTERPRET": "1", "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
    found = subprocess.run([sys.executable, "-c", INTERPRETED], env=environment, capture_output=True, text=True)
    if "only 0-dimensional arrays can be converted" in found.stderr:
        pytest.skip("Triton 3.6 by itself can't interpret a loop's bound with numpy 2.4 or later")
    assert found.returncode == 0, found.stderr
