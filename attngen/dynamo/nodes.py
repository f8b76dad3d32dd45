"""Reading single nodes of Dynamo's graph: what they are called, the values they stood for when the graph was made, and
sizes as numbers. It changes nothing.
"""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx

IN_PLACE_OPERATORS = {"iadd", "isub", "imul", "itruediv", "ipow", "imatmul", "iand", "ior", "ixor", "setitem"}
MODES = {"_set_grad_enabled", "_enter_autocast", "_exit_autocast", "set_grad_enabled"}
LAYOUT = {
    "view", "reshape", "transpose", "permute", "contiguous", "clone", "expand", "expand_as", "unsqueeze", "squeeze",
    "flatten", "unflatten", "to", "float", "half", "bfloat16", "double", "type_as", "getattr", "getitem", "swapaxes",
    "t", "view_as", "movedim", "chunk", "split", "unbind", "repeat_interleave", "size",
}  # fmt: skip
# What the Dynamo of torch 2.11 makes of `x == 0` and `abs(x)`; later ones have a function there.
_METHODS = {"__eq__": "eq", "__abs__": "abs"}


class NotLifted(Exception):
    """This place of the graph stays as it was; the message says why."""


class NotAttention(NotLifted):
    """This place doesn't even look like attention, so that no report mentions it."""


def name_of(node: fx.Node) -> str:
    """The name "matmul" for torch.matmul, operator.matmul and Tensor.matmul alike; empty for inputs and outputs."""
    if node.op == "call_method":
        return _METHODS.get(str(node.target), str(node.target))
    return str(getattr(node.target, "__name__", "")) if node.op == "call_function" else ""


def value_of(node: Any) -> Any:
    """The fake tensor, or the number, that stands for the node's result."""
    if not isinstance(node, fx.Node):
        return node
    return node.meta.get("example_value", node.meta.get("val"))


def tensor_of(node: Any) -> Tensor:
    value = value_of(node)
    if not isinstance(value, Tensor):
        raise NotLifted(f"{node} is not a tensor")
    return value


def is_parameter(node: fx.Node) -> bool:
    """Whether the node is a module's parameter, or a view of one."""
    while name_of(node) in LAYOUT and node.args and isinstance(node.args[0], fx.Node):
        node = node.args[0]
    return isinstance(value_of(node), torch.nn.Parameter)


def is_zero(number: Any) -> bool:
    """Whether a number is zero; torch.compile makes a guard of it where the graph gets the number as an input."""
    return bool(value_of(number) == 0)


def mutates(node: fx.Node) -> bool:
    """Whether the node may change a tensor that exists already."""
    name = name_of(node)
    named = name.endswith("_") and not name.endswith("__") and name not in ("and_", "or_", "not_", "is_")
    in_place = named or name in IN_PLACE_OPERATORS
    return in_place or bool(node.kwargs.get("inplace")) or "out" in node.kwargs or _is_mutable(node.target)


def _is_mutable(target: object) -> bool:
    """Whether an op says so itself, as those that users define do; of several overloads, any."""
    if isinstance(target, torch._ops.OpOverload):
        return bool(target._schema.is_mutable)
    if isinstance(target, torch._ops.OpOverloadPacket):
        names: list[str] = target.overloads()  # type: ignore[no-untyped-call]
        return any(getattr(target, name)._schema.is_mutable for name in names if name != "out")
    if isinstance(target, torch._library.custom_ops.CustomOpDef):
        return bool(target._opoverload._schema.is_mutable)
    return False


def place_of(node: fx.Node) -> str:
    """file:line of the model's own code that the node came from."""
    trace = node.stack_trace or ""
    lines = [line.strip() for line in trace.splitlines() if line.strip().startswith("File ")]
    if not lines:
        return node.name
    parts = lines[-1].split('"')
    return f"{parts[1]}:{parts[2].split('line ')[1].split(',')[0].strip()}"


_PRIMES = (2, 3, 5, 7, 11, 13)


@dataclass(frozen=True, slots=True)
class Hints:
    """Symbolic sizes as numbers: those that the graph was made with, or, for comparison, a multiple of each.

    Each symbol has a multiple of its own, so that sizes which are equal by chance become different.
    """

    others: bool = False
    factors: dict[Any, int] = field(default_factory=dict)

    def size(self, value: Any) -> int:
        return int(self.number(value))

    def number(self, value: Any) -> int | float:
        if not isinstance(value, torch.SymInt | torch.SymFloat):
            return value  # type: ignore[no-any-return]
        expr, shapes = value.node.expr, value.node.shape_env
        hint = getattr(shapes, "guarding_hint_or_throw", None) or shapes.size_hint
        try:
            known = expr.subs({symbol: int(hint(symbol)) * self._factor(symbol) for symbol in expr.free_symbols})
        except Exception as error:
            raise NotLifted("a size that depends on data") from error
        return int(known) if isinstance(value, torch.SymInt) else float(known)

    def _factor(self, symbol: Any) -> int:
        if not self.others:
            return 1
        return self.factors.setdefault(symbol, _PRIMES[len(self.factors) % len(_PRIMES)])

    def shape(self, tensor: Tensor) -> tuple[int, ...]:
        return tuple(self.size(size) for size in tensor.shape)


def is_symbolic(value: Any) -> bool:
    return isinstance(value, torch.SymInt | torch.SymFloat) and not value.node.is_constant()
