"""bf16 and fp8 in Triton's interpreter, as a GPU computes them.

The interpreter keeps these formats as unsigned integers, numpy having none of them, and computes with the integers: a
bf16 flash kernel is wrong by nine orders of magnitude, without a message. `repair_low_precision()` decodes operands to
float32, computes, and rounds the result to nearest even; fp8 saturates at its largest finite value (cvt.rn.satfinite).
`tl.fma` of float32 rounds once.
Still missing: bf16 atomics (ValueError), NaN padding of bf16 descriptors (gives 0), `input_precision="bf16x3"`.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import triton.language as tl
from numpy.typing import NDArray
from triton.runtime import interpreter as triton_interpreter
from triton.runtime.interpreter import InterpreterBuilder, TensorHandle

Array = NDArray[Any]

_TORCH_FORMAT = {tl.bfloat16: torch.bfloat16, tl.float8e4nv: torch.float8_e4m3fn, tl.float8e5: torch.float8_e5m2}
_BITS = {tl.bfloat16: torch.uint16, tl.float8e4nv: torch.uint8, tl.float8e5: torch.uint8}
_BITWISE = (np.bitwise_and, np.bitwise_or, np.bitwise_xor, np.left_shift, np.right_shift)


def is_encoded(handle: Any) -> bool:
    return handle.dtype.scalar in _TORCH_FORMAT


def decode(handle: Any) -> Array:
    """The values behind the bits, in float32. Handles of other types come back as they are."""
    if not is_encoded(handle):
        values: Array = handle.data
        return values
    if handle.dtype.scalar == tl.bfloat16:  # the hot path; a shift is exact
        shifted: Array = (handle.data.astype(np.uint32) << 16).view(np.float32)
        return shifted
    return torch.tensor(handle.data).view(_TORCH_FORMAT[handle.dtype.scalar]).float().numpy()


def encode(values: Array, dtype: Any) -> Any:
    """A handle of the type `dtype` that holds `values`, rounded."""
    if dtype not in _TORCH_FORMAT:
        return TensorHandle(values.astype(triton_interpreter._get_np_dtype(dtype)), dtype)
    rounded = torch.tensor(np.asarray(values, dtype=np.float32))
    if dtype != tl.bfloat16:
        largest = torch.finfo(_TORCH_FORMAT[dtype]).max
        rounded = rounded.clamp(-largest, largest)
    return TensorHandle(rounded.to(_TORCH_FORMAT[dtype]).view(_BITS[dtype]).numpy(), dtype)


def repair_low_precision() -> None:
    """Patch the interpreter for good; calling it again does nothing."""
    if getattr(InterpreterBuilder, "low_precision_repaired", False):
        return
    InterpreterBuilder.low_precision_repaired = True
    _repair_arithmetic(InterpreterBuilder)
    _repair_products(InterpreterBuilder)
    _repair_casts(InterpreterBuilder)
    _repair_maximum(InterpreterBuilder)
    _repair_reductions(triton_interpreter.ReduceScanOpInterface)


def _repair_arithmetic(builder: Any) -> None:
    binary_op, unary_op, ternary_op = builder.binary_op, builder.unary_op, builder.ternary_op

    def repaired_binary_op(self: Any, lhs: Any, rhs: Any, op: Callable[..., Array]) -> Any:
        if not (is_encoded(lhs) and is_encoded(rhs)) or op in _BITWISE:
            return binary_op(self, lhs, rhs, op)
        result = op(decode(lhs), decode(rhs))
        return TensorHandle(result, tl.int1) if result.dtype == np.bool_ else encode(result, lhs.dtype.scalar)

    def repaired_unary_op(self: Any, arg: Any, op: Callable[..., Array]) -> Any:
        return encode(op(decode(arg)), arg.dtype.scalar) if is_encoded(arg) else unary_op(self, arg, op)

    def repaired_ternary_op(self: Any, a: Any, b: Any, c: Any, op: Callable[..., Array]) -> Any:
        if op is np.clip and is_encoded(a):  # np.where, the other ternary, moves bits and is right as it is
            return encode(op(decode(a), decode(b), decode(c)), c.dtype.scalar)
        return ternary_op(self, a, b, c, op)

    builder.binary_op, builder.unary_op, builder.ternary_op = repaired_binary_op, repaired_unary_op, repaired_ternary_op


def _repair_products(builder: Any) -> None:
    create_fma, create_dot = builder.create_fma, builder.create_dot

    def repaired_fma(self: Any, x: Any, y: Any, z: Any) -> Any:
        if is_encoded(x):
            return encode(decode(x) * decode(y) + decode(z), z.dtype.scalar)
        if x.dtype.scalar == tl.float32:  # rounded once
            exact = x.data.astype(np.float64) * y.data.astype(np.float64) + z.data
            return TensorHandle(exact.astype(np.float32), z.dtype.scalar)
        return create_fma(self, x, y, z)

    def repaired_dot(self: Any, a: Any, b: Any, acc: Any, *rest: Any) -> Any:
        return create_dot(self, _as_float32(a), _as_float32(b), acc, *rest)

    builder.create_fma, builder.create_dot = repaired_fma, repaired_dot


def _as_float32(handle: Any) -> Any:
    return TensorHandle(decode(handle), tl.float32) if is_encoded(handle) else handle


def _repair_casts(builder: Any) -> None:
    cast_impl, create_fp_to_fp = builder.cast_impl, builder.create_fp_to_fp

    def repaired_cast(self: Any, source: Any, target_type: Any) -> Any:
        target = target_type.scalar
        if target in _TORCH_FORMAT:
            return encode(decode(source), target)
        if is_encoded(source):
            return encode(decode(source), target)
        return cast_impl(self, source, target_type)

    def repaired_fp_to_fp(self: Any, source: Any, target_type: Any, rounding: Any) -> Any:
        toward_zero = rounding == triton_interpreter._ir.ROUNDING_MODE.RTZ
        if toward_zero or not (is_encoded(source) or target_type.scalar in _TORCH_FORMAT):
            return create_fp_to_fp(self, source, target_type, rounding)
        return repaired_cast(self, source, target_type)

    builder.cast_impl, builder.create_fp_to_fp = repaired_cast, repaired_fp_to_fp
    builder.get_bf16 = lambda self, value: encode(np.array([value]), tl.bfloat16)  # missing up to 3.8, truncates in 3.9


def _repair_maximum(builder: Any) -> None:
    """`tl.maximum(nan, x)` is x on a GPU; up to Triton 3.7 the interpreter says NaN."""
    builder.create_maxnumf = lambda self, lhs, rhs: self.binary_op(lhs, rhs, np.fmax)
    builder.create_minnumf = lambda self, lhs, rhs: self.binary_op(lhs, rhs, np.fmin)


def _repair_reductions(interface: Any) -> None:
    """Reductions and scans bypass the builder and read `handle.data`: run them on float32, round the result."""
    apply = interface.apply

    def repaired_apply(self: Any, operand: Any) -> Any:
        operands = operand if isinstance(operand, tuple) else (operand,)
        encoded = [is_encoded(x.handle) for x in operands]
        if not any(encoded):
            return apply(self, operand)
        wide = tuple(_with_handle(x, _as_float32(x.handle)) for x in operands)
        # An argmax takes (values, indices) and may return either, so go by position and by type.
        rounded = tuple(
            _with_handle(r, encode(r.handle.data, x.dtype)) if was and r.dtype == tl.float32 else r
            for r, x, was in zip(apply(self, wide), operands, encoded, strict=False)
        )
        return rounded if isinstance(operand, tuple) else rounded[0]

    interface.apply = repaired_apply


def _with_handle(tensor: Any, handle: Any) -> Any:
    dtype = handle.dtype.scalar
    return tl.core.tensor(handle, tl.block_type(dtype, list(tensor.shape)) if tensor.type.is_block() else dtype)
