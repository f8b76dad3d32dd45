"""Columns that a model concatenates with the keys, such as a sink's, and slices off again: which axis is the wide one.

Only dimensions are looked at. What stands in the columns is the lifting's business.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from torch import fx

from attngen.dynamo.layout import Atom, Dim, Dims, Layout
from attngen.dynamo.nodes import NotLifted


@dataclass(frozen=True, slots=True)
class Wide:
    """The axis `atom` of a concatenation: columns before the keys, the keys, columns behind them."""

    atom: Atom
    keys: Dim
    before: int
    behind: int


@dataclass(slots=True)
class Columns:
    """The wide axes so far."""

    layout: Layout
    found: dict[Atom, Wide] = field(default_factory=dict)

    def of(self, dim: Dim) -> Wide | None:
        return next((self.found[atom] for atom in self.layout.resolve(dim) if atom in self.found), None)

    def any(self, dims: Dims) -> bool:
        return any(self.of(dim) is not None for dim in dims)

    def concatenated(self, pieces: Sequence[Dims], axis: int, ends: Sequence[Dim]) -> tuple[int, Dims]:
        """The place of the keys among the pieces, and the dimensions of all of them."""
        found = [place for place, dims in enumerate(pieces) if self.layout.resolve(dims[axis]) in ends]
        if len(found) != 1 or any(dims[axis] for place, dims in enumerate(pieces) if place != found[0]):
            raise NotLifted("a concatenation of other things than keys and single columns")
        keys = self.layout.resolve(pieces[found[0]][axis])
        if len(keys) != 1:
            raise NotLifted("a concatenation with keys of several axes")
        before, behind = found[0], len(pieces) - 1 - found[0]
        atom = Atom(f"{before}+{keys[0].name}+{behind}", keys[0].size + before + behind)
        self.found[atom] = Wide(atom, keys, before, behind)
        rest = self.layout.broadcast([(*dims[:axis], (), *dims[axis + 1 :]) for dims in pieces])
        return found[0], (*rest[:axis], (atom,), *rest[axis + 1 :])

    def sliced(self, node: fx.Node, dims: Dims) -> Dims:
        """The dimensions behind a slice that leaves all keys and no column."""
        axis, start = ((*node.args[1:], 0, 0)[:2]) if len(node.args) < 3 else node.args[1:3]
        assert isinstance(axis, int)
        wide = self.of(dims[axis])
        if wide is None or start != wide.before or node.meta["val"].shape[axis] != wide.keys[0].size:
            raise NotLifted("a slice of something else than all keys")
        return (*dims[:axis], wide.keys, *dims[axis + 1 :])
