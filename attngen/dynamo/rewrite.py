"""Putting the fused op into Dynamo's graph in a region's place.

The operands are brought to the op's layout by views, the output back to the model's. Exactly the region's nodes are
erased: others may be dead in appearance only, such as in-place operations whose results nobody reads.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx
from torch._subclasses import FakeTensor

from attngen.dynamo.changes import changed_later
from attngen.dynamo.layout import Atom, Dims, steps_to
from attngen.dynamo.lifted import Lifted
from attngen.dynamo.nodes import Hints, NotLifted, tensor_of, value_of
from attngen.dynamo.region import Region
from attngen.dynamo.versions import Version

_LARGEST_HEAD_DIM = 256  # of the op


@dataclass(frozen=True, slots=True)
class _Builder:
    graph: fx.Graph
    size: Callable[[Atom], int]

    def arranged(self, node: fx.Node, dims: Dims, target: Dims) -> fx.Node:
        for method, args in steps_to(dims, target, self.size):
            node = self.graph.call_method(method, (node, *args))  # type: ignore[arg-type]
        return node

    def cast(self, node: fx.Node, have: torch.dtype, want: torch.dtype) -> fx.Node:
        return node if have == want else self.graph.call_method("to", (node, want))


def check_sizes(lifted: Lifted) -> None:
    """Raise NotLifted for what the op doesn't take."""
    geometry = lifted.geometry
    for name, dim in (("query", geometry.depth), ("value", geometry.channel)):
        if any(atom.size > _LARGEST_HEAD_DIM for atom in dim):
            raise NotLifted(f"a head dim of {name} above {_LARGEST_HEAD_DIM}")
    for operand in (geometry.query, geometry.key, geometry.value):
        if not tensor_of(operand.node).is_floating_point():
            raise NotLifted("operands that are not floating-point")


def _check_saved(region: Region, lifted: Lifted) -> None:
    """Raise NotLifted if what the op keeps for its backward is changed before that."""
    geometry = lifted.geometry
    kept = [*region.leaves, *(operand.node for operand in (geometry.query, geometry.key, geometry.value))]
    for node in kept if tensor_of(region.end).requires_grad else ():
        if changed_later(node, region.end):
            raise NotLifted(f"'{node}' is changed in place before the backward reads it")


def replace(
    region: Region, lifted: Lifted, version: Version, attention: Callable[..., Any], static: set[str]
) -> fx.Node:
    """Insert the call of `attention` and erase the region. `static` names the atoms whose sizes never change."""

    def size(atom: Atom) -> int:
        return atom.size if atom.name in static else -1

    graph = region.end.graph
    _check_saved(region, lifted)
    before = set(graph.nodes)
    try:
        with graph.inserting_before(region.end):
            fused = _call(_Builder(graph, size), region, lifted, version, attention)
        _rehearse([node for node in graph.nodes if node not in before], fused, tensor_of(region.end))
    except Exception as error:
        for node in reversed([node for node in graph.nodes if node not in before]):
            graph.erase_node(node)
        raise NotLifted(f"the op refuses the call: {error}") from error
    fused.meta = dict(region.end.meta)
    region.end.replace_all_uses_with(fused)
    for node in reversed(region.nodes):
        graph.erase_node(node)
    return fused


def _rehearse(nodes: list[fx.Node], fused: fx.Node, wanted: Tensor) -> None:
    """Run the new nodes on fake tensors: what the op would refuse must not reach the inner backend."""
    if not isinstance(wanted, FakeTensor):
        return
    values: dict[fx.Node, Any] = {}
    with wanted.fake_mode, torch.no_grad():
        for node in nodes:
            args: Any = fx.map_arg(node.args, lambda n: values.get(n, value_of(n)))
            kwargs: Any = fx.map_arg(node.kwargs, lambda n: values.get(n, value_of(n)))
            method = node.op == "call_method"
            run: Any = getattr(args[0], str(node.target)) if method else node.target
            values[node] = run(*(args[1:] if method else args), **kwargs)
    got, hints = values[fused], Hints()
    if (hints.shape(got), got.dtype, got.device) != (hints.shape(wanted), wanted.dtype, wanted.device):
        raise NotLifted(f"it gives {got.dtype} of shape {tuple(got.shape)} on {got.device}")


def _call(
    builder: _Builder, region: Region, lifted: Lifted, version: Version, attention: Callable[..., Any]
) -> fx.Node:
    geometry = lifted.geometry
    operands = (geometry.query, geometry.key, geometry.value)
    dtype = _common([tensor_of(operand.node).dtype for operand in operands])
    tensors = []
    for operand, dims in zip(operands, (geometry.query_dims, geometry.key_dims, geometry.value_dims), strict=True):
        node = builder.arranged(operand.node, operand.dims, dims)
        node = _spread(builder, node, operand.dims, geometry.batch)
        tensors.append(builder.cast(node, tensor_of(operand.node).dtype, dtype))
    tensors = _same_heads(builder, tensors, lifted)
    arguments: dict[str, Any] = {name: _input(builder, region, lifted, place) for name, place in version.inputs}
    arguments |= _mask(version) | {"scale": version.scale}
    out = builder.graph.call_function(attention, tuple(tensors), arguments)
    if tensor_of(region.end).requires_grad and changed_later(region.end, region.end):
        out = builder.graph.call_method("clone", (out,))  # the op keeps its output for the backward
    have, want = _autocast(dtype, tensor_of(region.end)), tensor_of(region.end).dtype
    return builder.cast(builder.arranged(out, geometry.output_dims, geometry.output), have, want)


def _spread(builder: _Builder, node: fx.Node, dims: Dims, batch: tuple[Atom, ...]) -> fx.Node:
    """Keys or values that all of a batch share, once for each of it."""
    if not batch or batch[0] in [atom for dim in dims for atom in dim]:
        return node
    if builder.size(batch[0]) < 0:
        raise NotLifted("a tensor that a batch of dynamic size shares")
    return builder.graph.call_method("expand", (node, builder.size(batch[0]), -1, -1, -1))


def _same_heads(builder: _Builder, tensors: list[fx.Node], lifted: Lifted) -> list[fx.Node]:
    """Key and value of as many heads as the other, query of as many as the output."""
    geometry = lifted.geometry
    wanted = (geometry.heads, geometry.kv_heads, geometry.kv_heads)
    operands = (geometry.query, geometry.key, geometry.value)
    result = []
    for node, operand, heads in zip(tensors, operands, wanted, strict=True):
        present = [atom for dim in operand.dims for atom in dim]
        if heads and not any(atom in present for atom in heads):
            sizes = [builder.size(atom) for atom in heads]
            if min(sizes) < 0:
                raise NotLifted("a tensor that heads of a dynamic number share")
            count = 1
            for one in sizes:
                count *= one
            node = builder.graph.call_method("expand", (node, -1, count, -1, -1))
        result.append(node)
    return result


def _input(builder: _Builder, region: Region, lifted: Lifted, place: int) -> Any:
    """A leaf as the op's input: a tensor of a floating-point type, its axes in order, or a number."""
    node, dims, geometry = region.leaves[place], lifted.leaf_dims[place], lifted.geometry
    value = value_of(node)
    if not isinstance(value, Tensor):
        return node
    atoms = [atom for dim in dims for atom in dim]
    groups = tuple(group for group in geometry.pair_dims if any(atom in atoms for atom in group))
    # True and false are exact in two bytes; the op takes no tensors of one.
    narrow = torch.bfloat16 if value.dtype == torch.bool else torch.float32
    want = value.dtype if value.is_floating_point() else narrow
    return builder.arranged(builder.cast(node, value.dtype, want), dims, groups)


def _mask(version: Version) -> dict[str, Any]:
    band = version.band
    if band.everything:
        return {}
    alignment = {} if band.alignment == "upper_left" else {"alignment": band.alignment}
    if band.left < 0 and band.right == 0:
        return {"is_causal": True} | alignment
    return {"window": (band.left, band.right)} | alignment


def _common(dtypes: list[torch.dtype]) -> torch.dtype:
    result = dtypes[0]
    for dtype in dtypes[1:]:
        result = torch.promote_types(result, dtype)
    return result


def _autocast(dtype: torch.dtype, output: Tensor) -> torch.dtype:
    """The type of the op's output: autocast's, where it is on."""
    device = output.device.type
    on = torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)
    return torch.get_autocast_dtype(device) if on else dtype
