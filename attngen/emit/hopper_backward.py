"""The backward kernel for Hopper: lines of the key kernel -> the same, cut by who computes them and when.

The kernel walks over the queries. What rows alone decide is computed once per row by the warpgroup that loads; the
others get it through shared memory. Weights need the scores and not the second product, so that they are computed while
that is in flight. Formulas are not changed.
"""

import re
from collections.abc import Iterable

from attngen.emit.context import HopperBackward, KeyText, Section, TileStep
from attngen.emit.lines import computed, read

# Found by reading spills, by head dim: lines of weights, and tiles that gradients need beside the second product.
MOST_LINES = {64: 10, 128: 8}
MOST_WAITING = {64: 3, 128: 2}
# Beyond these the second product starts behind the weights: at head dim 64, lines of weights, and vectors of rows
# beside as many waiting tiles as there may be; at head dim 128, lines of weights beside a waiting tile.
MOST_LINES_EARLY, MOST_VECTORS_EARLY = 8, 2
MOST_LINES_BESIDE = 3
EARLY_BESIDE_SUMS = 64  # where there are vectors of rows: sums of inputs' gradients need two registers more
_LONG = re.compile(r"tl\.exp2\(|(?<!\w)_(?!square)\w+\(")  # functions that need registers of their own
_BRANCHING = re.compile(r"(?<!\w)_(sin|cos)\(")


def backward_text(key: KeyText, dp: str, row_values: Iterable[str], dq_factor: str) -> HopperBackward:
    """`row_values` are what the forward saved of each row; `dp` is the second product."""
    main = key.main
    spread = (line for line in main.inner if "[None, :]" in line or "[:, None]" in line)
    tile = _depending((computed(line) for line in spread), main.inner, {"qk", dp})
    rows = tuple(line for line in main.inner if line not in tile)
    late = _depending((), tile, {dp})
    early = tuple(line for line in tile if line not in late)
    vectors = {*row_values, *_vectors(main), *map(computed, rows)}
    weights, gradients = _step(early, main.weight, vectors, {"qk"}), _step(late, main.dqk, vectors, {dp})
    kept = tuple(name for name in gradients.given if name in {"qk", *map(computed, early)} - {main.weight})
    through = tuple(dict.fromkeys((*weights.rows, *gradients.rows)))
    before_rows = _leading_to((*rows, *through), main.outer)
    needed = read((*before_rows, *rows, *through))
    loaded = tuple(use for use in main.uses.inputs if f"{use.name}_in" in needed and use.level in ("uniform", "row"))
    values = tuple(name for name in row_values if name in needed)
    early_to, is_apart = _order(weights, gradients, kept, len(through))
    early_beside_sums = min(early_to, EARLY_BESIDE_SUMS) if key.sums and through else early_to
    read_of_rows = before_rows, loaded, values, rows, through
    order = early_to, early_beside_sums, is_apart
    return HopperBackward(key, *read_of_rows, weights, gradients, kept, *order, dq_factor)


def _order(weights: TileStep, gradients: TileStep, kept: tuple[str, ...], vectors: int) -> tuple[int, bool]:
    """Up to which head dim the second product starts early; and whether it is beyond that awaited with nothing else."""
    lines, waiting = len(weights.lines), len(_waiting(weights, gradients, kept))
    if lines > MOST_LINES_EARLY or (waiting == MOST_WAITING[64] and vectors > MOST_VECTORS_EARLY):
        return 0, True
    if waiting < 2 and (not kept or (lines <= MOST_LINES_BESIDE and len(weights.rows) <= 1)):
        return 128, False
    return 64, waiting > 1 or lines >= MOST_LINES_BESIDE


def _waiting(weights: TileStep, gradients: TileStep, kept: tuple[str, ...]) -> set[str]:
    """Tiles that gradients need and that are there before the second product."""
    return {*kept} | {weights.result} & {*gradients.given}


def fits(backward: HopperBackward, head_dim: int) -> bool:
    """Whether registers hold dK, dV and what a tile's formulas need."""
    weights, gradients = backward.weights, backward.gradients
    waiting = len(_waiting(weights, gradients, backward.kept))
    is_long = any(_LONG.search(line) for line in (*gradients.lines, gradients.result))
    in_place = len(weights.lines) <= MOST_LINES[head_dim] and waiting <= MOST_WAITING[head_dim]
    branches = any(_BRANCHING.search(line) for line in (*weights.lines, *gradients.lines))
    return in_place and not branches and (head_dim <= 64 or waiting < 2 or not is_long)


def _step(lines: tuple[str, ...], result: str, vectors: set[str], own: set[str]) -> TileStep:
    """What lines read beside `own` and what they compute themselves: vectors of rows, and the rest."""
    known = {*own, *map(computed, lines)}
    given = [name for name in read((*lines, result)) if name not in known]
    rows = tuple(name for name in given if name in vectors)
    return TileStep(rows, tuple(name for name in given if name not in vectors), lines, result)


def _vectors(main: Section) -> set[str]:
    """What is read of each row beside its saved values."""
    return {"i", "n"} & main.uses.builtins | {f"{use.name}_in" for use in main.uses.inputs if use.level == "row"}


def _depending(first: Iterable[str], lines: Iterable[str], names: set[str]) -> tuple[str, ...]:
    """The lines that compute one of `first` or need one of `names`, directly or not."""
    computing, reached = set(first), set(names)
    found = []
    for line in lines:
        if computed(line) in computing or not reached.isdisjoint(read((line,))):
            reached.add(computed(line))
            found.append(line)
    return tuple(found)


def _leading_to(texts: Iterable[str], lines: tuple[str, ...]) -> tuple[str, ...]:
    """Those of `lines` that `texts` need, directly or not."""
    needed, found = set(read(texts)), []
    for line in reversed(lines):
        if computed(line) in needed:
            needed.update(read((line,)))
            found.append(line)
    return tuple(reversed(found))
