"""Whether something between two nodes of a graph would be read too late: a tensor that is changed in place, or a mode.

A change counts as harmless only if it goes to memory that a node of the graph has made, and nothing that is read comes
from there.
"""

from collections.abc import Iterable

import torch
from torch import fx

from attngen.dynamo.nodes import IN_PLACE_OPERATORS, LAYOUT, MODES, NotLifted, mutates, name_of

_NEW = {
    "zeros", "ones", "empty", "full", "zeros_like", "ones_like", "empty_like", "full_like", "new_zeros", "new_ones",
    "new_empty", "new_full", "clone", "add", "sub", "mul", "matmul", "linear", "embedding", "bmm", "mm",
    "addmm", "baddbmm", "grouped_mm", "_grouped_mm", "div", "truediv", "softmax", "cat", "stack", "cumsum",
}  # fmt: skip


def in_order(nodes: Iterable[fx.Node]) -> tuple[fx.Node, ...]:
    """Nodes of one graph in its order."""
    return tuple(sorted(nodes))


def check_unchanged(bounds: tuple[fx.Node, fx.Node], readers: Iterable[fx.Node], *, modes: bool) -> None:
    """Raise NotLifted if what the readers read is changed between two nodes, or, if they matter, the modes."""
    node, last = bounds[0].next, bounds[1]
    between = []
    while node is not last:
        between.append(node)
        node = node.next
    changes = [node for node in between if mutates(node)]
    if changes:
        sources = ancestors(readers)
        for change in changes:
            if not _elsewhere(change, sources):
                raise NotLifted(f"'{change}' ({name_of(change)}) changes a tensor in place")
    if modes and any(name_of(node) in MODES for node in between):
        raise NotLifted("the gradient or autocast mode changes in between")


def changed_later(node: fx.Node, after: fx.Node) -> bool:
    """Whether something behind `after` may write to the node's memory, which a backward may still read."""
    later = after
    while (later := later.next).op != "output":
        if mutates(later) and node in _owners(later):
            return True
    return False


def _owners(change: fx.Node) -> set[fx.Node]:
    """The nodes whose memory the change may go to."""
    name = name_of(change)
    in_place = change.args and "out" not in change.kwargs and (name.endswith("_") or name in IN_PLACE_OPERATORS)
    todo = [n for n in change.args[:1] if isinstance(n, fx.Node)] if in_place else list(change.all_input_nodes)
    found = set(todo)
    while todo:
        node = todo.pop()
        above = [] if _makes_new(node) else [n for n in node.all_input_nodes if n not in found]
        found.update(above)
        todo += above
    return found


def is_changed(node: fx.Node) -> bool:
    """Whether something writes to the tensor, or to a view of it."""
    return any(mutates(user) or (name_of(user) in LAYOUT and is_changed(user)) for user in node.users)


def ancestors(nodes: Iterable[fx.Node]) -> set[fx.Node]:
    """All that the nodes come from, themselves included."""
    found = set(nodes)
    todo = list(found)
    while todo:
        new = [n for n in todo.pop().all_input_nodes if n not in found]
        found.update(new)
        todo += new
    return found


def _elsewhere(change: fx.Node, sources: set[fx.Node]) -> bool:
    """Whether the change goes to memory that none of the sources is made of."""
    if "out" in change.kwargs or not change.args:
        return False
    target = change.args[0]
    while isinstance(target, fx.Node) and (name_of(target) in LAYOUT - {"clone"} or mutates(target)) and target.args:
        target = target.args[0]
    return isinstance(target, fx.Node) and _makes_new(target) and target not in sources


def _makes_new(node: fx.Node) -> bool:
    """Whether the node's result lies in memory of its own."""
    op = node.target.default if isinstance(node.target, torch._ops.OpOverloadPacket) else node.target
    if isinstance(op, torch._ops.OpOverload):
        return all(result.alias_info is None for result in op._schema.returns)
    return name_of(node) in _NEW
