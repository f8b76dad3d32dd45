"""Tensors that the graph fixes by itself: those that come from sizes and numbers alone, such as most masks, and from
buffers that are masks.

They are evaluated on the CPU with the sizes that the graph was made with.
"""

import math
from typing import Any

import torch
from torch import Tensor, fx

from attngen.dynamo.buffers import buffer_of
from attngen.dynamo.changes import ancestors, is_changed
from attngen.dynamo.nodes import Hints, NotLifted, name_of, tensor_of, value_of

_LARGEST = 1 << 30  # bytes of a mask that is still worth evaluating; the model itself would make as many
_FIXED = {
    "ones", "zeros", "full", "arange", "tril", "triu", "eye", "linspace", "ones_like", "zeros_like", "full_like",
    "new_ones", "new_zeros", "new_full", "tensor", "lt", "le", "gt", "ge", "eq", "ne", "and_", "or_", "xor", "invert",
    "logical_not", "logical_and", "logical_or", "bitwise_not", "bitwise_and", "bitwise_or", "add", "sub", "mul", "neg",
    "truediv", "floordiv", "div", "abs", "masked_fill", "where", "to", "bool", "float", "half", "bfloat16", "double",
    "int", "long", "type_as", "view", "reshape", "unsqueeze", "expand", "getitem", "transpose", "t", "getattr", "clone",
    "contiguous", "minimum", "maximum", "clamp", "log", "rsub", "repeat", "permute", "squeeze", "pow", "scalar_tensor",
    "expand_as", "__and__", "__or__", "__invert__", "flip", "outer", "size", "sign", "diff", "cumsum", "index_select",
    "flatten", "unflatten", "softplus", "exp", "exp2", "sqrt", "relu", "numel", "dim", "broadcast_to", "stack",
}  # fmt: skip
_LIKE = {"ones_like", "zeros_like", "full_like", "new_ones", "new_zeros", "new_full"}


def is_fixed(node: fx.Node) -> bool:
    """Whether the node's value comes from sizes and numbers alone."""
    value = value_of(node)
    if isinstance(value, bool | int | float | torch.SymInt | torch.SymFloat | torch.Size):
        return True
    made = name_of(node) in _FIXED and all(is_fixed(n) for n in _read(node))
    return (made or buffer_of(node) is not None) and not is_changed(node)


def fixed_value(node: fx.Node, hints: Hints) -> Tensor | None:
    """The node's tensor if it comes from sizes and numbers alone, on the CPU."""
    if not is_fixed(node):
        return None
    try:
        buffers = [n for n in ancestors([node]) if buffer_of(n) is not None]
        least = max(hints.shape(tensor_of(node)), default=0) if buffers else 0
        value = _evaluated(node, hints, {n: buffer_of(n).contents(least) for n in buffers})  # type: ignore[union-attr]
    except NotLifted:
        return None
    except Exception:  # an operation that doesn't take these arguments here: the mask counts as not fixed
        return None
    # A slice of a buffer that is too short for other sizes has another shape than the graph says.
    return value if isinstance(value, Tensor) and tuple(value.shape) == hints.shape(tensor_of(node)) else None


def _evaluated(node: fx.Node, hints: Hints, done: dict[fx.Node, Any]) -> Any:
    if node in done:
        return done[node]
    value = value_of(node)
    result: Any
    if isinstance(value, int | float | torch.SymInt | torch.SymFloat):
        result = hints.number(value) if not isinstance(value, bool) else value
    elif isinstance(value, torch.Size):
        result = tuple(hints.size(size) for size in value)
    elif name_of(node) in _FIXED and not _too_large(value, hints) and not is_changed(node):
        like = _like(node)
        args = tuple(
            _blank(arg, hints) if place == like else fx.map_arg(arg, lambda n: _evaluated(n, hints, done))
            for place, arg in enumerate(node.args)
        )
        kwargs = dict(fx.map_arg(node.kwargs, lambda n: _evaluated(n, hints, done)))
        result = _run(node, args, {key: arg for key, arg in kwargs.items() if key != "device"})
    else:
        raise NotLifted("not fixed")
    done[node] = result
    return result


def _like(node: fx.Node) -> int | None:
    """The place of the operand that gives type and size alone, as in `q.new_ones(n, n)` and `mask.type_as(q)`."""
    place = 1 if name_of(node) in ("to", "type_as") else 0 if name_of(node) in _LIKE else len(node.args)
    operand = node.args[place] if place < len(node.args) else None
    return place if isinstance(operand, fx.Node) and isinstance(value_of(operand), Tensor) else None


def _read(node: fx.Node) -> list[fx.Node]:
    """The nodes whose values it reads, and not only their sizes."""
    found: list[fx.Node] = []
    kept = [arg for place, arg in enumerate(node.args) if place != _like(node)]
    fx.map_arg((kept, node.kwargs), found.append)
    return found


def _blank(arg: Any, hints: Hints) -> Tensor:
    tensor = tensor_of(arg)
    return torch.zeros(hints.shape(tensor), dtype=tensor.dtype)


def _too_large(value: Any, hints: Hints) -> bool:
    return isinstance(value, Tensor) and math.prod(hints.shape(value)) * value.element_size() > _LARGEST


def _run(node: fx.Node, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    args = tuple(arg for arg in args if not isinstance(arg, torch.device))
    with torch.no_grad():
        if node.op == "call_method":
            return getattr(args[0], str(node.target))(*args[1:], **kwargs)
        assert callable(node.target)
        return node.target(*args, **kwargs)
