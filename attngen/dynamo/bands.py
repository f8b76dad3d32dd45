"""Masks that the graph fixes by itself: their values, and the causal mask or window that they are.

A tensor is fixed if it comes from sizes and numbers alone. It is evaluated with the sizes that the graph was made with;
a pattern that must hold for other sizes is compared at several.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from attngen.dynamo.nodes import LAYOUT, Hints, NotLifted, mutates, name_of, value_of

_LARGEST = 1 << 26  # elements of a mask that is still worth evaluating
_FIXED = {
    "ones", "zeros", "full", "arange", "tril", "triu", "eye", "linspace", "ones_like", "zeros_like", "full_like",
    "new_ones", "new_zeros", "new_full", "tensor", "lt", "le", "gt", "ge", "eq", "ne", "and_", "or_", "xor", "invert",
    "logical_not", "logical_and", "logical_or", "bitwise_not", "bitwise_and", "bitwise_or", "add", "sub", "mul", "neg",
    "truediv", "floordiv", "div", "abs", "masked_fill", "where", "to", "bool", "float", "half", "bfloat16", "double",
    "int", "long", "type_as", "view", "reshape", "unsqueeze", "expand", "getitem", "transpose", "t", "getattr", "clone",
    "contiguous", "minimum", "maximum", "clamp", "log", "rsub", "repeat", "permute", "squeeze", "pow", "scalar_tensor",
    "expand_as", "__and__", "__or__", "__invert__", "flip", "outer", "size", "sign",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Band:
    """The query at position p sees the keys p - left to p + right; -1 is without limit."""

    left: int = -1
    right: int = -1
    alignment: str = "upper_left"

    @property
    def everything(self) -> bool:
        return self.left < 0 and self.right < 0

    @property
    def may_be_empty(self) -> bool:
        """Whether a row may see no key at all, for some lengths."""
        return not self.everything and not (self.alignment == "upper_left" and self.left < 0 and self.right >= 0)

    def seen(self, n_q: int, n_k: int) -> Tensor:
        offset = n_k - n_q if self.alignment == "lower_right" else 0
        distance = torch.arange(n_k)[None, :] - torch.arange(n_q)[:, None] - offset
        seen = torch.ones(n_q, n_k, dtype=torch.bool)
        if self.left >= 0:
            seen &= distance >= -self.left
        return seen & (distance <= self.right) if self.right >= 0 else seen


def fixed_value(node: fx.Node, hints: Hints) -> Tensor | None:
    """The node's tensor if it comes from sizes and numbers alone, on the CPU."""
    try:
        value = _evaluated(node, hints, {})
    except NotLifted:
        return None
    except Exception:  # an operation that doesn't take these arguments here: the mask counts as not fixed
        return None
    return value if isinstance(value, Tensor) else None


def _evaluated(node: fx.Node, hints: Hints, done: dict[fx.Node, Any]) -> Any:
    if node in done:
        return done[node]
    value = value_of(node)
    result: Any
    if isinstance(value, int | float | torch.SymInt | torch.SymFloat):
        result = hints.number(value) if not isinstance(value, bool) else value
    elif isinstance(value, torch.Size):
        result = tuple(hints.size(size) for size in value)
    elif name_of(node) in _FIXED and not _too_large(value, hints) and not _changes(node):
        args = fx.map_arg(node.args, lambda n: _evaluated(n, hints, done))
        kwargs = dict(fx.map_arg(node.kwargs, lambda n: _evaluated(n, hints, done)))
        result = _run(node, args, {key: arg for key, arg in kwargs.items() if key != "device"})
    else:
        raise NotLifted("not fixed")
    done[node] = result
    return result


def _too_large(value: Any, hints: Hints) -> bool:
    return isinstance(value, Tensor) and math.prod(hints.shape(value)) > _LARGEST


def _changes(node: fx.Node) -> bool:
    """Whether something writes to the tensor, or to a view of it."""
    return any(mutates(user) or (name_of(user) in LAYOUT and _changes(user)) for user in node.users)


def _run(node: fx.Node, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    args = tuple(arg for arg in args if not isinstance(arg, torch.device))
    with torch.no_grad():
        if node.op == "call_method":
            return getattr(args[0], str(node.target))(*args[1:], **kwargs)
        assert callable(node.target)
        return node.target(*args, **kwargs)


def band_of(seen: Tensor) -> Band | None:
    """The band that a mask (Nq, Nk) is, None if it is none."""
    n_q, n_k = seen.shape
    if bool(seen.all()):
        return Band()
    if not bool(seen.any()):
        return None
    for alignment in ("upper_left", "lower_right"):
        offset = n_k - n_q if alignment == "lower_right" else 0
        places = seen.nonzero()
        distance = places[:, 1] - places[:, 0] - offset
        left, right = -int(distance.min()), int(distance.max())
        left = -1 if left >= n_q - 1 + offset else left
        right = -1 if right >= n_k - 1 - offset else right
        band = Band(left, right, alignment)
        if left >= -1 and right >= -1 and torch.equal(band.seen(n_q, n_k), seen):
            return band
    return None
