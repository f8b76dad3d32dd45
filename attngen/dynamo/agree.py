"""Whether a lifted formula and the model's own operations agree, on random short rows in float64.

Ordinary rows are compared with their gradients; then rows with scores of all sizes and signs, and masks that hide a
whole row. Where a row is hidden as a whole by minus infinity the model may give NaN and the formula zeros: that
difference alone is accepted.
"""

import itertools
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from attngen.dynamo.formulas import FALSE
from attngen.dynamo.geometry import Geometry
from attngen.dynamo.layout import Atom, Dims
from attngen.dynamo.lift import Leaf
from attngen.dynamo.lifted import Lifted
from attngen.dynamo.nodes import NotLifted
from attngen.dynamo.positions import evaluated
from attngen.dynamo.replay import Lengths, Sample, replay
from attngen.dynamo.versions import Version
from attngen.ir import Normalizer, names
from attngen.verify.reference import Call, Operands, attention

Run = Callable[[Sample, dict[str, Tensor]], Tensor]
_TOLERANCE = 1e-6  # torch's softplus leaves out 2e-9; everything else is float64 on both sides
_NARROW = 1e-3
_KEYS, _CHANNELS, _LEAD = 7, 3, 2
_ORDINARY, _EXTREME = (1.0, 0.3, 3.0), (1.0, 20.0, -20.0, 60.0, 100.0, 3.0)


@dataclass(frozen=True, slots=True)
class _Kind:
    """What a sample shall look like."""

    seed: int
    factors: tuple[float, ...]
    hide_rows: bool


def check_formula(version: Version, normalizer: Normalizer, lifted: Lifted, *, empty_rows: bool) -> None:
    """Raise NotLifted unless the formula, all weights written out, computes what the region computes."""

    def written_out(sample: Sample, inputs: dict[str, Tensor]) -> Tensor:
        operands = Operands(sample.query, sample.key, sample.value, inputs)
        return attention(normalizer, operands, _call_of(version), torch.float64)

    _ordinary_rows(version, lifted, written_out, _lengths(lifted, 9 if empty_rows else 6))


def check_op(version: Version, op: Callable[..., Tensor], lifted: Lifted, *, empty_rows: bool) -> None:
    """Raise NotLifted unless the compiled op computes what the region computes, on extreme rows too."""
    call = _call_of(version)

    def fused(sample: Sample, inputs: dict[str, Tensor]) -> Tensor:
        more = {"scale": call.scale, "window": call.window, "alignment": call.alignment}
        return op(sample.query, sample.key, sample.value, **inputs, **more)

    lengths = _lengths(lifted, 9 if empty_rows else 6)
    _ordinary_rows(version, lifted, fused, lengths)
    _narrow(version, lifted, fused, lengths)
    for seed in range(2):
        sample = _sample(lifted, version, lengths, _Kind(seed, _EXTREME, hide_rows=True))
        _same_rows(
            lifted, sample, (replay(lifted, sample, lengths), fused(sample, _inputs(version, lifted, sample, lengths)))
        )


def _narrow(version: Version, lifted: Lifted, run: Run, lengths: Lengths) -> None:
    """Compare float32, on rows that are hidden as a whole as well: output, gradients of queries and values."""
    for seed in range(4):
        sample = _sample(lifted, version, lengths, _Kind(seed, _ORDINARY, hide_rows=True))
        inputs = {name: x.float() for name, x in _inputs(version, lifted, sample, lengths).items()}
        narrow = Sample(sample.query.float(), sample.key.float(), sample.value.float(), sample.leaves)
        found = []
        for given in (sample, narrow):
            tensors = [given.query.requires_grad_(), given.value.requires_grad_()]
            output = replay(lifted, sample, lengths) if given is sample else run(narrow, inputs)
            found.append([output.detach(), *torch.autograd.grad(_some_loss(output), tensors, materialize_grads=True)])
        for wanted, got in zip(*found, strict=True):
            error = (wanted - got).abs().max() / wanted.abs().max().clamp_min(1e-3)
            if bool(wanted.isfinite().all()) and not float(error) <= _NARROW:
                raise NotLifted("float32 is too narrow for the formula")


def _some_loss(output: Tensor) -> Tensor:
    """A number with another derivative for every element of the output."""
    return (output * torch.linspace(-1, 2, output.numel(), dtype=output.dtype).reshape(output.shape)).sum()


def _ordinary_rows(version: Version, lifted: Lifted, run: Run, lengths: Lengths) -> None:
    compared = False
    for seed in range(4):
        sample = _sample(lifted, version, lengths, _Kind(seed, _ORDINARY, hide_rows=False))
        compared |= _same_gradients(version, lifted, run, sample, lengths)
    if not compared:
        raise NotLifted("no finite gradients to compare with")


def _call_of(version: Version) -> Call:
    band = version.band
    window = None if band.everything else (band.left, band.right)
    return Call(scale=version.scale, window=window, alignment=band.alignment)  # type: ignore[arg-type]


def _lengths(lifted: Lifted, rows: int) -> Lengths:
    geometry = lifted.geometry
    of: dict[Atom, int] = dict.fromkeys((*geometry.batch, *geometry.heads), _LEAD)
    of |= dict.fromkeys(geometry.rows, rows) | dict.fromkeys((*geometry.keys, *geometry.depth), _KEYS)
    of |= {wide.atom: _KEYS + wide.before + wide.behind for wide in lifted.wide}
    return Lengths(of | dict.fromkeys(geometry.channel, _CHANNELS))


def _sample(lifted: Lifted, version: Version, lengths: Lengths, kind: _Kind) -> Sample:
    """Tensors whose dot products are as wanted: keys are near the identity, queries solve for the products."""
    geometry = lifted.geometry
    random = torch.Generator().manual_seed(kind.seed)
    batch, kv_heads, keys, _ = lengths.shape(geometry.key_dims)
    _, heads, rows, _ = lengths.shape(geometry.query_dims)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, dtype=torch.float64, generator=random)

    factors = torch.tensor([f for f, _ in zip(itertools.cycle(kind.factors), range(rows), strict=False)]).double()
    wanted = normal(batch, heads, rows, keys) * factors[:, None].abs()
    signed = wanted.abs() * factors.sign()[:, None]
    wanted = torch.where((factors.abs() == _EXTREME[1])[:, None], signed, wanted)
    key = torch.eye(keys, dtype=torch.float64) + 0.1 * normal(batch, kv_heads, keys, keys)
    query = wanted @ torch.linalg.inv(key).mT.repeat_interleave(heads // kv_heads, dim=1)
    value = normal(batch, kv_heads, keys, _CHANNELS)
    leaves = tuple(_leaf(lifted, version, place, lengths, (kind, random)) for place in range(len(lifted.leaves)))
    return Sample(query, key, value, leaves)


def _leaf(lifted: Lifted, version: Version, place: int, lengths: Lengths, how: tuple[_Kind, torch.Generator]) -> Tensor:
    """Values for a tensor from outside, in the model's own layout."""
    leaf, dims, geometry = lifted.leaves[place], lifted.leaf_dims[place], lifted.geometry
    if leaf.fixed is not None and leaf.fixed.numel() == 1:
        fixed = leaf.fixed.reshape(lengths.shape(dims))
        return fixed if leaf.boolean else fixed.double()
    for stood_for, expr in version.fixed:
        if stood_for == place:
            full = lengths.shape(geometry.pair_dims)
            values = evaluated(expr, (full[2], full[3]), version.band.alignment).expand(full)
            return _part(values.bool() if leaf.boolean else values, geometry, dims, lengths)
    atoms = [atom for dim in dims for atom in dim]
    canonical: Dims = tuple((atom,) for group in geometry.pair_dims for atom in group if atom in atoms)
    has_keys = bool(geometry.keys) and geometry.keys[0] in atoms
    has_rows = bool(geometry.rows) and geometry.rows[0] in atoms
    hiding = leaf.boolean or leaf.name in names(lifted.hidden)
    drawn = _drawn(leaf, lengths.shape(canonical), how[1])
    if hiding and has_keys:
        seen = bool(how[0].seed >> place % 2 & 1)
        drawn = _hiding(drawn, leaf, seen, how[0].hide_rows and has_rows)
    return lengths.arranged(drawn, canonical, dims)


def _part(values: Tensor, geometry: Geometry, dims: Dims, lengths: Lengths) -> Tensor:
    """From values over (batch, head, query, key), equal along the axes that a leaf lacks, to the leaf's layout."""
    groups, present = geometry.pair_dims, {atom for dim in dims for atom in dim}
    values = values.reshape([lengths.of[atom] for group in groups for atom in group])
    atoms = [atom for group in groups for atom in group]
    for axis, atom in reversed(list(enumerate(atoms))):
        values = values if atom in present else values.select(axis, 0)
    return lengths.arranged(values, tuple((atom,) for atom in atoms if atom in present), dims)


def _drawn(leaf: Leaf, shape: tuple[int, ...], random: torch.Generator) -> Tensor:
    if leaf.boolean:
        return torch.rand(shape, generator=random) > 0.5
    if leaf.fixed is not None:
        values: Tensor = torch.unique(leaf.fixed.double())
        return values[torch.randint(len(values), shape, generator=random)]
    if not shape:
        return torch.rand(shape, dtype=torch.float64, generator=random) + 0.5
    return torch.randn(shape, dtype=torch.float64, generator=random)


def _hiding(mask: Tensor, leaf: Leaf, seen: bool, hide_rows: bool) -> Tensor:
    """A mask that hides some keys, and if asked to, in the first rows all or none of them.

    Which value means "seen" isn't known; every third key is hidden or not, so that short windows see one.
    """
    mask = mask.clone()
    if leaf.boolean:
        mask[..., torch.arange(mask.shape[-1]) % 3 != 1] = seen
        if hide_rows:
            mask[..., 0, :], mask[..., 1, :] = True, False
    elif leaf.fixed is None:
        mask[..., 1], mask[..., 4] = float("-inf"), -1e9
        if hide_rows:
            mask[..., 0, :], mask[..., 1, :] = float("-inf") if seen else -1e25, -1e25
    return mask


def _inputs(version: Version, lifted: Lifted, sample: Sample, lengths: Lengths) -> dict[str, Tensor]:
    """The spec's inputs from the model's leaves."""
    found = {}
    for name, place in version.inputs:
        dims = lifted.leaf_dims[place]
        atoms = [atom for dim in dims for atom in dim]
        groups = tuple(group for group in lifted.geometry.pair_dims if any(atom in atoms for atom in group))
        found[name] = lengths.arranged(sample.leaves[place].double(), dims, groups)
    return found


def _same_gradients(version: Version, lifted: Lifted, run: Run, sample: Sample, lengths: Lengths) -> bool:
    """Compare outputs and gradients; False where either's aren't finite, which the extreme rows are for."""
    tensors = [sample.query, sample.key, sample.value]
    tensors += [tensor for tensor, leaf in zip(sample.leaves, lifted.leaves, strict=True) if leaf.learnt]
    for tensor in tensors:
        tensor.requires_grad_()
    found = []
    for output in (replay(lifted, sample, lengths), run(sample, _inputs(version, lifted, sample, lengths))):
        gradients = torch.autograd.grad(_some_loss(output), tensors, allow_unused=True, materialize_grads=True)
        found.append([output.detach(), *gradients])
    if not all(bool(tensor.isfinite().all()) for tensors in found for tensor in tensors):
        return False
    for wanted, got in zip(*found, strict=True):
        size = wanted.abs().max().clamp_min(1e-3) if wanted.numel() else 1.0
        if not bool(((wanted - got).abs() <= _TOLERANCE * size).all()):
            raise NotLifted("the formula and the model's operations differ")
    return True


def _same_rows(lifted: Lifted, sample: Sample, outputs: tuple[Tensor, Tensor]) -> None:
    """Compare row by row; see the module's docstring for rows that aren't finite."""
    wanted, got = (x.detach() for x in outputs)
    finite = wanted.isfinite().all(-1)
    size = torch.where(finite[..., None], wanted, 0.0).abs().amax(-1, keepdim=True).clamp_min(1e-3)
    near = ((wanted - got).abs() <= _TOLERANCE * size).all(-1)
    hidden = lifted.hidden != FALSE
    factors = torch.tensor([f for f, _ in zip(itertools.cycle(_EXTREME), range(wanted.shape[2]), strict=False)])
    excused = ~finite & ((got == 0).all(-1) if hidden else (factors.abs() >= 60))
    if not bool((near | excused).all()):
        raise NotLifted("the formula and the model's operations differ on extreme rows")
