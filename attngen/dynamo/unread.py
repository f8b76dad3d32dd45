"""Softmaxes that stand between two products and that no region has taken: they look like attention, and so a report
says that they were left. Other functions between products are as often layers, and are not looked for.
"""

from collections.abc import Callable, Iterable, Iterator

import torch
from torch import Tensor, fx

from attngen.dynamo.contraction import CONTRACTIONS
from attngen.dynamo.nodes import Hints, name_of, value_of

_PRODUCTS = CONTRACTIONS | {"linear", "tensordot", "inner", "conv1d", "conv2d", "conv3d"}


def unread(graph: fx.Graph) -> Iterator[tuple[fx.Node, str]]:
    """The second product behind each such softmax, and which two products they are."""
    for node in graph.nodes:
        if name_of(node) == "softmax" and node.users:
            first = _nearest(node, lambda n: n.all_input_nodes)
            second = _nearest(node, lambda n: n.users)
            if first is not None and second is not None:
                pair = " and ".join(f"'{product}' ({name_of(product)})" for product in (first, second))
                yield second, f"softmax between {pair}, which aren't read as attention's products"


def _nearest(start: fx.Node, following: Callable[[fx.Node], Iterable[fx.Node]]) -> fx.Node | None:
    """The first product in a direction, with as many numbers on the way as the softmax has."""
    todo, seen = [start], {start}
    while todo:
        node = todo.pop(0)
        for other in following(node):
            if name_of(other) in _PRODUCTS:
                return other
            if other not in seen and _numbers(other) == _numbers(start):
                seen.add(other)
                todo.append(other)
    return None


def _numbers(node: fx.Node) -> int:
    value = value_of(node)
    return torch.Size(Hints().shape(value)).numel() if isinstance(value, Tensor) else -1
