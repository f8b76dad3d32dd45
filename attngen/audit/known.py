"""Bars that are known to be missed, each with figure and reason: from a file of these to what is worse than it says.

The file lists, for a kernel, a head dim and a bar, the figure of each op that misses it. It is edited by hand, when a
new figure has been looked into.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from attngen.audit.bars import Miss, misses
from attngen.audit.report import Row

DIGITS = 4  # of figures, behind the point


@dataclass(frozen=True, slots=True)
class KnownMiss:
    """The ops of which one kernel misses one bar, with their figures."""

    kernel: str
    head_dim: int
    bar: str
    reason: str
    figures: Mapping[str, float]


def read_known(path: Path) -> tuple[KnownMiss, ...]:
    """What a file of known misses says."""
    return tuple(KnownMiss(**entry) for entry in json.loads(path.read_text("utf-8")))


def worse_than_known(row: Row, op: str, known: tuple[KnownMiss, ...]) -> Iterator[Miss]:
    """The bars that a row of `op` misses and isn't known to, or misses by more than is known."""
    for miss in misses(row, op):
        place = (row.kernel.removeprefix(f"{op}_"), row.head_dim, miss.bar.name)
        figures = [k.figures[op] for k in known if (k.kernel, k.head_dim, k.bar) == place and op in k.figures]
        if all(replace(miss.bar, limit=figure).is_missed(round(miss.figure, DIGITS)) for figure in figures):
            yield miss
