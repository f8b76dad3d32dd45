"""A region of Dynamo's graph as a normalizer: formula, inputs, mask and scale, and the spec's text.

The formula that lifting finds is exact for any mask. Where masks are fixed and form a band, a second version leaves
them to the call: it holds if hidden keys get weight zero and no reduction counts them, which the check on random rows
decides.
"""

import hashlib
import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, fx

from attngen import ir, notation
from attngen.dynamo.bands import Band, band_of, fixed_value
from attngen.dynamo.contraction import read
from attngen.dynamo.formulas import FALSE, LARGE, QK, TRUE, constant, op, rebuilt, split_scale
from attngen.dynamo.geometry import Geometry, read_geometry, score_dims, second_dims, weights_first
from attngen.dynamo.layout import Dims, Layout
from attngen.dynamo.lift import FILL, OUT, Leaf, Lifting, Value, is_product, late_normalized
from attngen.dynamo.nodes import Hints, NotAttention, NotLifted, tensor_of, value_of
from attngen.dynamo.region import Region
from attngen.dynamo.trace import traced
from attngen.ir import Expr, Input, Number, Reduce

_AXES: tuple[ir.Axis, ...] = ("batch", "head", "query", "key")


@dataclass(frozen=True, slots=True)
class Lifted:
    """What a region computes, in `qk` and the names of its leaves; `hidden` says which keys have no weight.

    `graph` and `dims` are the region in ATen operations and the axes of each of its tensors.
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


Fixed = tuple[tuple[int, tuple[float, float]], ...]  # leaves that a band stands for: their values seen and hidden


@dataclass(frozen=True, slots=True)
class Version:
    """One way to say it to the compiler: a spec, the leaves that are its inputs, and the call's arguments."""

    spec: str
    inputs: tuple[tuple[str, int], ...]  # name in the spec, position among the leaves
    scale: float
    band: Band
    fixed: tuple[
        tuple[int, tuple[float, float]], ...
    ] = ()  # leaves that the band stands for: their values seen, hidden


def lift(region: Region, hints: Hints) -> Lifted:
    """The region's formula and axes. Raises NotLifted."""
    module = traced(region, hints)
    first, second = read(region.scores), weights_first(region.second, read(region.second), region.weights)
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
    if layout.resolved(output.dims) != geometry.output and region.end is not region.second:
        geometry = _with_output(geometry, layout.resolved(output.dims))
    formula = late_normalized(output.as_number(), weights.as_number())
    if is_product(formula) and not lifting.hidden:
        raise NotAttention("nothing but products")
    all_dims = {n: layout.resolved(v.dims) for n, v in lifting.values.items() if isinstance(v, Value)}
    leaf_dims = tuple(all_dims[node] for node in placeholders[2:])
    hidden, filled = _any(lifting.hidden), _any(lifting.filled)
    return Lifted(formula, hidden, filled, lifting.fill, leaves, leaf_dims, geometry, module, all_dims)


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


def _any(conditions: list[Expr]) -> Expr:
    result: Expr = FALSE
    for condition in dict.fromkeys(conditions):
        result = op("or", result, condition)
    return result


def versions(lifted: Lifted) -> Iterator[Version]:
    """The best first: masks as a band of the call, then all masks as inputs."""
    fixed = [(place, leaf.fixed) for place, leaf in enumerate(lifted.leaves) if leaf.fixed is not None]
    masks = [(place, _over_pairs(mask, lifted.leaf_dims[place], lifted.geometry)) for place, mask in fixed]
    pairs = [(p, m, values) for p, m in masks if m is not None and (values := _two_values(m)) is not None]
    for count in range(len(pairs), 0, -1):
        for chosen in itertools.combinations(pairs, count):
            for orders in itertools.product((0, 1), repeat=count):
                yield from _banded(lifted, [(p, m, v[o], v[1 - o]) for (p, m, v), o in zip(chosen, orders)])  # noqa: B905
    yield from _filled(lifted, {}, Band(), ())


def _two_values(mask: Tensor) -> tuple[float, float] | None:
    """A mask's two values, the one that may well mean "seen" first."""
    found = torch.unique(mask).double().tolist()
    if len(found) == 1:
        return (found[0], float("nan"))
    return (found[1], found[0]) if len(found) == 2 else None


def _over_pairs(mask: Tensor, dims: Dims, geometry: Geometry) -> Tensor | None:
    """The mask as (Nq, Nk), if it is the same for all batches and heads."""
    atoms = [atom for dim in dims for atom in dim]
    if mask.dim() < 2 or atoms[-2:] != [*geometry.rows, *geometry.keys]:
        return None
    flat = mask.flatten(0, -3) if mask.dim() > 2 else mask[None]
    return flat[0] if bool((flat == flat[:1]).all()) else None


def _banded(lifted: Lifted, masks: list[tuple[int, Tensor, float, float]]) -> Iterator[Version]:
    seen = torch.stack([mask.double() == value for _, mask, value, _ in masks]).all(0)
    band = band_of(seen)
    if band is None:
        return
    values: dict[str, Expr] = {lifted.leaves[place].name: constant(value) for place, _, value, _ in masks}
    if QK.id not in ir.names(rebuilt(lifted.weights, values)):
        return  # the keys that this band shows are those that the mask hides
    fixed = tuple((place, (value, other)) for place, _, value, other in masks)
    yield from _filled(lifted, values, band, fixed)


def _filled(lifted: Lifted, values: dict[str, Expr], band: Band, fixed: Fixed) -> Iterator[Version]:
    """Both ways to write the finite number that hides keys; see Note [Filled rows]."""
    filled = rebuilt(lifted.filled, values)
    if lifted.fill is None or filled == FALSE:
        yield _version(lifted, values, band, fixed)
        return
    unseen = rebuilt(op("or", lifted.filled, lifted.hidden), values)
    seen = Reduce("amax", op("where", unseen, constant(0), constant(1)))
    by_row = op("where", op("gt", seen, constant(0.5)), Number(-LARGE), constant(0))
    for fill in (by_row, lifted.fill):
        yield _version(lifted, {**values, FILL.id: fill}, band, fixed)


def _version(lifted: Lifted, values: dict[str, Expr], band: Band, fixed: Fixed) -> Version:
    hidden = rebuilt(lifted.hidden, values)
    weights = rebuilt(lifted.weights, values)
    if hidden == TRUE:
        weights = constant(0)
    elif hidden != FALSE:
        weights = op("where", hidden, constant(0), weights)
    formula, scale = split_scale(weights)
    used = ir.names(formula)
    places = [place for place, leaf in enumerate(lifted.leaves) if leaf.name in used]
    inputs = tuple((f"x{number}", place) for number, place in enumerate(places))
    renamed = ir.substitute(formula, {lifted.leaves[place].name: ir.Name(name) for name, place in inputs})
    entries = tuple(
        Input(name, axes_of(lifted.leaf_dims[place], lifted.geometry), None, lifted.leaves[place].learnt)
        for name, place in inputs
    )
    return Version(spec_text(entries, renamed), inputs, scale, band, fixed)


def axes_of(dims: Dims, geometry: Geometry) -> tuple[ir.Axis, ...]:
    """The axes that an input has in a spec."""
    atoms = {atom for dim in dims for atom in dim}
    groups = zip(_AXES, geometry.pair_dims, strict=True)
    axes = tuple(axis for axis, group in groups if any(atom in atoms for atom in group))
    if any(atom not in {a for group in geometry.pair_dims for a in group} for atom in atoms):
        raise NotLifted("an input with an axis that attention has no place for")
    return axes


def spec_text(inputs: tuple[Input, ...], weights: Expr) -> str:
    """A spec that `attngen build` takes. Equal formulas get equal texts, and so one place in the cache."""
    lines = ["inputs:"] if inputs else []
    for entry in inputs:
        grad = "" if entry.grad else ", grad: false"
        lines.append(f"  {entry.name}: {{shape: [{', '.join(entry.axes)}]{grad}}}")
    body = "\n".join([*lines, f"weights: {notation.text(weights)}"])
    name = f"lifted_{hashlib.sha256(body.encode()).hexdigest()[:8]}"
    return f"name: {name}\ntitle: Attention lifted from a model by torch.compile\n{body}\n"
