"""Checks that have been made before: layers of a model are alike, and what held for one holds for the next.

A verdict is kept under everything that the checks look at. Nothing is kept on disk.
"""

from collections.abc import Callable
from typing import Any

from attngen.dynamo.lifted import Lifted
from attngen.dynamo.nodes import NotLifted
from attngen.dynamo.versions import Version

Op = Callable[..., Any]
_MOST = 1000
_VERDICTS: dict[object, Op | NotLifted] = {}


def remembered(version: Version, lifted: Lifted, empty_rows: bool, check: Callable[[], Op]) -> Op:
    """What `check` returned or raised for the same formula and operations before, or does now."""
    key = _key(version, lifted, empty_rows)
    if key is None:
        return check()
    if key not in _VERDICTS:
        if len(_VERDICTS) >= _MOST:
            _VERDICTS.clear()
        try:
            _VERDICTS[key] = check()
        except NotLifted as reason:
            _VERDICTS[key] = NotLifted(*reason.args)
    verdict = _VERDICTS[key]
    if isinstance(verdict, NotLifted):
        raise NotLifted(*verdict.args)
    return verdict


def _key(version: Version, lifted: Lifted, empty_rows: bool) -> object | None:
    """None where values of tensors are looked at."""
    said = {place for place, _ in version.fixed}
    leaves = []
    for place, leaf in enumerate(lifted.leaves):
        if leaf.fixed is not None and leaf.fixed.numel() > 1 and place not in said:
            return None
        number = leaf.fixed.item() if leaf.fixed is not None and leaf.fixed.numel() == 1 else None
        leaves.append((leaf.name, leaf.boolean, leaf.learnt, leaf.fixed is None, number, lifted.leaf_dims[place]))
    graph = lifted.graph.graph
    if any(node.op == "get_attr" for node in graph.nodes):
        return None
    nodes = tuple((str(node.format_node()), lifted.dims.get(node)) for node in graph.nodes)
    g = lifted.geometry
    axes = (g.scores, g.output, g.batch, g.heads, g.kv_heads, g.rows, g.keys, g.depth, g.channel)
    return (version, nodes, axes, tuple(leaves), lifted.hidden, lifted.wide, empty_rows)
