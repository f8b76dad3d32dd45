"""The backward kernel for Hopper: lines of the key kernel -> the same, cut by who computes them and when.

The kernel walks over the queries. What rows alone decide is computed once per row by the warpgroup that loads; the
others get it through shared memory. Weights need the scores and not the second product, so that they are computed while
that is in flight. Formulas are not changed.
"""

from collections.abc import Iterable

from attngen.emit.context import HopperBackward, KeyText, Section, TileStep
from attngen.emit.lines import computed, read

MOST_LINES = 8  # formulas of more of them need more registers than there are beside dK and dV
MOST_WAITING = {64: 3, 128: 1}  # head dim -> tiles that wait for the second product
MOST_BESIDE_WAITING = 4  # lines of weights and the vectors that they read, at head dim 128
_LONG_FUNCTIONS = ("_erf_short(", "_tanh_short(", "_expm1(")
_BRANCHING_FUNCTIONS = ("_sin(", "_cos(")


def backward_text(key: KeyText, dp: str, row_values: Iterable[str]) -> HopperBackward:
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
    return HopperBackward(key, before_rows, loaded, values, rows, through, weights, gradients, kept)


def fits(backward: HopperBackward, head_dim: int) -> bool:
    """Whether registers hold dK, dV and what a tile's formulas need; found by reading spills."""
    weights, gradients = backward.weights, backward.gradients
    waiting = {*backward.kept} | {weights.result} & {*gradients.given}
    if _calls(backward, _BRANCHING_FUNCTIONS):
        return False
    in_place = len(weights.lines) <= MOST_LINES and len(waiting) <= MOST_WAITING[head_dim]
    long = _calls(backward, _LONG_FUNCTIONS)
    if head_dim <= 64:
        return in_place and not (long and len(waiting) == MOST_WAITING[head_dim])
    # Scores that wait do so where the product left them, and registers around them go to waste.
    crowded = backward.kept and len(weights.lines) + len(weights.rows) > MOST_BESIDE_WAITING
    return in_place and "qk" not in waiting and not long and not crowded


def _calls(backward: HopperBackward, functions: tuple[str, ...]) -> bool:
    lines = (*backward.weights.lines, *backward.gradients.lines)
    return any(function in line for function in functions for line in lines)


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
