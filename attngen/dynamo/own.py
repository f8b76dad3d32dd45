"""Changes in place that stay within a region: of tensors that it has made itself, so that nobody else sees them.

A region with such changes computes what it would compute with new tensors in the changed ones' place. That is said only
where it is certain which tensors share memory: a change is refused as soon as a view may or may not be a copy.
"""

from collections.abc import Iterable, Iterator

import torch
from torch import fx

from attngen.dynamo.changes import makes_new
from attngen.dynamo.nodes import LAYOUT, NotLifted, mutates, name_of, value_of

_TRANSPOSED = {"T", "mT", "H", "mH"}
_VIEWS = {"view", "transpose", "permute", "expand", "unsqueeze", "squeeze", "unflatten", "swapaxes", "t", "movedim"}
_PERHAPS = LAYOUT - _VIEWS | {"dropout"}  # views of some tensors, and copies of others


def own_changes(between: Iterable[fx.Node], below: set[fx.Node], inside: set[fx.Node]) -> set[fx.Node]:
    """The changes among the nodes whose memory one of `inside`, and nothing from outside, has made."""
    found: set[fx.Node] = set()
    for node in between:
        if mutates(node) and node in below:
            owners = list(_owners(node))
            if owners and makes_new(owners[-1]) and owners[-1] in inside:
                found.add(node)
    return found


def check_certain(changes: set[fx.Node], nodes: Iterable[fx.Node]) -> None:
    """Raise NotLifted if a node changes other memory, or if it isn't sure who sees a change."""
    for change in (node for node in nodes if mutates(node)):
        if change not in changes:
            raise NotLifted(f"'{change}' ({name_of(change)}) changes a tensor in place")
        chain, single = [change, *_owners(change)], False
        for node in chain[1:]:
            aliases = [user for user in node.users if not makes_new(user) and user < change and user not in chain]
            if aliases or (single and len(node.users) > 1):
                raise NotLifted(f"'{change}' ({name_of(change)}) changes a tensor in place that has several names")
            single |= name_of(node) in _PERHAPS and not mutates(node) and not makes_new(node)


def _owners(change: fx.Node) -> Iterator[fx.Node]:
    """The changed tensor and those that it is a view of, up to one that has memory of its own if that is known."""
    node = change
    while True:
        given = _changed_tensor(node) if mutates(node) else _viewed(node)
        if given is None:
            return
        node = given
        yield node
        if makes_new(node):
            return


def _changed_tensor(change: fx.Node) -> fx.Node | None:
    target = change.kwargs.get("out", change.args[0] if change.args else None)
    return target if isinstance(target, fx.Node) else None


def _viewed(node: fx.Node) -> fx.Node | None:
    """The tensor that the node is a view of, or may be."""
    known = name_of(node) in _VIEWS | _PERHAPS and (name_of(node) != "getattr" or node.args[1] in _TRANSPOSED)
    source = node.args[0] if known and node.args else None
    return source if isinstance(source, fx.Node) and isinstance(value_of(source), torch.Tensor) else None
