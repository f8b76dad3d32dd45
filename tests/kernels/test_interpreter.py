"""The interpreter computes what torch computes, the sanitizer catches what a GPU would not forgive."""

import math

import numpy as np
import pytest
import torch
import triton
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from attngen.runtime.interpreter import interpreting
from attngen.runtime.interpreter_asm import INLINE_ASM
from attngen.runtime.sanitizer import Sanitizer, SanitizerError
from tests.kernels import sample_attention, sample_kernels

BFLOAT16, E4M3, E5M2 = torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2


def test_generated_modules_are_told_that_bf16_is_right() -> None:
    q = torch.randn(1, 1, 32, 32).bfloat16()
    with interpreting(sample_attention):
        assert sample_attention.sample_attention(q, q, q).dtype == BFLOAT16
    assert not sample_attention.INTERPRETS_BFLOAT16


def test_no_environment_variable_is_needed() -> None:
    assert not triton.knobs.runtime.interpret
    with interpreting(sample_attention):
        assert not isinstance(sample_attention.sample_forward, triton.JITFunction)
        assert triton.knobs.runtime.interpret
    assert isinstance(sample_attention.sample_forward, triton.JITFunction)
    assert not triton.knobs.runtime.interpret


def test_arguments_that_a_kernel_does_not_have_are_refused() -> None:
    x = torch.zeros(4)
    with pytest.raises(KeyError, match="maximum has no argument BEHIND"), interpreting(sample_kernels):
        sample_kernels.maximum[(1,)](x, x, N=4, BEHIND=True, num_warps=4)


# ---------------------------------------------------------------- values

TOLERANCE = {torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 1.5e-2}


def attention(dtype: torch.dtype, rows: int, is_causal: bool, block: int) -> tuple[torch.Tensor, ...]:
    """Output and dQ of the sample's kernels, then of autograd in float64."""
    generator = torch.Generator().manual_seed(0)
    q, k, v, grad = (torch.randn(1, 2, rows, 32, generator=generator).to(dtype) for _ in range(4))
    call = sample_attention.Call(1 / math.sqrt(32), is_causal)
    tile = sample_attention.Tile(block, block, 4, 1)
    sample_attention.OVERRIDES.update(forward=tile, backward_query=tile)
    with interpreting(sample_attention), Sanitizer():
        out, lse = sample_attention.launch_forward(q, k, v, call)
        dq = sample_attention.launch_backward(grad, q, k, v, out, lse, call)
    sample_attention.OVERRIDES.clear()
    exact = q.double().requires_grad_()
    wanted = torch.nn.functional.scaled_dot_product_attention(exact, k.double(), v.double(), is_causal=is_causal)
    wanted.backward(grad.double())
    return out, dq, wanted.detach(), exact.grad


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize(("rows", "is_causal", "block"), [(64, False, 32), (77, True, 32), (17, False, 16)])
def test_flash_kernels_agree_with_float64(dtype: torch.dtype, rows: int, is_causal: bool, block: int) -> None:
    out, dq, wanted, wanted_dq = attention(dtype, rows, is_causal, block)
    for got, reference in ((out, wanted), (dq, wanted_dq)):
        assert (got.double() - reference).abs().max() <= TOLERANCE[dtype] * reference.abs().max()


def spread(count: int = 1024) -> torch.Tensor:
    return torch.randn(count, generator=torch.Generator().manual_seed(1)) * torch.logspace(-3, 2, count)


CASTS = {
    "fp32 to bf16": (spread(), BFLOAT16, tl.bfloat16),
    "fp64 to bf16": (spread().double(), BFLOAT16, tl.bfloat16),
    "int32 to bf16": (spread().int(), BFLOAT16, tl.bfloat16),
    "bf16 to fp32": (spread().bfloat16(), torch.float32, tl.float32),
    "fp32 to fp8e4": (spread().clamp(-448, 448), E4M3, tl.float8e4nv),
    "bf16 to fp8e5": (spread().bfloat16(), E5M2, tl.float8e5),
}


@pytest.mark.parametrize("name", CASTS)
def test_casts_round_as_torch_does(name: str) -> None:
    source, dtype, triton_dtype = CASTS[name]
    result = torch.empty(source.numel(), dtype=dtype)
    with interpreting(sample_kernels):
        sample_kernels.cast_to[(1,)](source, result, source.numel(), DTYPE=triton_dtype)
    torch.testing.assert_close(result.float(), source.to(dtype).float(), rtol=0, atol=0)


def test_fp8_saturates() -> None:
    source, result = torch.tensor([1e4, -1e4]), torch.empty(2, dtype=E4M3)
    with interpreting(sample_kernels):
        sample_kernels.cast_to[(1,)](source, result, 2, DTYPE=tl.float8e4nv)
    assert result.float().tolist() == [448, -448]


B = spread().bfloat16()
OPERATIONS = {  # every operation rounds to bf16, as it does on a GPU
    "x * x + x": (B.float() * B.float()).bfloat16() + B,
    "-x * 0.5": -B * 0.5,
    "where(x > 0, x, 1.5)": torch.where(B > 0, B, 1.5),
    "sum": B.float().sum().bfloat16().expand(1024),
    "max": B.max().expand(1024),
    "sort": B.sort().values,
    "cumsum": B.float().cumsum(0).bfloat16(),
}


@pytest.mark.parametrize("name", OPERATIONS)
def test_bf16_arithmetic_rounds_as_torch_does(name: str) -> None:
    result = torch.empty_like(B)
    with interpreting(sample_kernels):
        sample_kernels.low_precision[(1,)](B, result, N=1024, NAME=name)
    torch.testing.assert_close(result, OPERATIONS[name], rtol=0, atol=0)


def test_the_maximum_ignores_nan() -> None:
    x, z = torch.tensor([math.nan, -1.0, 2.0, math.nan]), torch.empty(4)
    with interpreting(sample_kernels):
        sample_kernels.maximum[(1,)](x, z, N=4)
    assert z.tolist() == [0, 0, 2, 0]


@pytest.mark.parametrize(
    ("text", "function"),
    [
        ("rsqrt.approx.ftz.f32 $0, $1;", torch.rsqrt),
        ("sqrt.approx.f32 $0, $1;", torch.sqrt),
        ("rcp.approx.ftz.f32 $0, $1;", torch.reciprocal),
        ("lg2.approx.ftz.f32 $0, $1;", torch.log2),
        ("ex2.approx.ftz.f32 $0, $1;", torch.exp2),
        ("mov.b32 $0, $1;", torch.clone),
        ("min.f32 $0, $1, 0f3F800000; add.f32 $0, $0, $1;", lambda x: x.clamp(max=1.0) + x),
        ("{ .reg .b32 a; mul.f32 a, $1, $1; ex2.approx.f32 $0, a; }", lambda x: torch.exp2(x * x)),
    ],
)
def test_inline_assembly(text: str, function: object) -> None:
    assert any(name in text for name in INLINE_ASM)
    x, z = torch.linspace(0.1, 2, 64), torch.empty(64)
    with interpreting(sample_kernels):
        sample_kernels.assembly[(1,)](x, z, N=64, TEXT=text)
    torch.testing.assert_close(z, function(x), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("text", ["brev.b32 $0, $1;", "tanh.approx.f32 $0, $1; brev.b32 $0, $0;"])
def test_unknown_assembly_is_refused(text: str) -> None:
    x = torch.ones(64)
    with interpreting(sample_kernels), pytest.raises(Exception, match="no emulation for the inline assembly"):
        sample_kernels.assembly[(1,)](x, x.clone(), N=64, TEXT=text)


# ---------------------------------------------------------------- the process stays able to compile


def digest() -> tuple[str, int]:
    types = {"X": "*fp32", "Z": "*fp32", "n": "i32", "BLOCK": "constexpr"}
    source = ASTSource(sample_kernels.in_order, types, {"BLOCK": 64})
    compiled = triton.compile(source, target=GPUTarget("cuda", 90, 32))
    return compiled.hash, len(compiled.asm["cubin"])


def test_compiling_before_and_after_gives_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(triton.knobs.compilation, "always_compile", True)
    x, z = torch.ones(64), torch.zeros(64)
    before = digest()
    for _ in range(2):
        with interpreting(sample_kernels), interpreting(sample_attention):
            sample_kernels.in_order[(1,)](x, z, 64, BLOCK=64)
        assert digest() == before
    assert (z == 2).all()


def test_triton_is_restored_after_an_error() -> None:
    members = {owner: dict(vars(owner)) for owner in (tl.tensor, tl.dtype, tl.core.tensor_descriptor)}
    with pytest.raises(ZeroDivisionError), interpreting(sample_attention):
        _ = 1 / 0
    assert isinstance(tl.sum, triton.JITFunction)
    assert {owner: dict(vars(owner)) for owner in members} == members


# ---------------------------------------------------------------- the sanitizer
# Two programs of 64 lanes over 100 elements; 128 are allocated, so that nothing breaks for real.


def run_checked(name: str, sanitizer: Sanitizer, x: torch.Tensor, z: torch.Tensor) -> None:
    with interpreting(sample_kernels), sanitizer:
        getattr(sample_kernels, name)[(2,)](x, z, 100, BLOCK=64)


@pytest.fixture
def x() -> torch.Tensor:
    return torch.arange(128.0)[:100]


@pytest.fixture
def z() -> torch.Tensor:
    return torch.zeros(128)[:100]


@pytest.mark.parametrize("name", ["in_order", "summed_atomically"])
def test_a_sound_kernel_passes(name: str, x: torch.Tensor, z: torch.Tensor) -> None:
    run_checked(name, Sanitizer(), x, z)
    assert z.tolist() == (x + 1).tolist() if name == "in_order" else z[0] == x.sum()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "unmasked_load",
            r"out-of-bounds load: 28 of 64 lanes, unmasked_load, line \d+ of .*sample_kernels.py, program",
        ),
        ("unmasked_store", r"out-of-bounds store: 28 of 64 lanes, .*program \(1, 0, 0\)"),
        ("unmasked_atomic", "out-of-bounds atomic: 28 of 64 lanes"),
        ("racing_store", "race: 1 lanes store what another program stored"),
        ("racing_load", "race: 64 lanes load what another program stored"),
        ("store_after_load", "race: 36 lanes store what another program loaded"),
    ],
)
def test_a_broken_kernel_is_caught(name: str, message: str, x: torch.Tensor, z: torch.Tensor) -> None:
    with interpreting(sample_kernels):  # which passes without the sanitizer
        getattr(sample_kernels, name)[(2,)](x.clone(), torch.zeros(128)[:100], 100, BLOCK=64)
    with pytest.raises(SanitizerError, match=message):
        run_checked(name, Sanitizer(), x, z)
    with pytest.raises(SanitizerError, match=message):
        run_checked(name, Sanitizer(x, z), x, z)


def test_undefined_lanes_are_nan(x: torch.Tensor, z: torch.Tensor) -> None:
    with interpreting(sample_kernels):
        sample_kernels.undefined_lanes[(2,)](x, z, 100, BLOCK=64)
    assert not z.isnan().any()
    run_checked("undefined_lanes", Sanitizer(), x, z)
    assert z.isnan().tolist() == [False, True] + 98 * [False]


def test_the_gaps_of_a_view_are_out_of_bounds(x: torch.Tensor) -> None:
    every_other = torch.zeros(200)[::2]
    with pytest.raises(SanitizerError, match="out-of-bounds store: 32 of 64 lanes"):
        run_checked("in_order", Sanitizer(), x, every_other)


def test_a_broadcast_tensor_is_one_element(x: torch.Tensor) -> None:
    with pytest.raises(SanitizerError, match="out-of-bounds store: 63 of 64 lanes"):
        run_checked("in_order", Sanitizer(), x, torch.zeros(1).expand(100))


def test_a_tensor_that_is_not_named_is_out_of_bounds(x: torch.Tensor, z: torch.Tensor) -> None:
    with pytest.raises(SanitizerError, match="out-of-bounds store: 64 of 64 lanes"):
        run_checked("in_order", Sanitizer(x), x, z)


def test_memory_that_nobody_wrote_is_nan() -> None:
    with Sanitizer():
        assert torch.empty(3).isnan().all()
        assert torch.empty_like(torch.ones(2, dtype=BFLOAT16)).isnan().all()
    assert not torch.are_deterministic_algorithms_enabled()


def test_the_checks_end_with_the_block(x: torch.Tensor, z: torch.Tensor) -> None:
    with pytest.raises(SanitizerError):
        run_checked("racing_store", Sanitizer(), x, z)
    with interpreting(sample_kernels), np.errstate(all="ignore"):
        sample_kernels.racing_store[(2,)](x, z, 100, BLOCK=64)
