"""Parts of an attention in one node, spelled out: products that something is added to, and triangles of scores."""

import operator

import torch
from torch import fx

from attngen.dynamo.contraction import MATMULS, added, operands
from attngen.dynamo.fixed import is_fixed
from attngen.dynamo.nodes import NotAttention, NotLifted, is_parameter, name_of, tensor_of
from attngen.dynamo.spelled import Spelled, guarded

SUMS = ("addmm", "baddbmm")


def spell_sum(node: fx.Node) -> Spelled:
    """input * beta + alpha * (a @ b) as a product and a sum. Raises NotAttention for layers."""
    if any(is_parameter(operand) for operand in operands(node)):
        raise NotAttention("a layer")
    spelled = Spelled(node, node)
    return guarded(spelled, lambda: _sum(spelled))


def _sum(spelled: Spelled) -> fx.Node:
    node, more = spelled.node, added(spelled.node)
    out = spelled.second = spelled.call(torch.matmul, *operands(node))
    if node.kwargs.get("alpha", 1) != 1:
        out = spelled.call(operator.mul, out, node.kwargs["alpha"])
    if more is None:
        return out
    if node.kwargs.get("beta", 1) != 1:
        more = spelled.call(operator.mul, more, node.kwargs["beta"])
    return spelled.call(torch.add, more, out)


def spell_triangle(node: fx.Node) -> Spelled | None:
    """A triangle of what comes from data as a choice by a triangle of ones, which is a mask; None for other nodes."""
    if name_of(node) not in ("tril", "triu") or not node.users or is_fixed(node):
        return None
    spelled = Spelled(node, node)
    try:
        return guarded(spelled, lambda: _triangle(spelled))
    except Exception:  # whatever the call may look like: then it is none that is known
        return None


def settle_triangle(spelled: Spelled) -> None:
    """Let the old node go if its triangle was fused; else bring it back, of what the tensor has become by now."""
    assert spelled.output is not None
    if spelled.output._erased:
        spelled.take_over()
        return
    (_, *further), named = spelled.given
    spelled.given = ((spelled.output.args[1], *further), named)
    spelled.remove()


def _triangle(spelled: Spelled) -> fx.Node:
    source, *further = spelled.node.args
    assert isinstance(source, fx.Node)
    rows, columns = _sizes(spelled, source)
    ones = spelled.call(torch.ones, rows, columns, dtype=torch.bool, device=tensor_of(source).device)
    diagonal = spelled.node.kwargs.get("diagonal", further[0] if further else 0)
    return spelled.call(torch.where, spelled.call(name_of(spelled.node), ones, diagonal), source, 0.0)


def _sizes(spelled: Spelled, source: fx.Node) -> tuple[int | fx.Node, int | fx.Node]:
    """Rows and columns. Dynamic ones are those of a product's operands, so that the mask doesn't depend on scores."""
    rows, columns = tensor_of(source).shape[-2:]
    if isinstance(rows, int) and isinstance(columns, int):
        return rows, columns
    product: object = source
    while isinstance(product, fx.Node) and name_of(product) not in MATMULS:
        product = product.args[0] if product.args else None
    if not isinstance(product, fx.Node):
        raise NotLifted("a triangle of a tensor of dynamic size that is no product")
    a, b = operands(product)
    return spelled.call("size", a, -2), spelled.call("size", b, -1)
