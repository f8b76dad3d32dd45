"""Registered buffers that are masks of positions, such as a model's `tril` of all lengths: found, and held to stay so.

A graph takes a buffer as an input. Its contents at hand are read when the graph is compiled, and where a fused place
counts on them a guard does so before every call: other contents compile the graph anew. The guard looks at the tensor's
version, which every change counts up but one through `.data` or another library's view of the memory, and only after a
change at the contents. A buffer that has changed once is an input like any other from then on.
"""

import weakref
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx
from torch._dynamo import config
from torch._dynamo.guards import GuardManagerType
from torch._guards import Guard, TracingContext

from attngen.dynamo.bands import Diagonals, diagonals_of
from attngen.dynamo.changes import ancestors, is_changed

_META = "attngen_buffer"
_MOST_KNOWN = 1000
_CHANGED: set[int] = set()  # ids of living buffers that are no constants


@dataclass(slots=True)
class Buffer:
    """Contents (1, ..., rows, keys): one value on a range of diagonals, another one elsewhere."""

    shape: torch.Size
    dtype: torch.dtype
    diagonals: Diagonals
    inside: float
    outside: float
    guarded: bool = False
    known: dict[int, tuple[Any, int, int]] = field(default_factory=dict)  # tensors that have been found to be so

    def contents(self, least: int = 0, device: Any = "cpu") -> Tensor:
        """The buffer, or one of the same pattern with at least so many rows and keys."""
        *lead, rows, keys = self.shape
        more = max(least - min(rows, keys), 0)
        distance = torch.arange(keys + more, device=device) - torch.arange(rows + more, device=device)[:, None]
        shown = torch.ones_like(distance, dtype=torch.bool)
        shown &= True if self.diagonals.low is None else distance >= self.diagonals.low
        shown &= True if self.diagonals.high is None else distance <= self.diagonals.high
        values = torch.where(shown, self.inside, self.outside).to(self.dtype)
        return values.reshape(*lead, rows + more, keys + more)

    def holds(self, tensor: Any) -> bool:
        """Whether the tensor has these contents. It is a guard, which must not raise."""
        try:
            stamp = (tensor._version, tensor.data_ptr())
            seen = self.known.get(id(tensor))
            if seen is not None and seen[0]() is tensor and seen[1:] == stamp:
                return True
            with torch.no_grad():
                same = tensor.shape == self.shape and torch.equal(tensor, self.contents(device=tensor.device))
            if same:
                if len(self.known) >= _MOST_KNOWN:
                    self.known.clear()
                self.known[id(tensor)] = (weakref.ref(tensor), *stamp)
            elif seen is not None and seen[0]() is tensor:
                _CHANGED.add(id(tensor))
                weakref.finalize(tensor, _CHANGED.discard, id(tensor))
        except Exception:
            return False
        return bool(same)


def mark_buffers(module: fx.GraphModule, inputs: Sequence[Any]) -> None:
    """Note at the graph's inputs which are such buffers; `inputs` are the tensors that it is compiled for."""
    if not config.guard_nn_modules:
        return
    placeholders = [node for node in module.graph.nodes if node.op == "placeholder"]
    tensors = [(node, x) for node, x in zip(placeholders, inputs, strict=False) if type(x) is Tensor]
    changed = {x.untyped_storage().data_ptr() for node, x in tensors if is_changed(node)}
    for node, tensor in tensors:
        if not _is_buffer(node) or id(tensor) in _CHANGED or tensor.untyped_storage().data_ptr() in changed:
            continue
        buffer = _read(tensor)
        if buffer is not None:
            node.meta[_META] = buffer


def buffer_of(node: fx.Node) -> Buffer | None:
    found: Buffer | None = node.meta.get(_META)
    return found


def count_on(nodes: Iterable[fx.Node]) -> None:
    """Guard the contents of all marked buffers that the nodes are made of."""
    for node in ancestors(nodes):
        buffer = buffer_of(node)
        if buffer is not None and not buffer.guarded:
            buffer.guarded = True
            guard = Guard(node.meta["grapharg"].source, _guard(buffer))
            TracingContext.get().guards_context.dynamo_guards.add(guard)


def _guard(buffer: Buffer) -> Callable[[Any, Guard], None]:
    def keeps_its_contents(builder: Any, guard: Guard) -> None:
        """A guard of what is read from the tensor. Those of the tensor itself are skipped while the dictionaries on the
        way to it are the same, and its contents are none of their business.
        """
        held = builder.get_guard_manager(guard).lambda_manager(
            buffer.holds, f"{guard.name} is the mask that it was", True, GuardManagerType.GUARD_MANAGER
        )
        code = ["attngen: a mask among the buffers has the contents that the graph was compiled for"]
        held.add_lambda_guard(bool, code, guard.user_stack)

    return keeps_its_contents


def _is_buffer(node: fx.Node) -> bool:
    source = getattr(node.meta.get("grapharg"), "source", None)
    return getattr(getattr(source, "base", None), "member", "") == "_buffers"


def _read(tensor: Tensor) -> Buffer | None:
    plain = tensor.layout == torch.strided and not tensor.is_inference() and not tensor.requires_grad
    if not plain or tensor.dim() < 2 or tensor.numel() != tensor[(0,) * (tensor.dim() - 2)].numel():
        return None
    values = tensor.detach().reshape(tensor.shape[-2:]).cpu()
    if min(values.shape) < 2 or values.is_complex():
        return None
    found = _pattern(values)
    return None if found is None else Buffer(tensor.shape, tensor.dtype, *found)


def _pattern(values: Tensor) -> tuple[Diagonals, float, float] | None:
    """The diagonals, and the values on and off them, of a tensor of two values."""
    numbers = values.double()
    low, high = numbers.min().item(), numbers.max().item()
    if low == high or not bool(((numbers == low) | (numbers == high)).all()):
        return None
    for inside, outside in ((high, low), (low, high)):
        for diagonals in diagonals_of(numbers == inside):
            if diagonals.alignment == "upper_left":
                return diagonals, inside, outside
    return None
