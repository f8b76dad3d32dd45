"""Patterns of positions: the diagonals of (Nq, Nk) that a mask shows, as a condition on `i` and `j` and as the causal
mask or window of a call.

Masks are compared by value, with the sizes at hand; whether a pattern holds for other sizes is asked elsewhere.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from attngen.dynamo.formulas import TRUE, op
from attngen.ir import Expr, Name, number

I, J = Name("i"), Name("j")  # noqa: E741
SHIFT = op("sub", Name("n_k"), Name("n_q"))


@dataclass(frozen=True, slots=True)
class Band:
    """The query at position p sees the keys p - left to p + right; -1 is without limit."""

    left: int = -1
    right: int = -1
    alignment: str = "upper_left"

    @property
    def everything(self) -> bool:
        return self.left < 0 and self.right < 0

    @property
    def may_be_empty(self) -> bool:
        """Whether a row may see no key at all, for some lengths."""
        return not self.everything and not (self.alignment == "upper_left" and self.left < 0 and self.right >= 0)

    def seen(self, n_q: int, n_k: int) -> Tensor:
        offset = n_k - n_q if self.alignment == "lower_right" else 0
        distance = torch.arange(n_k)[None, :] - torch.arange(n_q)[:, None] - offset
        seen = torch.ones(n_q, n_k, dtype=torch.bool)
        if self.left >= 0:
            seen &= distance >= -self.left
        return seen & (distance <= self.right) if self.right >= 0 else seen


@dataclass(frozen=True, slots=True)
class Diagonals:
    """What a mask shows: low <= j - i <= high, where None is without limit. Queries count from 0, or from Nk - Nq."""

    low: int | None
    high: int | None
    alignment: str

    def condition(self, call: str) -> Expr:
        """The same as a formula, for a call with an alignment of its own."""
        distance = op("sub", J, query_position(self.alignment, call))
        below = TRUE if self.low is None else op("ge", distance, number(self.low))
        return below if self.high is None else op("and", below, op("le", distance, number(self.high)))

    def band(self) -> Band:
        """The narrowest band of a call that shows all of it: a call has no band beside the main diagonal."""
        left, right = (-1 if self.low is None else max(-self.low, 0)), (-1 if self.high is None else max(self.high, 0))
        return Band(left, right, self.alignment if left >= 0 or right >= 0 else "upper_left")

    @property
    def is_band(self) -> bool:
        return (self.low is None or self.low <= 0) and (self.high is None or self.high >= 0)


def query_position(counted: str, call: str) -> Expr:
    """The query's position counted in one way, where the call counts `i` in another."""
    if counted == call:
        return I
    return op("add" if counted == "lower_right" else "sub", I, SHIFT)


def diagonals_of(seen: Tensor) -> tuple[Diagonals, ...]:
    """The ways in which a mask (Nq, Nk) is a range of diagonals, the most usual one first; nothing if it is none."""
    n_q, n_k = seen.shape
    if bool(seen.all()):
        return (Diagonals(None, None, "upper_left"),)
    if not bool(seen.any()):
        return ()
    columns, shown = torch.arange(n_k), seen.any(-1)
    first = torch.where(seen, columns, n_k).amin(-1)[shown]
    last = torch.where(seen, columns, -1).amax(-1)[shown]
    found = []
    for alignment in ("upper_left", "lower_right") if n_q != n_k else ("upper_left",):
        offset = n_k - n_q if alignment == "lower_right" else 0
        places = (torch.arange(n_q) + offset)[shown]
        low, high = int((first - places).min()), int((last - places).max())
        diagonals = Diagonals(
            None if low <= 1 - n_q - offset else low, None if high >= n_k - 1 - offset else high, alignment
        )
        distance = columns[None, :] - torch.arange(n_q)[:, None] - offset
        if torch.equal((distance >= low) & (distance <= high), seen):
            found.append(diagonals)
    return tuple(sorted(found, key=lambda diagonals: diagonals.high not in (0, -1, None)))
