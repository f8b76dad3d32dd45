"""The device functions for sine and cosine, in Triton's interpreter, beside those of float64.

Compiled kernels compute the same, but pass over what is for large arguments alone where four neighbours have none.
"""

import sys
from collections.abc import Callable

import pytest
import torch
import triton
import triton.language as tl

from attngen.pipeline import compile_spec
from attngen.runtime.interpreter import interpreting
from attngen.runtime.loader import load_module

SPEC = """
name: wave
weights: sin(s) * cos(s)
"""


@triton.jit
def applied(x_ptr, y_ptr, FUNCTION: tl.constexpr, SIZE: tl.constexpr):
    places = tl.arange(0, SIZE)
    tl.store(y_ptr + places, FUNCTION(tl.load(x_ptr + places)))


def values(function: str, x: torch.Tensor) -> torch.Tensor:
    module, y = load_module(compile_spec(SPEC, "wave.yaml")), torch.empty_like(x)
    with interpreting(module, sys.modules[__name__]):
        device_function = getattr(module, function)
        applied[(1,)](x, y, lambda x: device_function(x, False), x.numel())
    return y


def every_magnitude(count: int) -> torch.Tensor:
    """Float32 numbers whose bits are drawn, without what isn't finite."""
    bits = torch.randint(-(2**31), 2**31, (count,), generator=torch.manual_seed(3)).to(torch.int32)
    x = bits.view(torch.float32)
    return torch.where(x.isfinite(), x, 0.0)


def near_quarter_turns(count: int) -> torch.Tensor:
    """Where sine or cosine nearly vanish; and the float32 that is nearest to a multiple of pi / 2 of all."""
    turns = torch.logspace(0, 38, count, dtype=torch.float64).round() * (torch.pi / 2)
    x = turns.to(torch.float32)
    x[-1] = 16367173.0 * 2.0**72
    return torch.where(x.isfinite(), x, 1.0)


@pytest.mark.parametrize("function", ["sin", "cos"])
@pytest.mark.parametrize("draw", [every_magnitude, near_quarter_turns])
def test_all_digits_are_right_at_every_magnitude(function: str, draw: Callable[[int], torch.Tensor]) -> None:
    x = draw(1 << 15)
    found, right = values(f"_{function}", x).double(), getattr(torch, function)(x.double())
    spacing = torch.exp2(torch.floor(torch.log2(right.abs().clamp(min=2.0**-149))) - 23).clamp(min=2.0**-149)
    assert ((found - right).abs() / spacing).max() < 2.5


@pytest.mark.parametrize("function", ["sin", "cos"])
def test_what_is_not_finite_gives_nan(function: str) -> None:
    x = torch.tensor([float("inf"), -float("inf"), float("nan"), 0.0])
    assert values(f"_{function}", x).isnan().tolist() == [True, True, True, False]
