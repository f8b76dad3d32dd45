"""Run a lifted region's own operations on short rows: every axis is given another length, everything else stays.

Views and expansions get the new lengths from the axes that lifting found; the floating-point type is float64
throughout. The operations are those of the model, so that a formula can be compared with them.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from attngen.dynamo.layout import Atom, Dims, steps_to
from attngen.dynamo.lifted import Lifted

_VIEWS = {"view", "_unsafe_view", "reshape"}


@dataclass(frozen=True, slots=True)
class Lengths:
    """How long each axis is in the check."""

    of: dict[Atom, int]

    def shape(self, dims: Dims) -> tuple[int, ...]:
        return tuple(math.prod(self.of[atom] for atom in dim) for dim in dims)

    def arranged(self, tensor: Tensor, dims: Dims, target: Dims) -> Tensor:
        """The tensor with other dimensions; see `layout.steps_to`."""
        for method, args in steps_to(dims, target, lambda atom: self.of[atom]):
            tensor = getattr(tensor, method)(*args)
        return tensor


@dataclass(frozen=True, slots=True)
class Sample:
    """Query (B, H, Nq, D), key and value (B, Hkv, Nk, D) for one run, and the leaves as the model has them."""

    query: Tensor
    key: Tensor
    value: Tensor
    leaves: tuple[Tensor, ...]


def replay(lifted: Lifted, sample: Sample, lengths: Lengths) -> Tensor:
    """The model's output, (B, H, Nq, Dv)."""
    geometry = lifted.geometry
    group = sample.query.shape[1] // sample.key.shape[1]
    key, value = (x.repeat_interleave(group, dim=1) for x in (sample.key, sample.value))
    product = sample.query @ key.mT
    flat = tuple((atom,) for dim in geometry.pair_dims for atom in dim)
    product = product.reshape(lengths.shape(flat))
    placeholders = [node for node in lifted.graph.graph.nodes if node.op == "placeholder"]
    scores = lengths.arranged(product, flat, geometry.scores)
    result_dims = lifted.dims[placeholders[1]]
    blank = torch.zeros(lengths.shape(result_dims), dtype=torch.float64)
    weights, _ = _run(lifted, [scores, blank, *sample.leaves], lengths)
    full = (*sample.query.shape[:3], sample.key.shape[2])
    spread = lengths.arranged(weights, _weight_dims(lifted), geometry.pair_dims).double().expand(full)
    result = (spread @ value).reshape(lengths.shape(_flat(geometry.output_dims)))
    result = lengths.arranged(result, _flat(geometry.output_dims), result_dims)
    _, output = _run(lifted, [scores, result, *sample.leaves], lengths)
    return lengths.arranged(output, geometry.output, geometry.output_dims)


def _flat(dims: Dims) -> Dims:
    return tuple((atom,) for dim in dims for atom in dim)


def _weight_dims(lifted: Lifted) -> Dims:
    output = next(node for node in lifted.graph.graph.nodes if node.op == "output")
    return lifted.dims[output.args[0][0]]


def _run(lifted: Lifted, inputs: list[Tensor], lengths: Lengths) -> tuple[Tensor, Tensor]:
    values: dict[fx.Node, Any] = {}
    remaining = iter(inputs)
    for node in lifted.graph.graph.nodes:
        if node.op == "placeholder":
            values[node] = next(remaining)
        elif node.op == "call_function":
            args = fx.map_arg(node.args, values.__getitem__)
            kwargs = fx.map_arg(node.kwargs, values.__getitem__)
            values[node] = _call(node, args, dict(kwargs), lengths, lifted)
    output = next(node for node in lifted.graph.graph.nodes if node.op == "output")
    first, second = output.args[0]
    return values[first], values[second]


def _call(node: fx.Node, args: Any, kwargs: dict[str, Any], lengths: Lengths, lifted: Lifted) -> Any:
    name = getattr(getattr(node.target, "overloadpacket", node.target), "__name__", "")
    shape = lengths.shape(lifted.dims[node]) if node in lifted.dims else ()
    if name in _VIEWS:
        return args[0].reshape(shape)
    if name == "expand":
        return args[0].expand(shape)
    if name in ("full", "zeros", "ones", "full_like", "zeros_like", "ones_like"):
        filling = args[1] if name.startswith("full") else float(name.startswith("ones"))
        dtype = torch.bool if node.meta["val"].dtype == torch.bool else torch.float64
        return torch.full(shape, filling, dtype=dtype)
    if name == "slice":
        return _keys(node, args[0], shape, lifted)
    if name == "_to_copy":
        return args[0].bool() if node.meta["val"].dtype == torch.bool else args[0].double()
    kwargs = {key: arg for key, arg in kwargs.items() if key not in ("device", "dtype", "layout", "pin_memory")}
    assert callable(node.target)
    return node.target(*args, **kwargs)


def _keys(node: fx.Node, tensor: Tensor, shape: tuple[int, ...], lifted: Lifted) -> Tensor:
    """The tensor without columns beside the keys."""
    before, after = (lifted.dims.get(n, ()) for n in (node.all_input_nodes[0], node))
    for wide in lifted.wide:
        if (wide.atom,) in before and wide.keys in after:
            axis = before.index((wide.atom,))
            return tensor.narrow(axis, wide.before, shape[axis])
    return tensor
