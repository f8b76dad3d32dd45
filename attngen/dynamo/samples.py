"""Random short rows on which a lifted region and its formula are compared: operands, and tensors from outside.

Scores are drawn, and queries and keys solved for them. Masks are drawn so that rows see some key, or all or none.
"""

import itertools
from dataclasses import dataclass

import torch
from torch import Tensor

from attngen.dynamo.geometry import Geometry
from attngen.dynamo.layout import Atom, Dims
from attngen.dynamo.lift import Leaf
from attngen.dynamo.lifted import Lifted
from attngen.dynamo.positions import evaluated
from attngen.dynamo.replay import Lengths, Sample
from attngen.dynamo.versions import Version
from attngen.ir import names
from attngen.verify.reference import Call

_KEYS, _CHANNELS, _LEAD = 7, 3, 2
_SEEN = [1, 4]  # keys that one mask at least shows
ORDINARY, EXTREME = (1.0, 0.3, 3.0), (1.0, 20.0, -20.0, 60.0, 100.0, 3.0)


@dataclass(frozen=True, slots=True)
class Kind:
    """What a sample shall look like; with `ties` scores are small whole numbers, all equal in the first rows."""

    seed: int
    factors: tuple[float, ...]
    hide_rows: bool
    ties: bool = False


def call_of(version: Version) -> Call:
    band = version.band
    window = None if band.everything else (band.left, band.right)
    return Call(scale=version.scale, window=window, alignment=band.alignment)  # type: ignore[arg-type]


def lengths_of(lifted: Lifted, rows: int) -> Lengths:
    geometry = lifted.geometry
    of: dict[Atom, int] = dict.fromkeys((*geometry.batch, *geometry.heads), _LEAD)
    of |= dict.fromkeys(geometry.rows, rows) | dict.fromkeys((*geometry.keys, *geometry.depth), _KEYS)
    of |= {wide.atom: _KEYS + wide.before + wide.behind for wide in lifted.wide}
    return Lengths(of | dict.fromkeys(geometry.channel, _CHANNELS))


def sample_of(lifted: Lifted, version: Version, lengths: Lengths, kind: Kind) -> Sample:
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
    wanted = torch.where((factors.abs() == EXTREME[1])[:, None], signed, wanted)
    key = torch.eye(keys, dtype=torch.float64) + 0.1 * normal(batch, kv_heads, keys, keys)
    if kind.ties:
        wanted, key = _tied(wanted), torch.eye(keys, dtype=torch.float64).expand_as(key).clone()
    query = wanted @ torch.linalg.inv(key).mT.repeat_interleave(heads // kv_heads, dim=1)
    value = normal(*lengths.shape(geometry.value_dims))
    leaves = tuple(_leaf(lifted, version, place, lengths, (kind, random)) for place in range(len(lifted.leaves)))
    return Sample(query, key, value, leaves)


def _tied(scores: Tensor) -> Tensor:
    """Whole numbers, and rows of zeros, ones and minus ones."""
    scores = scores.round()
    scores[..., :3, :] = torch.tensor([0.0, 1.0, -1.0]).double()[: scores.shape[-2], None]
    return scores


def _leaf(lifted: Lifted, version: Version, place: int, lengths: Lengths, how: tuple[Kind, torch.Generator]) -> Tensor:
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
    masks = [leaf for leaf in lifted.leaves if leaf.boolean or leaf.name in names(lifted.hidden)]
    drawn = _drawn(leaf, lengths.shape(canonical), how[1])
    if how[0].ties and leaf.fixed is None and not leaf.boolean:
        drawn = drawn.round() if drawn.dim() else torch.ones_like(drawn)
    if leaf in masks and has_keys:
        seen = bool(how[0].seed >> place % 2 & 1)
        drawn = _hiding(drawn, leaf, seen, how[0].hide_rows and has_rows)
        if leaf.boolean and len(masks) > 1:
            drawn[..., _SEEN] = not seen
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

    Which value means "seen" isn't known; every third key is hidden or not, so that short windows see one. Where there
    are several masks these keys are seen: how a row is hidden as a whole by two kinds of masks is nobody's intention.
    """
    mask = mask.clone()
    if leaf.boolean:
        mask[..., torch.arange(mask.shape[-1]) % 3 != _SEEN[0]] = seen
        if hide_rows:
            mask[..., 0, :], mask[..., 1, :] = True, False
    elif leaf.fixed is None:
        mask[..., 2], mask[..., 5] = float("-inf"), -1e9
        if hide_rows:
            mask[..., 0, :], mask[..., 1, :] = float("-inf") if seen else -1e25, -1e25
    return mask


def inputs_of(version: Version, lifted: Lifted, sample: Sample, lengths: Lengths) -> dict[str, Tensor]:
    """The spec's inputs from the model's leaves."""
    found = {}
    for name, place in version.inputs:
        dims = lifted.leaf_dims[place]
        atoms = [atom for dim in dims for atom in dim]
        groups = tuple(group for group in lifted.geometry.pair_dims if any(atom in atoms for atom in group))
        found[name] = lengths.arranged(sample.leaves[place].double(), dims, groups)
    return found
