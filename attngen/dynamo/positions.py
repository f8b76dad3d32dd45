"""Tensors of fixed numbers over queries and keys as formulas of the positions `i` and `j`, if they are any.

Found are ranges of diagonals that have one value inside and another one outside, and numbers that are linear in the
distance, in its size, or in one of the positions. The values at hand are compared, not how they came about.
"""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from attngen.dynamo.bands import J, diagonals_of, query_position
from attngen.dynamo.formulas import constant, op
from attngen.ir import Apply, Expr, Name, Number

ALIGNMENTS = ("upper_left", "lower_right")


def formulas(values: Tensor, lengths: tuple[int, int], call: str) -> Iterator[Expr]:
    """Formulas of a tensor (Nq or 1, Nk or 1), for a call of these lengths that counts `i` in the given way."""
    low, high = values.min().double().item(), values.max().double().item()
    if low == high:
        yield constant(low)
    elif bool(((values == low) | (values == high)).all()):
        yield from _two_valued(values.double().expand(lengths), (high, low), call)
    else:
        for expr in _basis(values, lengths, call):
            yield from _fitted(values.double(), expr, lengths, call)


def _two_valued(values: Tensor, found: tuple[float, float], call: str) -> Iterator[Expr]:
    for inside, outside in (found, found[::-1]):
        for diagonals in diagonals_of(values == inside):
            yield op("where", diagonals.condition(call), constant(inside), constant(outside))


def _basis(values: Tensor, lengths: tuple[int, int], call: str) -> list[Expr]:
    """What the values may be linear in."""
    places = [query_position(alignment, call) for alignment in ALIGNMENTS]
    if values.shape[1] == 1:
        return places
    if values.shape[0] < lengths[0]:
        return [J]
    distances = [op("sub", place, J) for place in places]
    return [*distances, *(op("abs", distance) for distance in distances), *([J] if lengths[0] == 1 else [])]


def _fitted(values: Tensor, expr: Expr, lengths: tuple[int, int], call: str) -> Iterator[Expr]:
    """slope * expr + offset, if the values are that everywhere."""
    over = evaluated(expr, lengths, call).expand(values.shape)
    flat, given = over.flatten(), values.flatten()
    low, high = int(flat.argmin()), int(flat.argmax())
    if flat[low] == flat[high] or not bool(given.isfinite().all()):
        return
    slope = (given[high] - given[low]) / (flat[high] - flat[low])
    offset = given[low] - slope * flat[low]
    if bool(((slope * flat + offset - given).abs() <= 1e-7 * given.abs().max()).all()):
        yield op("add", op("mul", expr, constant(float(slope))), constant(float(offset)))


def evaluated(expr: Expr, lengths: tuple[int, int], call: str) -> Tensor:
    """The formula's values over (Nq or 1, Nk or 1), in float64."""
    n_q, n_k = lengths
    shift = n_k - n_q if call == "lower_right" else 0
    names = {"i": torch.arange(n_q)[:, None] + shift, "j": torch.arange(n_k)[None, :], "n_q": n_q, "n_k": n_k}
    return torch.as_tensor(_value(expr, {name: torch.as_tensor(x) for name, x in names.items()})).double()


_OPERATIONS: dict[str, Callable[..., Tensor]] = {
    "add": torch.add, "sub": torch.sub, "mul": torch.mul, "neg": torch.neg, "abs": torch.abs, "where": torch.where,
    "le": torch.le, "ge": torch.ge, "and": torch.logical_and, "eq": torch.eq, "ne": torch.ne,
}  # fmt: skip


def _value(expr: Expr, names: dict[str, Tensor]) -> Tensor:
    match expr:
        case Name(id):
            return names[id]
        case Number(value):
            return torch.tensor(float(value), dtype=torch.float64)
        case Apply(name, args):
            return _OPERATIONS[name](*(_value(arg, names) for arg in args))
    raise AssertionError(expr)
