"""Random cases: a few rows of products, inputs and values, and which keys each row sees.

A case has one head; what has no query axis is shared by its rows. Where a formula is finite is not known beforehand:
the first attempts draw ordinary numbers, later ones draw each name from one of several ranges.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from random import Random

from attngen import ir
from attngen.selfcheck.evaluate import Names

Matrix = list[list[float]]
_ORDINARY = 4  # attempts that draw every name from ordinary numbers
_RANGES = ((-0.4, 0.4), (0.1, 2.0), (2.0, 30.0), (-2.0, -0.1), (-30.0, -2.0))


@dataclass(frozen=True, slots=True)
class Shift:
    """A change of one number of a case. None: the number is shared by all rows, or all keys."""

    name: str
    row: int | None
    key: int | None
    amount: float = 0.0

    def by(self, amount: float) -> "Shift":
        return Shift(self.name, self.row, self.key, amount)

    def changes(self, row: int) -> bool:
        return self.row in (None, row)


@dataclass(frozen=True, slots=True)
class Case:
    """`pairs` and `rows`: values of the names that vary within a row, (rows, keys), and of those that don't, (rows,).

    `value` (keys, channels), `d_out` (rows, channels); `seen`: the keys of each row; `blocks`: all keys, split.
    """

    pairs: dict[str, Matrix]
    rows: dict[str, list[float]]
    value: Matrix
    d_out: Matrix
    seen: tuple[tuple[int, ...], ...]
    blocks: tuple[tuple[int, ...], ...]

    def row_names(self, row: int) -> dict[str, float]:
        return {name: values[row] for name, values in self.rows.items()}

    def names(self, row: int, shift: Shift | None = None) -> Names:
        """Everything that the pairs of one row may use; lists over the keys that it sees."""
        seen = self.seen[row]
        result: dict[str, float | list[float]] = {**self.row_names(row)}
        result |= {name: [values[row][key] for key in seen] for name, values in self.pairs.items()}
        if shift is None or not shift.changes(row):
            return result
        old = result[shift.name]
        if isinstance(old, float):
            result[shift.name] = old + shift.amount
        else:
            result[shift.name] = [
                x + shift.amount if shift.key in (None, key) else x for key, x in zip(seen, old, strict=True)
            ]
        return result

    def d_weights(self, row: int) -> list[float]:
        """dO . v of each pair of a row."""
        d_out = self.d_out[row]
        return [sum(a * b for a, b in zip(d_out, self.value[key], strict=True)) for key in self.seen[row]]


def draw(inputs: Iterable[ir.Input], random: Random, attempt: int, magnitude: float | None = None) -> Case:
    """One case; the scores are about `magnitude`, if that is given."""
    n_q, n_k = random.randint(2, 3), random.randint(5, 7)
    scale = random.uniform(0.3, 1.5)
    spread = (-magnitude / scale, magnitude / scale) if magnitude else None
    pairs = {
        "qk": _matrix(n_q, n_k, random, spread or _range(random, attempt)),
        "j": [[float(key) for key in range(n_k)] for _ in range(n_q)],
    }
    seen = _seen(n_q, n_k, random)
    rows = _row_builtins(n_q, n_k, random, attempt)
    rows |= {"scale": [scale] * n_q, "n": [float(len(keys)) for keys in seen]}
    for spec_input in inputs:
        values = _shared(_matrix(n_q, n_k, random, _range(random, attempt)), spec_input)
        if "key" in spec_input.axes:
            pairs[spec_input.name] = values
        else:
            rows[spec_input.name] = [row[0] for row in values]
    channels = random.randint(2, 3)
    value, d_out = (_matrix(size, channels, random, None) for size in (n_k, n_q))
    return Case(pairs, rows, value, d_out, seen, _blocks(n_k, random))


def _range(random: Random, attempt: int) -> tuple[float, float] | None:
    return None if attempt < _ORDINARY else random.choice(_RANGES)


def _matrix(rows: int, columns: int, random: Random, spread: tuple[float, float] | None) -> Matrix:
    if spread is None:
        return [[random.gauss(0, 1.5) for _ in range(columns)] for _ in range(rows)]
    return [[random.uniform(*spread) for _ in range(columns)] for _ in range(rows)]


def _shared(values: Matrix, spec_input: ir.Input) -> Matrix:
    """The same numbers along the axes that the input lacks."""
    if "key" not in spec_input.axes:
        values = [row[:1] * len(row) for row in values]
    return values if "query" in spec_input.axes else values[:1] * len(values)


def _row_builtins(n_q: int, n_k: int, random: Random, attempt: int) -> dict[str, list[float]]:
    first = random.randint(0 if attempt < _ORDINARY else -n_k, 2 * n_k)
    sizes = {"n_q": n_q, "n_k": n_k, "d": 4}
    positions = [float(first + row) for row in range(n_q)]
    return {"i": positions, "pi": [3.141592653589793] * n_q, **{k: [float(v)] * n_q for k, v in sizes.items()}}


def _seen(n_q: int, n_k: int, random: Random) -> tuple[tuple[int, ...], ...]:
    """The first row sees all keys, each further one a stretch of at least two: one alone is 0 / 0 to many formulas."""
    stretches = [(0, n_k)]
    for _ in range(n_q - 1):
        low = random.randint(0, n_k - 2)
        stretches.append((low, random.randint(low + 2, n_k if low else n_k - 1)))
    return tuple(tuple(range(*stretch)) for stretch in stretches)


def _blocks(n_k: int, random: Random) -> tuple[tuple[int, ...], ...]:
    """A random partition of the keys, with a block that holds none."""
    keys = random.sample(range(n_k), n_k)
    blocks: list[tuple[int, ...]] = [()]
    while keys:
        size = random.randint(1, 3)
        blocks.append(tuple(keys[:size]))
        keys = keys[size:]
    return tuple(random.sample(blocks, len(blocks)))
