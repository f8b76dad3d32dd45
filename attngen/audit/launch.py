"""Makes a generated module launch each of its kernels once, for CPU tensors, whatever arguments its launchers take.

On CPU tensors the op takes the way of its kernels only if they are interpreted, and then chooses tiles for the
interpreter. So the op is shown kernels that are not Triton's compiled class, and its launchers see the real ones.
"""

import contextlib
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import torch

from attngen.audit.compile import Case
from attngen.ir import Axis, Input, Normalizer
from attngen.runtime.interpreter import keeping_bfloat16
from attngen.runtime.replaced import replaced

LAUNCHERS = ("launch_forward", "launch_backward")


def launch_kernels(module: ModuleType, normalizer: Normalizer, case: Case, differentiate: bool = True) -> None:
    """One call of the op and its backward. Every input is a tensor, and has a gradient if it can and is to."""
    with launching_on_cpu(module):
        output = _called(module, normalizer, case, differentiate)
        torch.autograd.backward((output,), (torch.zeros_like(output),))


def launch_forward(module: ModuleType, normalizer: Normalizer, case: Case) -> None:
    """One call of the op, for whose results no backward is to follow."""
    with launching_on_cpu(module), torch.no_grad():
        _called(module, normalizer, case, False)


def _called(module: ModuleType, normalizer: Normalizer, case: Case, differentiate: bool) -> torch.Tensor:
    op: Callable[..., torch.Tensor] = getattr(module, f"{normalizer.name}_attention")
    head_dims = (case.head_dim, case.head_dim, case.value_dim or case.head_dim)
    shapes = ((1, case.heads, case.length, head_dim) for head_dim in head_dims)
    query, key, value = (torch.zeros(s, dtype=getattr(torch, case.dtype), requires_grad=True) for s in shapes)
    inputs = {declared.name: _tensor(declared, case, differentiate) for declared in normalizer.inputs}
    return op(query, key, value, **inputs, is_causal=case.is_causal)


def _tensor(declared: Input, case: Case, differentiate: bool) -> torch.Tensor:
    sizes: dict[Axis, int] = {
        "batch": 1,
        "head": case.heads,
        "kv_head": case.heads,
        "query": case.length,
        "key": case.length,
    }
    return torch.full([sizes[axis] for axis in declared.axes], 0.5, requires_grad=declared.grad and differentiate)


@contextlib.contextmanager
def launching_on_cpu(module: ModuleType) -> Iterator[None]:
    """Within the block, calls of the op on CPU tensors launch its kernels as compiled ones."""
    kernels = {name: getattr(module, name) for name in module.KERNELS}
    launchers = {name: _with_kernels(module, kernels, getattr(module, name)) for name in LAUNCHERS}
    with keeping_bfloat16(module), replaced(module, dict.fromkeys(kernels) | launchers):
        yield


def _with_kernels(module: ModuleType, kernels: dict[str, Any], launcher: Callable[..., Any]) -> Callable[..., Any]:
    def launch(*args: Any, **kwargs: Any) -> Any:
        with replaced(module, kernels):
            return launcher(*args, **kwargs)

    return launch
