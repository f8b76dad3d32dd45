"""The ways to say a lifted region to the compiler: specs, and arguments of the call, the best way first.

Where tensors are fixed, formulas of the positions stand for them, and masks among them become the call's band: that
holds if hidden keys get weight zero and no reduction counts them, which the check on random rows decides. The last way
takes every tensor as an input.
"""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from attngen import ir
from attngen.dynamo.bands import Band, Diagonals, diagonals_of
from attngen.dynamo.formulas import FALSE, LARGE, QK, TRUE, constant, op, rebuilt, split_scale
from attngen.dynamo.geometry import Geometry
from attngen.dynamo.hiding import FILL
from attngen.dynamo.layout import Dims, steps_to
from attngen.dynamo.lifted import Lifted
from attngen.dynamo.nodes import NotLifted
from attngen.dynamo.positions import formulas
from attngen.dynamo.written import spec_text
from attngen.ir import Apply, Expr, Input, Number, Reduce

_AXES: tuple[ir.Axis, ...] = ("batch", "head", "query", "key")
_MOST_BANDS, _MOST_FORMULAS = 3, 8  # masks tried as bands, ways to write the rest that are tried
Fixed = tuple[tuple[int, Expr], ...]  # leaves that formulas of the positions stand for


@dataclass(frozen=True, slots=True)
class Version:
    """A spec, the leaves that are its inputs, and the call's arguments."""

    spec: str
    inputs: tuple[tuple[str, int], ...]  # name in the spec, position among the leaves
    scale: float
    band: Band
    fixed: Fixed


def versions(lifted: Lifted) -> Iterator[Version]:
    """All of them, without repetition."""
    seen: set[tuple[str, Band]] = set()
    for version in itertools.chain(
        _with_bands(lifted), _positioned(lifted, {}, Band(), ()), _filled(lifted, {}, Band(), ())
    ):
        if (version.spec, version.band) not in seen:
            seen.add((version.spec, version.band))
            yield version


def _with_bands(lifted: Lifted) -> Iterator[Version]:
    """Masks as the call's band, most of them first."""
    pairs = [(place, mask, _two_values(mask)) for place, mask in _fixed_pairs(lifted)]
    masks = [(place, mask, found) for place, mask, found in pairs if found is not None][:_MOST_BANDS]
    for count in range(len(masks), 0, -1):
        for chosen in itertools.combinations(masks, count):
            picked = [[_Mask(place, mask, a, b) for a, b in (found, found[::-1])] for place, mask, found in chosen]
            tried = [way for one in itertools.product(*picked) for way in _ways(lifted, one)]
            bands = [way for way in tried if way.diagonals.is_band]  # if one way needs no formula beside it, none does
            for way in bands or tried:
                yield from _positioned(lifted, way.values, way.diagonals.band(), way.fixed)


@dataclass(frozen=True, slots=True)
class _Mask:
    """A fixed leaf over (Nq or 1, Nk or 1), and its values where keys are seen and where they are not."""

    place: int
    values: Tensor
    inside: float
    outside: float


@dataclass(frozen=True, slots=True)
class _Way:
    """Masks that show a range of diagonals; `values` is what they are in the formula."""

    diagonals: Diagonals
    values: dict[str, Expr]
    fixed: Fixed


def _ways(lifted: Lifted, masks: tuple[_Mask, ...]) -> Iterator[_Way]:
    seen = torch.ones(_lengths(lifted.geometry), dtype=torch.bool)
    for mask in masks:
        seen &= mask.values.double() == mask.inside
    for diagonals in diagonals_of(seen):
        shown = diagonals.condition(diagonals.band().alignment)
        exprs = [op("where", shown, constant(mask.inside), constant(mask.outside)) for mask in masks]
        inside: list[Expr] = [constant(mask.inside) for mask in masks] if diagonals.is_band else exprs
        values = {lifted.leaves[mask.place].name: expr for mask, expr in zip(masks, inside, strict=True)}
        if QK.id in ir.names(rebuilt(lifted.weights, values)):  # else this band shows the keys that the mask hides
            yield _Way(diagonals, values, tuple((m.place, expr) for m, expr in zip(masks, exprs, strict=True)))


def _positioned(lifted: Lifted, values: dict[str, Expr], band: Band, fixed: Fixed) -> Iterator[Version]:
    """All other fixed leaves as formulas of the positions, where they are any."""
    taken, lengths = {place for place, _ in fixed}, _lengths(lifted.geometry)
    rest = [(place, mask) for place, mask in _fixed_pairs(lifted) if place not in taken]
    found = [(place, list(formulas(mask, lengths, band.alignment))) for place, mask in rest]
    found = [(place, exprs) for place, exprs in found if exprs]
    for exprs in itertools.islice(itertools.product(*(exprs for _, exprs in found)), _MOST_FORMULAS):
        more = tuple((place, expr) for (place, _), expr in zip(found, exprs, strict=True))
        named = {lifted.leaves[place].name: expr for place, expr in more}
        yield from _filled(lifted, values | named, band, fixed + more)


def _fixed_pairs(lifted: Lifted) -> list[tuple[int, Tensor]]:
    """Fixed leaves as (Nq or 1, Nk or 1), those that are the same for all batches and heads."""
    fixed = [(place, leaf.fixed) for place, leaf in enumerate(lifted.leaves) if leaf.fixed is not None]
    pairs = [(p, _over_pairs(x, lifted.leaf_dims[p], lifted.geometry)) for p, x in fixed if x.numel() > 1]
    return [(place, pair) for place, pair in pairs if pair is not None]


def _over_pairs(mask: Tensor, dims: Dims, geometry: Geometry) -> Tensor | None:
    try:
        for method, args in steps_to(dims, geometry.pair_dims, lambda atom: atom.size):
            mask = getattr(mask, method)(*args)
    except NotLifted:
        return None
    flat = mask.flatten(0, 1)
    same = flat.stride(0) == 0 or bool((flat == flat[:1]).all())
    return flat[0] if same else None


def _lengths(geometry: Geometry) -> tuple[int, int]:
    n_q, n_k = (max((atom.size for atom in dim), default=1) for dim in (geometry.rows, geometry.keys))
    return n_q, n_k


def _two_values(mask: Tensor) -> tuple[float, float] | None:
    """A mask's two values, the one that may well mean "seen" first."""
    low, high = mask.min().double().item(), mask.max().double().item()
    return (high, low) if low < high and bool(((mask == low) | (mask == high)).all()) else None


def _filled(lifted: Lifted, values: dict[str, Expr], band: Band, fixed: Fixed) -> Iterator[Version]:
    """Both ways to write the finite number that hides keys; see Note [Filled rows]."""
    filled = rebuilt(lifted.filled, values)
    if lifted.fill is None or filled == FALSE:
        yield from _shifted(lifted, values, band, fixed)
        return
    unseen = rebuilt(op("or", lifted.filled, lifted.hidden), values)
    seen = Reduce("amax", op("where", unseen, constant(0), constant(1)))
    by_row = op("where", op("gt", seen, constant(0.5)), Number(-LARGE), constant(0))
    for fill in (by_row, lifted.fill):
        yield from _shifted(lifted, {**values, FILL.id: fill}, band, fixed)


def _shifted(lifted: Lifted, values: dict[str, Expr], band: Band, fixed: Fixed) -> Iterator[Version]:
    """Without the subtraction of the row's maximum first, which the compiler takes care of by itself."""
    weights = rebuilt(lifted.weights, values)
    plain = _unshifted(weights)
    if plain != weights:
        yield _version(lifted, plain, (values, band, fixed))
    yield _version(lifted, weights, (values, band, fixed))


def _unshifted(expr: Expr) -> Expr:
    match expr:
        case Apply("exp", (Apply("sub", (x, y)),)) if _is_maximum(y):
            return op("exp", _unshifted(x))
        case Apply("exp", (Apply("neg", (y,)),)) if _is_maximum(y):
            return constant(1)
    return ir.with_children(expr, tuple(_unshifted(child) for child in ir.children(expr)))


def _is_maximum(expr: Expr) -> bool:
    """Whether it is the largest score, or a number beside the keys where that is larger."""
    match expr:
        case Reduce("amax", _):
            return True
        case Apply("max", (a, b)) | Apply("where", (_, a, b)):
            return _is_maximum(a) or _is_maximum(b)
        case Apply("detach", (x,)):
            return _is_maximum(x)
    return False


def _version(lifted: Lifted, weights: Expr, call: tuple[dict[str, Expr], Band, Fixed]) -> Version:
    values, band, fixed = call
    hidden = rebuilt(lifted.hidden, values)
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
