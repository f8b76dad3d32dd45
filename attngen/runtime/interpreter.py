"""Triton kernels on the CPU, kernel by kernel, in a process that was started without TRITON_INTERPRET.

Triton decides between the compiled and the interpreted class of a kernel when `@triton.jit` runs, for its own library
too. `interpreting(module)` exchanges one for the other for as long as a block of code runs, so that a process can both
interpret and compile. It computes bf16 and fp8 as a GPU does (`interpreter_precision`) and emulates inline assembly
(`interpreter_asm`). It says nothing of what a GPU does beyond the program's text: TF32, approximate instructions,
barriers, registers, shared memory. Process-global, not for several threads. Triton 3.6 to 3.9.
"""

import contextlib
import sys
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from types import ModuleType
from typing import Any

import triton
import triton.language as tl
from triton.runtime import interpreter as triton_interpreter
from triton.runtime.interpreter import InterpretedFunction
from triton.runtime.jit import JITFunction, KernelInterface

from attngen.runtime.interpreter_asm import emulate_inline_asm
from attngen.runtime.interpreter_precision import repair_low_precision
from attngen.runtime.replaced import replaced

Namespace = dict[str, Any] | type  # a module's globals, or a class

LAUNCH_OPTIONS = frozenset({"num_warps", "num_stages", "num_ctas", "maxnreg", "enable_fp_fusion"})

_interpreted: dict[int, tuple[Any, Any]] = {}  # id of a compiled function -> itself, which keeps the id alive, and ours


@contextlib.contextmanager
def interpreting(*modules: ModuleType) -> Iterator[None]:
    """Within the block, the kernels of `modules` run in Triton's interpreter, on CPU tensors.

    Functions that the kernels call, wherever they were defined, and kernels inside `@triton.autotune` or
    `@triton.heuristics` are exchanged too. Look kernels up in their module inside the block: a name bound earlier by
    `from module import kernel` still is the compiled one. Entering and leaving takes less than a millisecond.
    """
    repair_low_precision()
    emulate_inline_asm()
    with contextlib.ExitStack() as stack:
        spaces = (*_library_namespaces(), *_reachable(modules))
        wrappers = [w for space in spaces for value in _names(space).values() if (w := _innermost_wrapper(value))]
        for space in spaces:
            stack.enter_context(_exchanged(space))
        for wrapper in wrappers:
            stack.enter_context(replaced(wrapper, {"fn": _interpreted_version(wrapper.fn)}))
        for module in modules:
            stack.enter_context(keeping_bfloat16(module))
        stack.enter_context(replaced(triton.knobs.runtime, {"interpret": True}))
        stack.enter_context(replaced(triton_interpreter, {"_patch_lang_tensor": _patch_lang_tensor}))
        yield


def keeping_bfloat16(module: ModuleType) -> AbstractContextManager[None]:
    """Generated modules hand the interpreter float32 in place of bf16 unless they are told that it is repaired."""
    flag = "INTERPRETS_BFLOAT16"
    return replaced(module, {flag: True} if hasattr(module, flag) else {})


def _library_namespaces() -> list[Namespace]:
    modules = [m for name, m in sys.modules.items() if name == "triton.language" or name.startswith("triton.language.")]
    # An interpreted device function patches these classes and never restores them.
    return [*map(vars, modules), tl.tensor, tl.dtype, tl.core.tensor_descriptor_base, tl.core.tensor_descriptor]


def _reachable(modules: tuple[ModuleType, ...]) -> list[Namespace]:
    """The globals of `modules` and of every jitted function that they name, wherever it was defined."""
    found: dict[int, dict[str, Any]] = {}
    todo = [vars(module) for module in modules]
    while todo:
        names = todo.pop()
        if id(names) not in found and not names.get("__name__", "").startswith("triton."):
            found[id(names)] = names
            todo += [value.fn.__globals__ for value in names.values() if isinstance(value, JITFunction)]
    return list(found.values())


def _innermost_wrapper(value: Any) -> Any:
    """The object of @triton.autotune or @triton.heuristics that holds a jitted function itself, or None."""
    while isinstance(value, KernelInterface) and not isinstance(value, JITFunction) and hasattr(value, "fn"):
        if isinstance(value.fn, JITFunction):
            return value
        value = value.fn
    return None


class _Interpreted(InterpretedFunction):  # type: ignore[misc]  # Triton has no types
    """Refuses arguments that the kernel doesn't have, as the compiled one does; Triton's interpreter drops them."""

    def run(self, *args: Any, grid: Any, warmup: bool, **kwargs: Any) -> Any:
        unknown = kwargs.keys() - LAUNCH_OPTIONS - {*self.arg_names}
        if unknown:
            raise KeyError(f"{self.__name__} has no argument {', '.join(sorted(unknown))}")
        return super().run(*args, grid=grid, warmup=warmup, **kwargs)


def _interpreted_version(kernel: Any) -> Any:
    if id(kernel) not in _interpreted:
        _interpreted[id(kernel)] = kernel, _Interpreted(kernel.fn)
    return _interpreted[id(kernel)][1]


@contextlib.contextmanager
def _exchanged(space: Namespace) -> Iterator[None]:
    before = dict(_names(space))
    for name, value in before.items():
        if isinstance(value, JITFunction):
            _bind(space, name, _interpreted_version(value))
    try:
        yield
    finally:
        _restore(space, before)


def _names(space: Namespace) -> Mapping[str, Any]:
    return space if isinstance(space, dict) else vars(space)


def _bind(space: Namespace, name: str, value: Any) -> None:
    if isinstance(space, dict):
        space[name] = value
    else:
        setattr(space, name, value)


def _restore(space: Namespace, names: Mapping[str, Any]) -> None:
    if isinstance(space, type):  # in modules, the names that the rewritten kernels need may stay
        for name in [name for name in vars(space) if name not in names]:
            delattr(space, name)
    for name, value in names.items():
        if _names(space).get(name) is not value:
            with contextlib.suppress(AttributeError, TypeError):  # __dict__, __weakref__ and their like
                _bind(space, name, value)


_patch_lang_tensor_of_triton = triton_interpreter._patch_lang_tensor


def _patch_lang_tensor(tensor: Any, *scope: Any) -> None:
    """With numpy 2.4 and later, Triton 3.6 has no way to turn `range(0, n, BLOCK)`'s run-time n into an int."""
    _patch_lang_tensor_of_triton(tensor, *scope)
    tensor.__index__ = lambda self: int(self.handle.data.item())
