"""Checks of every memory access of interpreted kernels: bounds, undefined lanes, races, results that nobody wrote.

Triton's interpreter reads and writes raw memory, gives 0 for lanes that a mask switches off, and runs programs one
after the other, so that kernels pass in it which a GPU would not forgive. Inside `with Sanitizer():` an access outside
of the launch's tensors and an element that two programs of a launch touch (one of them with a plain store) are a
`SanitizerError`; lanes that a mask switches off without `other=` and memory that torch hands out uninitialized are
NaN. Atomics are checked for their address alone. Tensors must be on the CPU.
"""

import contextlib
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from triton.runtime import interpreter as triton_interpreter
from triton.runtime.interpreter import InterpretedFunction, InterpreterBuilder, TensorHandle

from attngen.runtime.interpreter_precision import encode, is_encoded
from attngen.runtime.replaced import replaced

Hook = Callable[..., Any]

_NOBODY, _SEVERAL = 0, -1  # beside the number of a program, which counts from 1


class SanitizerError(Exception):
    """A memory access that a GPU would not forgive: what, how many lanes, which line, which program."""


@dataclass(frozen=True)
class _Region:
    """The elements of one tensor between its first and its last address; a view need not own all of them."""

    low: int
    element_size: int
    owned: NDArray[np.bool_]
    writer: NDArray[np.int32]  # per element the program that stored to it
    reader: NDArray[np.int32]

    def inside(self, addresses: NDArray[np.int64], size: int) -> NDArray[np.bool_]:
        """Which accesses of `size` bytes begin and end in elements of the tensor."""
        owned = np.ones(addresses.shape, dtype=np.bool_)
        for offset in (addresses - self.low, addresses - self.low + size - 1):
            index = offset // self.element_size
            near = (index >= 0) & (index < self.owned.size)
            owned &= near & self.owned[np.where(near, index, 0)] if self.owned.size else False
        return owned


class Sanitizer:
    """Checks the kernels interpreted inside the block against `tensors`, or each against its own arguments."""

    def __init__(self, *tensors: torch.Tensor) -> None:
        self._tensors = tensors
        self._regions: tuple[_Region, ...] = ()
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> "Sanitizer":
        run = InterpretedFunction.run
        self._stack.enter_context(_poisoned_memory())
        self._stack.enter_context(replaced(InterpretedFunction, {"run": self._launch_hook(run)}))
        self._stack.enter_context(replaced(InterpreterBuilder, self._access_hooks(InterpreterBuilder)))
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self._stack.close()
        while error is not None:  # Triton wraps what a kernel raises once per function on the way out
            if isinstance(error, SanitizerError):
                raise error from None
            error = error.__cause__

    def _launch_hook(self, run: Hook) -> Hook:
        def checked_run(kernel: Any, *args: Any, **kwargs: Any) -> Any:
            tensors = self._tensors or tuple(_tensors((*args, *kwargs.values())))
            self._regions = tuple(map(_region, tensors))
            return run(kernel, *args, **kwargs)

        return checked_run

    def _access_hooks(self, builder: Any) -> dict[str, Hook]:
        load, store = builder.create_masked_load, builder.create_masked_store
        rmw, cas = builder.create_atomic_rmw, builder.create_atomic_cas

        def checked_load(builder: Any, pointers: Any, mask: Any, other: Any, *rest: Any, **named: Any) -> Any:
            lanes = self._check("load", pointers, mask)
            loaded = load(builder, pointers, mask, other, *rest, **named)
            return loaded if other is not None else _poisoned(loaded, lanes)

        def checked_store(builder: Any, pointers: Any, value: Any, mask: Any, *rest: Any, **named: Any) -> Any:
            self._check("store", pointers, mask)
            return store(builder, pointers, value, mask, *rest, **named)

        def checked_rmw(builder: Any, op: Any, pointers: Any, value: Any, mask: Any, *rest: Any) -> Any:
            self._check("atomic", pointers, mask)
            return rmw(builder, op, pointers, value, mask, *rest)

        def checked_cas(builder: Any, pointers: Any, *rest: Any) -> Any:
            self._check("atomic", pointers, True)
            return cas(builder, pointers, *rest)

        return {
            "create_masked_load": checked_load,
            "create_masked_store": checked_store,
            "create_atomic_rmw": checked_rmw,
            "create_atomic_cas": checked_cas,
        }

    def _check(self, kind: str, pointers: Any, mask: Any) -> NDArray[np.bool_]:
        """The lanes that are on."""
        lanes = np.broadcast_to(getattr(mask, "data", mask), pointers.data.shape)
        size = max(1, pointers.get_element_ty().primitive_bitwidth // 8)
        addresses = pointers.data[lanes].astype(np.int64)
        known = np.zeros(addresses.shape, dtype=np.bool_)
        for region in self._regions:
            here = region.inside(addresses, size)
            known |= here
            if kind != "atomic" and here.any():
                _check_race(kind, region, (addresses[here] - region.low) // region.element_size)
        if not known.all():
            raise SanitizerError(f"out-of-bounds {kind}: {(~known).sum()} of {known.size} lanes, {_place()}")
        return lanes


def _check_race(kind: str, region: _Region, elements: NDArray[np.int64]) -> None:
    me = _program_number()
    if kind == "store":
        read = _touched_by_others(region.reader[elements], me)
        written = _touched_by_others(region.writer[elements], me)
        region.writer[elements] = me
    else:
        read, written = 0, _touched_by_others(region.writer[elements], me)
        before = region.reader[elements]
        region.reader[elements] = np.where((before == _NOBODY) | (before == me), me, _SEVERAL)
    if read or written:
        other = "stored" if written else "loaded"
        raise SanitizerError(f"race: {written or read} lanes {kind} what another program {other}, {_place()}")


def _touched_by_others(programs: NDArray[np.int32], me: int) -> int:
    return int(((programs != _NOBODY) & (programs != me)).sum())


def _program_number() -> int:
    builder = triton_interpreter.interpreter_builder
    (x, y, z), (_, ny, nz) = builder.grid_idx, builder.grid_dim
    return int(1 + z + nz * (y + ny * x))


def _place() -> str:
    """The kernel's line that is running, and the program."""
    program = triton_interpreter.interpreter_builder.grid_idx
    frame = sys._getframe(1)
    while frame.f_back and (frame.f_globals is globals() or frame.f_globals["__name__"].startswith("triton.")):
        frame = frame.f_back
    return f"{frame.f_code.co_name}, line {frame.f_lineno} of {frame.f_code.co_filename}, program {program}"


def _tensors(arguments: tuple[Any, ...]) -> Iterator[torch.Tensor]:
    for argument in arguments:
        if isinstance(argument, torch.Tensor):
            yield argument
        elif isinstance(argument, tuple):
            yield from _tensors(argument)
        elif hasattr(argument, "base"):  # a tensor descriptor, or a tensor that is read as another type
            yield from _tensors((argument.base,))


def _region(tensor: torch.Tensor) -> _Region:
    extent = 0
    if tensor.numel():
        extent = 1 + sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    owned = torch.zeros(extent, dtype=torch.bool)
    distinct = [size if stride else min(size, 1) for size, stride in zip(tensor.shape, tensor.stride(), strict=True)]
    owned.as_strided(distinct, tensor.stride()).fill_(True)
    nobody = np.full(extent, _NOBODY, dtype=np.int32)
    return _Region(tensor.data_ptr(), tensor.element_size(), owned.numpy(), nobody, nobody.copy())


def _poisoned(loaded: Any, lanes: NDArray[np.bool_]) -> Any:
    """Lanes that are off: NaN, or the integer type's largest value."""
    dtype = loaded.dtype.scalar
    if lanes.all() or loaded.data.dtype == np.bool_:
        return loaded
    if is_encoded(loaded):
        poison = encode(np.array(np.nan), dtype).data
    else:
        poison = np.nan if dtype.is_floating() else np.iinfo(loaded.data.dtype).max
    return TensorHandle(np.where(lanes, loaded.data, np.asarray(poison, dtype=loaded.data.dtype)), dtype)


@contextlib.contextmanager
def _poisoned_memory() -> Iterator[None]:
    """`torch.empty` and its like give NaN, so that an element which no program writes shows in the result."""
    enabled, warn_only = (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
    )
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        with replaced(torch.utils.deterministic, {"fill_uninitialized_memory": True}):
            yield
    finally:
        torch.use_deterministic_algorithms(enabled, warn_only=warn_only)
