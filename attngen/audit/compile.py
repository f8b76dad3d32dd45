"""Compiles what a generated module would launch, for a GPU that need not be there.

The module's own launchers run, on small CPU tensors, with two things exchanged: Triton's driver is one that merely
names the target, and a launch of a kernel compiles it and is recorded instead. So types, divisibility hints and tile
configurations are those of a real launch. Nothing is executed, and the tensors that the launchers return hold garbage.
Triton's disk cache is used as it is. Process-global, not for several threads.
"""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.runtime.jit import JITFunction

from attngen.audit.targets import Target
from attngen.runtime.replaced import replaced


@dataclass(frozen=True, slots=True)
class Case:
    """One kind of call of the op."""

    head_dim: int
    dtype: str = "bfloat16"
    is_causal: bool = False
    length: int = 1024  # a multiple of 16, as lengths are where speed matters: Triton compiles for that
    heads: int = 2
    value_dim: int = 0  # 0: that of queries and keys

    @property
    def mask(self) -> str:
        return "causal" if self.is_causal else "full"


@dataclass(frozen=True, slots=True)
class CompiledKernel:
    """One kernel in one configuration. `code` is Triton's compiled kernel, or None and `error` says why."""

    name: str
    case: Case
    target: Target
    constants: dict[str, Any]  # the keywords of the launch
    code: Any
    error: str | None = None


def compile_launches(target: Target, case: Case, launch: Callable[[], None]) -> tuple[CompiledKernel, ...]:
    """Every kernel that `launch` launches, in order. A kernel that fails to compile has an `error`."""
    recorded: list[CompiledKernel] = []

    def record(kernel: Any, constants: dict[str, Any], code: Any, error: str | None) -> None:
        recorded.append(CompiledKernel(kernel.fn.__name__, case, target, constants, code, error))

    with _compiling_for(target), replaced(JITFunction, {"run": _compiling_run(JITFunction.run, record)}):
        launch()
    return tuple(recorded)


Record = Callable[[Any, dict[str, Any], Any, str | None], None]


def _compiling_run(run: Callable[..., Any], record: Record) -> Callable[..., Any]:
    def compiling_run(kernel: Any, *args: Any, grid: Any, warmup: bool, **kwargs: Any) -> Any:
        if warmup:
            return run(kernel, *args, grid=grid, warmup=True, **kwargs)
        try:
            code, error = kernel.warmup(*args, grid=grid, **kwargs), None
        except Exception as failure:  # whatever a compiler pass, LLVM or the assembler raises
            code, error = None, f"{type(failure).__name__}: {failure}".strip()
        record(kernel, kwargs, code, error)
        return code

    return compiling_run


@contextlib.contextmanager
def _compiling_for(target: Target) -> Iterator[None]:
    active = triton.runtime.driver._active  # `.active` would look for a GPU
    triton.runtime.driver.set_active(_CompileOnlyDriver(target))
    try:
        yield
    finally:
        triton.runtime.driver.set_active(active)


class _CompileOnlyDriver:
    """As much of a Triton driver as compiling asks for."""

    def __init__(self, target: Target) -> None:
        self._target = target

    @staticmethod
    def is_active() -> bool:
        return True

    @staticmethod
    def map_python_to_cpp_type(type_name: str) -> str:
        return type_name

    def get_current_target(self) -> GPUTarget:
        return GPUTarget(self._target.backend, self._target.arch, self._target.warp_size)

    def get_current_device(self) -> str:
        """Kernels keep what they compiled per device, so each target is a device of its own."""
        return self._target.name

    def get_current_stream(self, device: str) -> int:
        return 0

    def get_active_torch_device(self) -> torch.device:
        return torch.device("cpu")

    def get_device_interface(self) -> Any:
        return torch.cpu
