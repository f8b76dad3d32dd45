"""Finding the places of Dynamo's graph that look like attention: two contractions, and all that lies between.

A region is cut out so that nothing but its end is read from outside, and nothing in between changes a tensor. What it
computes is not asked here.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from torch import fx

from attngen.dynamo.changes import check_unchanged, in_order
from attngen.dynamo.contraction import added, is_contraction, operands, read
from attngen.dynamo.nodes import LAYOUT, NotAttention, NotLifted, is_zero, mutates, name_of
from attngen.dynamo.own import check_certain, own_changes

_BARRIERS = {"linear", "conv1d", "conv2d", "embedding", "scaled_dot_product_attention"}
_TAIL = {"truediv", "div", "divide", "true_divide", "mul", "multiply", "itruediv", "div_", "imul", "mul_"}
_TAIL_STEPS = 6  # nodes behind the second contraction among which a late normalization is looked for


@dataclass(frozen=True, slots=True)
class Region:
    """`nodes` from `scores`, the first contraction, to `end`, in the graph's order; `leaves` are read from outside.

    The nodes `above` make tensors for the region of its leaves; others may use them too.
    """

    scores: fx.Node
    second: fx.Node
    weights: fx.Node
    value: fx.Node
    end: fx.Node
    nodes: tuple[fx.Node, ...]
    leaves: tuple[fx.Node, ...]
    above: tuple[fx.Node, ...] = ()

    @property
    def all_nodes(self) -> tuple[fx.Node, ...]:
        return self.above + self.nodes


def candidates(second: fx.Node) -> Iterator[tuple[fx.Node, fx.Node, fx.Node]]:
    """(first contraction, weights, value) for every way in which `second` may be attention's second product."""
    tensors = operands(second)
    if len(tensors) != 2 or added(second) is not None:
        return
    for weights, value in (tensors, tensors[::-1]):
        for scores in _first_contractions(weights):
            yield scores, weights, value


def _first_contractions(weights: fx.Node) -> Iterator[fx.Node]:
    """Contractions above, nearest first, that no other one hides."""
    todo, seen = [weights], {weights}
    while todo:
        node = todo.pop(0)
        if is_contraction(node):
            yield node
        elif name_of(node) not in _BARRIERS:
            above = [n for n in node.all_input_nodes if n not in seen]
            seen.update(above)
            todo += above


def cut(second: fx.Node, scores: fx.Node, weights: fx.Node, value: fx.Node) -> Region:
    """The region between two contractions. Raises NotLifted where something else reads or changes its tensors."""
    if read(scores).by_one_matrix and read(second).by_one_matrix:
        raise NotAttention("two layers")
    order = {node: position for position, node in enumerate(second.graph.nodes)}
    below = _below(scores, order)
    if value in below:
        raise NotAttention("the values depend on the scores")
    end = _end(second, below)
    inside, changes = _inside((scores, end), below)
    nodes = in_order(inside)
    if all(name_of(node) in LAYOUT or node in (scores, second) for node in nodes):
        raise NotAttention("nothing between two products")
    _check(nodes, end)
    check_certain(changes, nodes)
    check_unchanged((scores, end), nodes, modes=True, harmless=changes)
    kept = {scores, second}
    leaves = dict.fromkeys(n for node in nodes if node not in kept for n in node.all_input_nodes if n not in inside)
    more = added(scores)
    if more is not None:
        leaves[more] = None
    return Region(scores, second, weights, value, end, nodes, tuple(leaves))


def _below(scores: fx.Node, order: dict[fx.Node, int]) -> set[fx.Node]:
    """All that depends on the scores."""
    below = {scores}
    for node in list(order)[order[scores] :]:
        if any(n in below for n in node.all_input_nodes):
            below.add(node)
    return below


def _inside(bounds: tuple[fx.Node, fx.Node], below: set[fx.Node]) -> tuple[set[fx.Node], set[fx.Node]]:
    """What the end needs, changes in place of it included; and these changes."""
    first, end = bounds
    between = [node for node in end.graph.nodes if first < node <= end]
    inside = _above(end, below)
    while True:
        changes = own_changes(between, below, inside)
        if changes <= inside:
            return inside, changes
        for change in changes:
            inside |= _above(change, below)


def _above(end: fx.Node, below: set[fx.Node]) -> set[fx.Node]:
    """What `end` needs of it."""
    found, todo = {end}, [end]
    while todo:
        new = [n for n in todo.pop().all_input_nodes if n in below and n not in found]
        found.update(new)
        todo += new
    return found


def _end(second: fx.Node, below: set[fx.Node]) -> fx.Node:
    """`second`, or the product or quotient behind it that still uses the scores: a normalization that comes late."""
    end, node = second, second
    for _ in range(_TAIL_STEPS):
        users = list(node.users)
        if len(users) != 1 or not (name_of(users[0]) in _TAIL or name_of(users[0]) in LAYOUT):
            break
        others = [n for n in users[0].all_input_nodes if n is not node and n in below]
        node = users[0]
        if others and name_of(node) in _TAIL:
            end = node
    return end


def _check(nodes: tuple[fx.Node, ...], end: fx.Node) -> None:
    inside = set(nodes)
    if any(is_contraction(node) or name_of(node) in _BARRIERS for node in nodes[1:] if not _is_second(node, nodes)):
        raise NotAttention("another product in between")
    for node in nodes:
        outside = [user for user in node.users if user not in inside]
        if node is not end and any(mutates(user) for user in outside):
            raise NotLifted(f"'{node}' ({name_of(node)}) is changed in place")
        if node is not end and outside:
            raise NotLifted(f"'{node}' ({name_of(node)}) is used elsewhere")
        if name_of(node) == "dropout" and _drops(node):
            raise NotLifted("dropout in training")


def _is_second(node: fx.Node, nodes: tuple[fx.Node, ...]) -> bool:
    contractions = [n for n in nodes if is_contraction(n)]
    return len(contractions) == 2 and node is contractions[1]


def _drops(node: fx.Node) -> bool:
    names = ("input", "p", "training", "inplace")
    given = {**dict(zip(names, node.args, strict=False)), **node.kwargs}
    return bool(given.get("training", True)) and not is_zero(given.get("p", 0.5))
