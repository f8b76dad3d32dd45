"""Bars that are missed are known to be, each by so much: what is worse is told, and what has become better stays so."""

import json
from pathlib import Path

import pytest

from attngen.audit.known import DIGITS, KnownMiss, read_known, worse_than_known
from tests.kernels.test_audit import with_need

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.mark.parametrize(
    ("known", "waits", "is_worse"),
    [
        ({}, 4, False),
        ({}, 5, True),
        ({"sample": 0.3125}, 5, False),
        ({"sample": 0.3}, 5, True),
        ({"other": 1}, 5, True),
    ],
)
def test_what_is_worse_than_known(known: dict[str, float], waits: int, is_worse: bool) -> None:
    """16 products and at most 4 waits; some ops are known to have more."""
    row = with_need(waits=waits)
    found = worse_than_known(row, "sample", (KnownMiss("forward", 64, "waits per HGMMA", "why", known),))
    assert bool(list(found)) == is_worse


def test_known_misses_are_those_of_the_last_audit() -> None:
    """Neither more, so that what has become better stays so, nor fewer."""
    rows = json.loads((BENCHMARKS / "results" / "audit-sm_90.json").read_text("utf-8"))["rows"]
    missed = {(row["spec"], row["kernel"], row["head_dim"], text) for row in rows for text in row["misses"]}
    known = {
        (op, k.kernel, k.head_dim, k.bar, figure)
        for k in read_known(BENCHMARKS / "known_misses.json")
        for op, figure in k.figures.items()
    }
    assert known == {(*row, *_bar_and_figure(text)) for *row, text in missed}


def _bar_and_figure(text: str) -> tuple[str, float]:
    """Of "waits per HGMMA 0.3, at most 0.25"."""
    bar, figure = text.split(", at ")[0].rsplit(" ", 1)
    return bar, round(float(figure), DIGITS)
