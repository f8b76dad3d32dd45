"""The backward kernel for Hopper: lines of the key kernel -> the same, cut by who computes them and when.

The kernel walks over the queries. What rows alone decide is computed once per row by the warpgroup that loads; the
others get it through shared memory. Weights need the scores and not the second product, so that they are computed while
that is in flight. Formulas are not changed.
"""

import re
from collections.abc import Iterable

from attngen.emit.configs import HOPPER_BACKWARD, HOPPER_BACKWARD_SHORT, HopperTile
from attngen.emit.context import HopperBackward, KeyText, Section, TileStep
from attngen.emit.lines import computed, read

# Found by reading spills, by head dim: lines of weights; the same where logistic functions share reciprocals, for which
# several scores of a thread have to be there; tiles that gradients need beside the second product; and these twice with
# the vectors beside them, of rows for the gradients and of keys.
MOST_LINES = {64: 10, 128: 8}
MOST_LINES_SHARING = {64: 5, 128: 3}
MOST_WAITING = {64: 3, 128: 2}
MOST_BESIDE = {64: 11, 128: 6}
# Beyond these the second product starts behind the weights: at head dim 64, lines of weights, and vectors of rows
# beside as many waiting tiles as there may be; at head dim 128, lines of weights beside a waiting tile, and vectors of
# keys.
MOST_LINES_EARLY, MOST_VECTORS_EARLY = 8, 2
MOST_LINES_BESIDE = 3
MOST_OF_KEYS_EARLY = 1
EARLY_BESIDE_SUMS = 64  # where there are vectors of rows: sums of inputs' gradients need two registers more
_LONG = re.compile(r"tl\.exp2\(|(?<!\w)_(?!square)\w+\(")  # functions that need registers of their own
_SHARING = re.compile(r"(?<!\w)_\w+_shared\(")
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
    early_to, is_apart = _order(weights, gradients, kept, (len(through), len(_of_keys(main, weights, gradients))))
    early_beside_sums = min(early_to, EARLY_BESIDE_SUMS) if key.sums and through else early_to
    read_of_rows = before_rows, loaded, values, rows, through
    order = early_to, not _branches(weights, gradients), early_beside_sums, is_apart
    return HopperBackward(key, *read_of_rows, weights, gradients, kept, *order, dq_factor)


def _order(weights: TileStep, gradients: TileStep, kept: tuple[str, ...], vectors: tuple[int, int]) -> tuple[int, bool]:
    """Up to which head dim the second product starts early; and whether it is beyond that awaited with nothing else.
    `vectors` is how many of rows and of keys there are."""
    lines, waiting, (of_rows, of_keys) = len(weights.lines), len(_waiting(weights, gradients, kept)), vectors
    if lines > MOST_LINES_EARLY or (waiting == MOST_WAITING[64] and of_rows > MOST_VECTORS_EARLY):
        return 0, True
    has_room = waiting < 2 and of_keys <= MOST_OF_KEYS_EARLY
    if has_room and (not kept or (lines <= MOST_LINES_BESIDE and len(weights.rows) <= 1)):
        return 128, False
    return 64, waiting > 1 or lines >= MOST_LINES_BESIDE


def _waiting(weights: TileStep, gradients: TileStep, kept: tuple[str, ...]) -> set[str]:
    """Tiles that gradients need and that are there before the second product."""
    return {*kept} | {weights.result} & {*gradients.given}


def _of_keys(main: Section, weights: TileStep, gradients: TileStep) -> set[str]:
    """Vectors of keys that a tile's lines read; they stay in registers all the time."""
    first = {"j", *(f"{use.name}_in" for use in main.uses.inputs if use.level == "key")}
    vectors = first | {*map(computed, _depending((), main.outer, first))}
    return vectors & {*weights.given, *gradients.given}


def tiles(backward: HopperBackward) -> tuple[HopperTile, ...]:
    """Those whose registers hold dK, dV and what a tile's formulas need; of two for the same head dims the larger."""
    large = tuple(tile for tile in HOPPER_BACKWARD if _fits(backward, tile.width))
    served = {(tile.head_dim, tile.value_dim) for tile in large}
    # Half the scores leave as many registers at head dim 128 as there are at 64.
    short = HOPPER_BACKWARD_SHORT if _fits(backward, 64) else ()
    return (*large, *(tile for tile in short if (tile.head_dim, tile.value_dim) not in served))


def _fits(backward: HopperBackward, head_dim: int) -> bool:
    weights, gradients = backward.weights, backward.gradients
    waiting = len(_waiting(weights, gradients, backward.kept))
    beside = 2 * waiting + len(gradients.rows) + len(_of_keys(backward.key.main, weights, gradients))
    most_lines = (MOST_LINES_SHARING if any(map(_SHARING.search, weights.lines)) else MOST_LINES)[head_dim]
    in_place = (
        len(weights.lines) <= most_lines and waiting <= MOST_WAITING[head_dim] and beside <= MOST_BESIDE[head_dim]
    )
    is_long = any(map(_LONG.search, (*gradients.lines, gradients.result)))
    return in_place and (head_dim <= 64 or not (_branches(weights, gradients) or (waiting >= 2 and is_long)))


def _branches(weights: TileStep, gradients: TileStep) -> bool:
    return any(map(_BRANCHING.search, (*weights.lines, *gradients.lines)))


def _step(lines: tuple[str, ...], result: str, of_rows: set[str], own: set[str]) -> TileStep:
    """What lines read beside `own` and what they compute themselves; `of_rows` are vectors of rows."""
    known = {*own, *map(computed, lines)}
    read_there = [name for name in read((*lines, result)) if name not in known]
    rows = tuple(name for name in read_there if name in of_rows)
    given = tuple(name for name in read_there if name not in of_rows)
    return TileStep(rows, given, lines, result)


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
