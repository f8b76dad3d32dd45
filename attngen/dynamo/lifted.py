"""A region of Dynamo's graph as a formula over the axes of attention, exact for any mask.

How the formula is said to the compiler is asked elsewhere.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, fx

from attngen.dynamo.columns import Wide
from attngen.dynamo.contraction import read
from attngen.dynamo.fixed import fixed_value
from attngen.dynamo.formulas import QK
from attngen.dynamo.geometry import Geometry, read_geometry, score_dims, second_dims, weights_first
from attngen.dynamo.hiding import any_of
from attngen.dynamo.layout import Dims, Layout
from attngen.dynamo.lift import OUT, Leaf, Lifting, Value, is_product, late_normalized
from attngen.dynamo.narrow import narrow
from attngen.dynamo.nodes import Hints, NotAttention, NotLifted, tensor_of, value_of
from attngen.dynamo.region import Region
from attngen.dynamo.trace import traced
from attngen.ir import Expr, Number


@dataclass(frozen=True, slots=True)
class Lifted:
    """What a region computes, in `qk` and the names of its leaves; `hidden` says which keys have no weight.

    `graph` and `dims` are the region in ATen operations and the axes of each of its tensors; `wide` are those of keys
    with columns beside them.
    """

    weights: Expr
    hidden: Expr
    filled: Expr
    fill: Number | None
    leaves: tuple[Leaf, ...]
    leaf_dims: tuple[Dims, ...]
    geometry: Geometry
    graph: fx.GraphModule
    dims: dict[fx.Node, Dims]
    wide: tuple[Wide, ...]


def lift(region: Region, hints: Hints) -> Lifted:
    """The region's formula and axes. Raises NotLifted."""
    first, second = read(region.scores), weights_first(region.second, read(region.second), region.weights)
    if hints.size(tensor_of(second.a).shape[second.a_letters.index(second.summed)]) == 1:
        raise NotLifted("attention to one key alone")
    module = traced(region, hints)
    layout = Layout()
    dims, ends = score_dims(region.scores, first, hints)
    lifting = Lifting(layout, ends)
    placeholders = [node for node in module.graph.nodes if node.op == "placeholder"]
    lifting.place(placeholders[0], QK, dims)
    lifting.place(placeholders[1], OUT, layout.fresh(hints.shape(tensor_of(region.second))))
    leaves = tuple(_leaf(f"leaf{place}", node, hints) for place, node in enumerate(region.leaves))
    for node, leaf in zip(placeholders[2:], leaves, strict=True):
        lifting.place_leaf(node, leaf)
    weights, output = lifting.run(module.graph)
    _, _, out_dims = second_dims(region.second, weights.dims, second, hints)
    for free, dim in zip(lifting.values[placeholders[1]].dims, out_dims, strict=True):
        layout.unify(free, dim)
    geometry = read_geometry(layout, (region.scores, region.second), (first, second), weights.dims, hints)
    if lifting.key is not None and layout.resolve(lifting.key) != geometry.keys:
        raise NotLifted("a reduction over the queries, not over the keys")
    geometry = narrow(geometry, layout, hints, region.end)
    if layout.resolved(output.dims) != geometry.output and region.end is not region.second:
        geometry = _with_output(geometry, layout.resolved(output.dims))
    formula = late_normalized(output.as_number(), weights.as_number())
    if is_product(formula) and not lifting.hiding.hidden:
        raise NotAttention("nothing but products")
    all_dims = {n: layout.resolved(v.dims) for n, v in lifting.values.items() if isinstance(v, Value)}
    leaf_dims = tuple(all_dims[node] for node in placeholders[2:])
    hidden, filled = any_of(lifting.hiding.hidden), any_of(lifting.hiding.filled)
    wide = tuple(lifting.columns.found.values())
    return Lifted(formula, hidden, filled, lifting.hiding.fill, leaves, leaf_dims, geometry, module, all_dims, wide)


def _leaf(name: str, node: fx.Node, hints: Hints) -> Leaf:
    value = value_of(node)
    if not isinstance(value, Tensor):
        fixed = torch.tensor(value) if isinstance(value, int | float) else None
        return Leaf(name, fixed=fixed)
    return Leaf(name, value.dtype == torch.bool, value.requires_grad, fixed_value(node, hints))


def _with_output(geometry: Geometry, output: Dims) -> Geometry:
    wanted = {atom for dim in geometry.output for atom in dim}
    if {atom for dim in output for atom in dim} != wanted:
        raise NotLifted("what follows the second product brings in another axis")
    fields = {name: getattr(geometry, name) for name in geometry.__dataclass_fields__}
    return Geometry(**{**fields, "output": output})
