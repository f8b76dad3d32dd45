"""Leaves that are spread out from smaller tensors, such as a mask made of padding and positions: what spreads them
moves into the region, so that the op reads the smaller tensors.

A region that nothing can be moved into is handed back as None. Whether the larger region can be lifted is asked
elsewhere; the smaller one remains for the case that it can't.
"""

import dataclasses

import torch
from torch import Tensor, fx

from attngen.dynamo.changes import check_unchanged, in_order
from attngen.dynamo.fixed import is_fixed
from attngen.dynamo.nodes import Hints, NotLifted, name_of, value_of
from attngen.dynamo.region import Region

VIEWS = {
    "view", "reshape", "transpose", "permute", "contiguous", "clone", "expand", "expand_as", "unsqueeze", "squeeze",
    "flatten", "unflatten", "swapaxes", "t", "view_as", "movedim", "broadcast_to",
}  # fmt: skip
_CASTS = {"to", "float", "half", "bfloat16", "double", "type_as", "bool"}
_SPREADING = VIEWS | _CASTS | {"where", "masked_fill"}  # those of fixed tensors; other arithmetic stays evaluated
_POINTWISE = {
    "add", "sub", "mul", "truediv", "div", "neg", "abs", "exp", "log", "sigmoid", "softplus", "tanh", "relu", "sqrt",
    "pow", "rsub", "invert", "logical_not", "logical_and", "logical_or", "and_", "or_", "bitwise_and", "bitwise_or",
    "bitwise_not", "lt", "le", "gt", "ge", "eq", "ne", "detach", "log1p", "square", "minimum", "maximum", "clamp",
}  # fmt: skip
_MOST_NODES = 40


def absorb(region: Region) -> Region | None:
    """The region with more nodes, and leaves of fewer numbers; None where nothing is gained."""
    above: dict[fx.Node, None] = {}
    leaves: dict[fx.Node, None] = {}
    for leaf in region.leaves:
        nodes, sources = _spread(leaf)
        if not nodes or not _unchanged(nodes, region.end, sources):
            nodes, sources = [], [leaf]
        above |= dict.fromkeys(nodes)
        leaves |= dict.fromkeys(sources)
    if not above or len(above) > _MOST_NODES:
        return None
    return dataclasses.replace(
        region, above=in_order(above), leaves=tuple(leaf for leaf in leaves if leaf not in above)
    )


def _unchanged(nodes: list[fx.Node], end: fx.Node, sources: list[fx.Node]) -> bool:
    """Whether the tensors that the leaf is made of are at the region's end what they were."""
    try:
        # Neither the gradient mode nor autocast's changes what a tensor without gradients is made of.
        modes = any(_learnt(source) for source in sources)
        check_unchanged((in_order(nodes)[0], end), nodes, modes=modes)
    except NotLifted:
        return False
    return True


def _spread(leaf: fx.Node) -> tuple[list[fx.Node], list[fx.Node]]:
    """The nodes that make the leaf of smaller tensors, and these; none, and the leaf, if no smaller ones make it."""
    nodes: list[fx.Node] = []
    sources: list[fx.Node] = []
    todo, seen = [leaf], {leaf}
    while todo:
        node = todo.pop(0)
        (nodes if _moves(node) else sources).append(node)
        above = [n for n in node.all_input_nodes if n not in seen] if nodes and nodes[-1] is node else []
        seen.update(above)
        todo += above
    size = _numbers(leaf)
    if all(_numbers(source) < size for source in sources):
        return nodes, sources
    return [], [leaf]


def _numbers(node: fx.Node) -> int:
    """How many numbers the op would read. Fixed ones count less: as a rule positions say them."""
    value = value_of(node)
    count = torch.Size(Hints().shape(value)).numel() if isinstance(value, Tensor) else 0
    return count // 2 if is_fixed(node) else count


def _learnt(node: fx.Node) -> bool:
    value = value_of(node)
    return isinstance(value, Tensor) and value.requires_grad


def _moves(node: fx.Node) -> bool:
    """Whether the node may be part of the region."""
    name, value = name_of(node), value_of(node)
    if not isinstance(value, Tensor) or value.dim() < 1:
        return False
    if name == "getitem":
        return only_views(node.args[1])
    if is_fixed(node):
        return name in _SPREADING and not (value.dtype == torch.bool and name not in VIEWS)
    return (name in _SPREADING or name in _POINTWISE) and _exact(node)


def _exact(node: fx.Node) -> bool:
    """Whether its operands are such that numbers in floating point say the same."""
    values = [value_of(n) for n in node.all_input_nodes if not is_fixed(n)]
    return all(x.is_floating_point() or x.dtype == torch.bool for x in values if isinstance(x, Tensor))


def only_views(index: object) -> bool:
    """Whether an index adds axes, and takes nothing away."""
    places = index if isinstance(index, tuple) else (index,)
    return all(place is None or place is Ellipsis or place == slice(None) for place in places)
