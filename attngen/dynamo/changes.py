"""Whether something between two nodes of a graph would be read too late: a tensor that is changed in place, or a mode.

A change counts as harmless only if it goes to memory that a node of the graph has made, and nothing that is read comes
from there.
"""

from collections.abc import Iterable, Sequence, Set

import torch
from torch import fx

from attngen.dynamo.nodes import IN_PLACE_OPERATORS, LAYOUT, MODES, NotLifted, mutates, name_of

_NEW = {
    "zeros", "ones", "empty", "full", "zeros_like", "ones_like", "empty_like", "full_like", "new_zeros", "new_ones",
    "new_empty", "new_full", "clone", "add", "sub", "mul", "matmul", "linear", "embedding", "bmm", "mm",
    "addmm", "baddbmm", "grouped_mm", "_grouped_mm", "div", "truediv", "softmax", "cat", "stack", "cumsum", "where",
    "exp", "sigmoid", "tanh", "relu", "silu", "gelu", "softplus", "log", "sqrt", "square", "abs", "neg", "pow", "sum",
    "mean", "amax", "amin", "logsumexp", "masked_fill", "normalize", "__matmul__", "linalg_matmul", "log_softmax",
    "tril", "triu", "eye",
}  # fmt: skip


def in_order(nodes: Iterable[fx.Node]) -> tuple[fx.Node, ...]:
    """Nodes of one graph in its order."""
    return tuple(sorted(nodes))


def check_unchanged(
    bounds: tuple[fx.Node, fx.Node], readers: Sequence[fx.Node], *, modes: bool, harmless: Set[fx.Node] = frozenset()
) -> None:
    """Raise NotLifted if what the readers read is changed between two nodes, or, if they matter, the modes."""
    node, last = bounds[0].next, bounds[1]
    between = []
    while node is not last:
        between.append(node)
        node = node.next
    # What is read only after a change is read as it was meant, too, if it is read later still.
    for change in (node for node in between if mutates(node) and node not in harmless):
        if not _elsewhere(change, ancestors(reader for reader in readers if reader < change)):
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
    todo = _targets(change)
    found = set(todo)
    while todo:
        node = todo.pop()
        above = [] if makes_new(node) else [n for n in node.all_input_nodes if n not in found]
        found.update(above)
        todo += above
    return found


def is_changed(node: fx.Node) -> bool:
    """Whether something writes to the tensor, or to a view of it."""
    return any(node in _targets(user) or (name_of(user) in LAYOUT and is_changed(user)) for user in node.users)


def _targets(node: fx.Node) -> list[fx.Node]:
    """The operands that the node may change."""
    name = name_of(node)
    in_place = node.args and "out" not in node.kwargs and (name.endswith("_") or name in IN_PLACE_OPERATORS)
    if not mutates(node):
        return []
    return [n for n in node.args[:1] if isinstance(n, fx.Node)] if in_place else list(node.all_input_nodes)


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
    return isinstance(target, fx.Node) and makes_new(target) and target not in sources


def makes_new(node: fx.Node) -> bool:
    """Whether the node's result lies in memory of its own."""
    if mutates(node):
        return False
    op = node.target.default if isinstance(node.target, torch._ops.OpOverloadPacket) else node.target
    if isinstance(op, torch._ops.OpOverload):
        return all(result.alias_info is None for result in op._schema.returns)
    return name_of(node) in _NEW
