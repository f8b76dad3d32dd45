"""ATen's operations that move elements and don't change them, as changes of a tensor's dimensions."""

from typing import Any

from torch import fx

from attngen.dynamo.layout import Dims, Layout
from attngen.dynamo.nodes import NotLifted

_VIEWS = {"view", "_unsafe_view", "reshape"}


def moved(name: str, node: fx.Node, dims: Dims, layout: Layout) -> Dims:
    """The dimensions behind the operation. Raises NotLifted for operations that are none of these."""
    sizes = tuple(node.meta["val"].shape) if hasattr(node.meta.get("val"), "shape") else ()
    args: tuple[Any, ...] = node.args[1:]
    rank = len(dims)
    match name:
        case _ if name in _VIEWS:
            return layout.reshape(dims, sizes)
        case "permute":
            return tuple(dims[axis] for axis in args[0])
        case "transpose" | "t" | "swapaxes":
            return _swapped(dims, *(args or (0, 1)))
        case "unsqueeze":
            place = args[0] % (rank + 1)
            return (*dims[:place], (), *dims[place:])
        case "squeeze":
            gone = {axis % rank for axis in (_several(args[0]) if args else range(rank))}
            return tuple(dim for place, dim in enumerate(dims) if place not in gone or dim)
        case "expand":
            padded = ((),) * (len(sizes) - rank) + dims
            return tuple(dim if dim else free for dim, free in zip(padded, layout.fresh(sizes), strict=True))
        case "slice" if sizes == tuple(node.all_input_nodes[0].meta["val"].shape):
            return dims
        case "slice" | "select" | "index":
            raise NotLifted(f"only a part of the scores, or of what belongs to them, is used ({name})")
    raise NotLifted(f"{name} has no formula")


def _swapped(dims: Dims, first: int, second: int) -> Dims:
    order = list(dims)
    if len(dims) > 1:
        order[first], order[second] = order[second], order[first]
    return tuple(order)


def _several(axes: Any) -> tuple[int, ...]:
    return (axes,) if isinstance(axes, int) else tuple(axes)
