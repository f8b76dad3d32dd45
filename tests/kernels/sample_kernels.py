"""Kernels of one feature or one mistake each, for the tests of the interpreter and of the sanitizer."""

import triton
import triton.language as tl


@triton.jit
def assembly(X, Z, N: tl.constexpr, TEXT: tl.constexpr):
    i = tl.arange(0, N)
    y = tl.inline_asm_elementwise(TEXT, "=f,f", [tl.load(X + i)], dtype=tl.float32, is_pure=True, pack=1)
    tl.store(Z + i, y)


@triton.heuristics({"N": lambda arguments: triton.next_power_of_2(arguments["n"])})
@triton.jit
def cast_to(X, Z, n, DTYPE: tl.constexpr, N: tl.constexpr):
    i = tl.arange(0, N)
    tl.store(Z + i, tl.load(X + i).to(DTYPE))


@triton.jit
def low_precision(X, Z, N: tl.constexpr, NAME: tl.constexpr):
    i = tl.arange(0, N)
    x = tl.load(X + i)
    if NAME == "x * x + x":
        tl.store(Z + i, x * x + x)
    if NAME == "-x * 0.5":
        tl.store(Z + i, -x * 0.5)
    if NAME == "where(x > 0, x, 1.5)":
        tl.store(Z + i, tl.where(x > 0, x, tl.full([N], 1.5, tl.bfloat16)))
    if NAME == "sum":
        tl.store(Z + i, tl.zeros([N], tl.bfloat16) + tl.sum(x, 0))
    if NAME == "max":
        tl.store(Z + i, tl.zeros([N], tl.bfloat16) + tl.max(x, 0))
    if NAME == "sort":
        tl.store(Z + i, tl.sort(x))
    if NAME == "cumsum":
        tl.store(Z + i, tl.cumsum(x, 0))


@triton.jit
def maximum(X, Z, N: tl.constexpr):
    i = tl.arange(0, N)
    tl.store(Z + i, tl.maximum(tl.load(X + i), 0.0))


@triton.jit
def in_order(X, Z, n, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(Z + i, tl.load(X + i, mask=i < n, other=0.0) + 1, mask=i < n)


@triton.jit
def unmasked_load(X, Z, n, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(Z + i, tl.load(X + i) + 1, mask=i < n)


@triton.jit
def unmasked_store(X, Z, n, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(Z + i, tl.load(X + i, mask=i < n, other=0.0))


@triton.jit
def unmasked_atomic(X, Z, n, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.atomic_add(Z + i, tl.load(X + i, mask=i < n, other=0.0))


@triton.jit
def undefined_lanes(X, Z, n, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(Z + tl.program_id(0), tl.sum(tl.load(X + i, mask=i < n), 0))


@triton.jit
def racing_store(X, Z, n, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(Z, tl.sum(tl.load(X + i, mask=i < n, other=0.0), 0))


@triton.jit
def racing_load(X, Z, n, BLOCK: tl.constexpr):
    """Each program stores a block of Z and then reads the block before its own."""
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(Z + i, tl.load(X + i, mask=i < n, other=0.0), mask=i < n)
    before = i - BLOCK
    tl.store(X + i, tl.load(Z + before, mask=before >= 0, other=0.0), mask=i < n)


@triton.jit
def store_after_load(X, Z, n, BLOCK: tl.constexpr):
    """Each program reads the block behind its own, which the next one then overwrites."""
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    behind = i + BLOCK
    tl.store(X + i, tl.load(X + behind, mask=behind < n, other=0.0), mask=i < n)


@triton.jit
def summed_atomically(X, Z, n, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.atomic_add(Z, tl.sum(tl.load(X + i, mask=i < n, other=0.0), 0))
