"""Which axis of attention each dimension of a tensor is, kept through views, transpositions and broadcasting.

A dimension is a tuple of atoms: none where its size is 1, one as a rule, several where axes have been merged by a view.
Atoms of the scores are known from the start; those of other tensors are free until broadcasting lines them up with an
atom of the scores. It looks at sizes as they are, and never at values.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from attngen.dynamo.nodes import NotLifted


@dataclass(frozen=True, slots=True)
class Atom:
    """One axis. A free one may still turn out to be another one."""

    name: str
    size: int
    free: bool = False


Dim = tuple[Atom, ...]
Dims = tuple[Dim, ...]
Step = tuple[str, tuple[object, ...]]  # a tensor's method and its arguments


@dataclass(slots=True)
class Layout:
    """What has been learnt of the atoms: what a free one is, and into what one has been split."""

    known: dict[Atom, Dim] = field(default_factory=dict)
    count: int = 0

    def fresh(self, sizes: Iterable[int]) -> Dims:
        """Free dimensions of these sizes."""
        dims: list[Dim] = []
        for size in sizes:
            self.count += 1
            dims.append(() if size == 1 else (Atom(f"free{self.count}", size, free=True),))
        return tuple(dims)

    def resolve(self, dim: Dim) -> Dim:
        return tuple(
            part for atom in dim for part in (self.resolve(self.known[atom]) if atom in self.known else (atom,))
        )

    def resolved(self, dims: Dims) -> Dims:
        return tuple(self.resolve(dim) for dim in dims)

    def split(self, atom: Atom, front: int) -> None:
        """Make the atom two: the outer one of size `front`, and the rest."""
        if front < 2 or atom.size % front:
            raise NotLifted(f"a view that splits an axis of {atom.size} into {front} and a rest")
        outer, inner = Atom(f"{atom.name}.0", front, atom.free), Atom(f"{atom.name}.1", atom.size // front, atom.free)
        self.known[atom] = (outer, inner)

    def unify(self, first: Dim, second: Dim) -> Dim:
        """Both dimensions are the same axis from now on."""
        while True:
            a, b = self.resolve(first), self.resolve(second)
            if a == b:
                return a
            pair = next(((x, y) for x, y in zip(a, b, strict=False) if x != y), None)
            if pair is None:
                raise NotLifted("sizes that don't line up")
            self._equate(*pair)

    def _equate(self, x: Atom, y: Atom) -> None:
        if x.size != y.size:
            larger, smaller = (x, y) if x.size > y.size else (y, x)
            self.split(larger, smaller.size)
        elif x.free:
            self.known[x] = (y,)
        elif y.free:
            self.known[y] = (x,)
        else:
            raise NotLifted("an operation that lines up different axes")

    def broadcast(self, operands: Sequence[Dims]) -> Dims:
        """The dimensions of a pointwise operation's result."""
        rank = max((len(dims) for dims in operands), default=0)
        result: list[Dim] = []
        for position in range(-rank, 0):
            present = [dims[position] for dims in operands if len(dims) >= -position and dims[position]]
            dim: Dim = present[0] if present else ()
            for other in present[1:]:
                dim = self.unify(dim, other)
            result.append(dim)
        return tuple(result)

    def reshape(self, dims: Dims, sizes: Sequence[int]) -> Dims:
        """The dimensions behind a view of these sizes."""
        for atom, front in iter(lambda: self._first_split(dims, sizes), None):
            self.split(atom, front)
        atoms = [atom for dim in self.resolved(dims) for atom in dim]
        result: list[Dim] = []
        for size in sizes:
            taken: list[Atom] = []
            while math.prod(atom.size for atom in taken) < size:
                taken.append(atoms.pop(0))
            result.append(tuple(taken))
        return tuple(result)

    def _first_split(self, dims: Dims, sizes: Sequence[int]) -> tuple[Atom, int] | None:
        """The first atom that the view cuts, and where."""
        atoms = [atom for dim in self.resolved(dims) for atom in dim]
        position = 0
        for size in sizes:
            taken = 1
            while taken < size:
                if position == len(atoms):
                    raise NotLifted("a view of other sizes")
                atom = atoms[position]
                if size % taken or (taken * atom.size > size):
                    return atom, size // taken
                taken, position = taken * atom.size, position + 1
        return None


def steps_to(dims: Dims, target: Dims, size: Callable[[Atom], int]) -> list[Step]:
    """Methods of a tensor that bring it from one layout to another one.

    Atoms that the tensor lacks are expanded where the rest of their dimension is there, and size 1 where it isn't.
    """
    if dims == target:
        return []
    atoms = [atom for dim in dims for atom in dim]
    wanted = [atom for dim in target for atom in dim]
    if len(set(atoms)) < len(atoms) or any(atom not in wanted for atom in atoms):
        raise NotLifted("a tensor with an axis that attention has no place for")
    steps = _one_atom_each(dims, size)
    order = [atoms.index(atom) for atom in wanted if atom in atoms]
    if order != sorted(order):
        steps.append(("permute", tuple(order)))
    for position, dim in enumerate(target):
        steps += _merged(position, dim, atoms, size)
    return steps


def _one_atom_each(dims: Dims, size: Callable[[Atom], int]) -> list[Step]:
    steps: list[Step] = []
    position = 0
    for dim in dims:
        if not dim:
            steps.append(("squeeze", (position,)))
        elif len(dim) > 1:
            sizes = tuple(size(atom) for atom in dim)
            if sum(one < 0 for one in sizes) > 1:
                raise NotLifted("two dynamic sizes merged into one axis")
            steps.append(("unflatten", (position, sizes)))
        position += len(dim)
    return steps


def _merged(position: int, dim: Dim, atoms: list[Atom], size: Callable[[Atom], int]) -> list[Step]:
    """One dimension of the target, from its atoms at `position` and following."""
    if not any(atom in atoms for atom in dim):
        return [("unsqueeze", (position,))]
    steps: list[Step] = []
    for offset, atom in enumerate(dim):
        if atom not in atoms:
            if size(atom) < 0:
                raise NotLifted("an axis of dynamic size that a tensor lacks")
            steps += [("unsqueeze", (position + offset,)), ("repeat_interleave", (size(atom), position + offset))]
    if len(dim) > 1:
        steps.append(("flatten", (position, position + len(dim) - 1)))
    return steps
