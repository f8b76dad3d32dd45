"""Operands that repeat a smaller tensor: keys and values that groups of query heads share, however they are repeated.

The operand becomes the tensor that is repeated; its dimensions say which axes it lacks. Nothing is repeated then but by
the op itself, which reads keys once for a group.
"""

import dataclasses

import torch
from torch import Tensor, fx
from torch.fx.experimental.proxy_tensor import make_fx

from attngen.dynamo.absorb import VIEWS, only_views
from attngen.dynamo.changes import check_unchanged
from attngen.dynamo.geometry import Geometry, Operand, shared_heads
from attngen.dynamo.layout import Dims, Layout
from attngen.dynamo.lift import Lifting, Value
from attngen.dynamo.nodes import Hints, NotLifted, name_of, tensor_of, value_of
from attngen.ir import Name

_REPEATING = VIEWS | {"repeat_interleave", "repeat"}


def narrow(geometry: Geometry, layout: Layout, hints: Hints, end: fx.Node) -> Geometry:
    """The geometry with the tensors that its operands repeat; they are read at the region's end."""
    before = (geometry.query, geometry.key, geometry.value)
    operands = [_narrowed(operand, layout, hints, end) for operand in before]
    if all(one is other for one, other in zip(operands, before, strict=True)):
        return geometry
    query, key, value = (Operand(operand.node, layout.resolved(operand.dims)) for operand in operands)
    lead = layout.resolve(geometry.batch + geometry.heads)
    axes = {"batch": lead[:1], "heads": lead[1:], "kv_heads": shared_heads(lead[1:], key, value)}
    dims = {"scores": layout.resolved(geometry.scores), "output": layout.resolved(geometry.output)}
    return dataclasses.replace(geometry, query=query, key=key, value=value, **axes, **dims)  # type: ignore[arg-type]


def _narrowed(operand: Operand, layout: Layout, hints: Hints, end: fx.Node) -> Operand:
    """The tensor that the operand repeats; the operand itself if it repeats nothing."""
    node, dims = operand.node, operand.dims
    steps = _steps(node, hints)
    if not steps:
        return operand
    source = steps[0].args[0]
    assert isinstance(source, fx.Node)
    try:
        check_unchanged((steps[0], end), steps, modes=tensor_of(source).requires_grad)
        free = layout.fresh(hints.shape(tensor_of(source)))
        for made, wanted in zip(_followed(steps, free, layout, hints), dims, strict=True):
            layout.unify(made, wanted)
    except NotLifted:
        return operand
    return Operand(source, free)


def _steps(node: fx.Node, hints: Hints) -> list[fx.Node]:
    """The operations that make the operand of the smallest tensor above it, none if it is the smallest itself."""
    chain = []
    while _repeats(node):
        chain.append(node)
        node = node.all_input_nodes[0]
    sizes = [torch.Size(hints.shape(tensor_of(n.all_input_nodes[0]))).numel() for n in chain]
    if not chain or min(sizes) >= torch.Size(hints.shape(tensor_of(chain[0]))).numel():
        return []
    return chain[sizes.index(min(sizes)) :: -1]


def _repeats(node: fx.Node) -> bool:
    tensors = [n for n in node.all_input_nodes if isinstance(value_of(n), Tensor)]
    if len(tensors) != 1 or not node.args or node.args[0] is not tensors[0]:
        return False
    if name_of(node) == "getitem":
        return only_views(node.args[1])
    return name_of(node) in _REPEATING


def _followed(steps: list[fx.Node], free: Dims, layout: Layout, hints: Hints) -> Dims:
    """The dimensions behind the operations."""

    def run(tensor: Tensor) -> Tensor:
        for step in steps:
            args = fx.map_arg(step.args[1:], lambda n: hints.number(value_of(n)))
            kwargs = fx.map_arg(step.kwargs, lambda n: hints.number(value_of(n)))
            if step.op == "call_method":
                tensor = getattr(tensor, str(step.target))(*args, **kwargs)
            else:
                assert callable(step.target)
                tensor = step.target(tensor, *args, **kwargs)
        return tensor

    source = tensor_of(steps[0].all_input_nodes[0])
    try:
        module = make_fx(run)(torch.empty(hints.shape(source), device="meta"))
    except Exception as error:  # whatever an operation may say of tensors without contents
        raise NotLifted("what repeats an operand can't be traced") from error
    lifting = Lifting(layout, ((), ()))
    placeholder = next(iter(module.graph.nodes))
    lifting.values[placeholder] = Value(Name("operand"), free)
    for node in module.graph.nodes:
        if node.op == "call_function":
            lifting.values[node] = lifting.call(node)
    result: Value = lifting.values[next(node for node in module.graph.nodes if node.op == "output").args[0]]
    return result.dims
