"""The formula itself, written out: a normalizer's score, weights and output on one row of a case, and derivatives.

This is what a plan is compared with. It knows formulas alone: nothing of passes, stable forms or symbolic derivatives.
Derivatives are central differences at two distances, extrapolated; where they don't agree with each other, near a kink
or a step of the formula, there is no derivative to compare with. What is detached stays constant meanwhile.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from random import Random

from attngen.ir import Name, Normalizer
from attngen.selfcheck.case import Case, Shift
from attngen.selfcheck.evaluate import Evaluation, program

_STEP = 1e-4
_AGREEMENT = 1e-4  # of the two central differences, relative to the scale of the gradient
_NOISE = 1e-8  # what jitter may change of a row that is to be telling, relative to its largest number
_KINK = 2e-2  # change of slope over one step, relative to it


@dataclass
class RowFormula:
    """Evaluations on one row that hold the same values detached."""

    score: Evaluation
    weights: Evaluation
    output: Evaluation

    @classmethod
    def of(cls, width: int, channels: int, jitter: Random | None = None) -> "RowFormula":
        return cls(*(Evaluation(size, jitter=jitter) for size in (width, width, channels)))

    @property
    def overflowed(self) -> bool:
        return self.score.overflowed or self.weights.overflowed or self.output.overflowed


@dataclass
class OnCase:
    """The formula on one case.

    `base`: the weights of each row, and `outputs` its channels; `noise` and `output_noise`: how far a weight, or a
    channel, of each row moves when every step of its evaluation errs by `evaluate.JITTER`; `is_tame`: nothing overflows
    on the way, not even in a branch that isn't taken.
    """

    formula: "Formula"
    case: Case
    rows: list[RowFormula] = field(init=False)
    base: list[list[float]] = field(init=False)
    outputs: list[list[float]] = field(init=False)
    noise: list[float] = field(init=False)
    output_noise: list[float] = field(init=False)
    is_tame: bool = True

    def __post_init__(self) -> None:
        rows = range(len(self.case.seen))
        self.rows = [self._held(row) for row in rows]
        self.base = [self.formula.weights(self.case, row, self.rows[row]) for row in rows]
        self.outputs = [self.formula.output(self.case, row, self.rows[row], self.base[row]) for row in rows]
        self.noise, self.output_noise = map(list, zip(*map(self._noise, rows), strict=True))

    def _held(self, row: int, jitter: Random | None = None) -> RowFormula:
        return RowFormula.of(len(self.case.seen[row]), len(self.case.value[0]), jitter)

    def _noise(self, row: int) -> tuple[float, float]:
        held = self._held(row, Random(row))
        weights = self.formula.weights(self.case, row, held)
        output = self.formula.output(self.case, row, held, weights)
        self.is_tame &= not held.overflowed
        return _largest_change(weights, self.base[row]), _largest_change(output, self.outputs[row])

    @property
    def is_telling(self) -> bool:
        """Whether nothing overflows, and rounding leaves digits of the largest weight and output of each row.

        Others say little of a plan: where p is nearly one, 1 - p is the rounding of p.
        """
        found = (*zip(self.noise, self.base, strict=True), *zip(self.output_noise, self.outputs, strict=True))
        return self.is_tame and all(noise <= _NOISE * max(map(abs, values)) for noise, values in found)

    def is_finite(self) -> bool:
        return all(math.isfinite(x) for row in (*self.base, *self.outputs) for x in row)

    def unsolved(self) -> tuple[str, ...]:
        """Roots that have no value in some row, not being the only zero between their bounds."""
        return tuple(dict.fromkeys(name for row in self.rows for name in row.weights.unsolved))

    def slope_noise(self) -> float:
        """What rounding makes of a difference quotient; it errs a hundred times less than the jitter."""
        rows = range(len(self.rows))
        if self.formula.is_weighted_sum:
            noise = sum(self.noise[row] * _magnitude(self.case.d_weights(row)) for row in rows)
        else:
            noise = sum(self.output_noise[row] * _magnitude(self.case.d_out[row]) for row in rows)
        return noise / (100 * _STEP)

    def size(self) -> float:
        """A bound of sum_rows dO . O, the number that is differentiated."""
        rows = range(len(self.rows))
        if self.formula.is_weighted_sum:
            return sum(_magnitude(_products(self.base[row], self.case.d_weights(row))) for row in rows)
        return sum(_magnitude(_products(self.outputs[row], self.case.d_out[row])) for row in rows)

    def change(self, shift: Shift) -> float:
        """How sum_rows dO . O changes when one number is shifted."""
        return sum(self._change_of(row, shift) for row in filter(shift.changes, range(len(self.rows))))

    def _change_of(self, row: int, shift: Shift) -> float:
        """The differences come first: those of the weights, where the output is no more than their sum of values."""
        case, held = self.case, self.rows[row]
        weights = self.formula.weights(case, row, held, shift)
        if self.formula.is_weighted_sum:
            return sum(_products(_differences(weights, self.base[row]), case.d_weights(row)))
        output = self.formula.output(case, row, held, weights, shift)
        return sum(_products(_differences(output, self.outputs[row]), case.d_out[row]))

    def derivative(self, shift: Shift, scale: float) -> float | None:
        """d sum_rows dO . O / d number, or None where the differences don't show one."""
        up, down, far_up, far_down = (self.change(shift.by(steps * _STEP)) for steps in (1, -1, 2, -2))
        near, far = (up - down) / (2 * _STEP), (far_up - far_down) / (4 * _STEP)
        bound = scale + abs(near)
        smooth = abs(near - far) <= _AGREEMENT * bound and abs(up + down) <= _KINK * bound * _STEP
        return (4 * near - far) / 3 if smooth else None  # not smooth if anything is NaN


class Formula:
    """`is_weighted_sum`: the output is the weighted sum as it is."""

    def __init__(self, normalizer: Normalizer) -> None:
        self.score, self.of_score = program(normalizer.score), program(normalizer.weights)
        self.of_sum = program(normalizer.output)
        self.is_weighted_sum = normalizer.output == Name("o")

    def weights(self, case: Case, row: int, held: RowFormula, shift: Shift | None = None) -> list[float]:
        names = case.names(row, shift)
        scores = held.score.run(self.score, names)
        return held.weights.run(self.of_score, {**names, "s": scores})

    def output(
        self, case: Case, row: int, held: RowFormula, weights: list[float], shift: Shift | None = None
    ) -> list[float]:
        """The channels of a row, from its weights."""
        values = [case.value[key] for key in case.seen[row]]
        weighted = [sum(_products(weights, channel)) for channel in zip(*values, strict=True)]
        return held.output.run(self.of_sum, {**case.names(row, shift), "o": weighted})


def _products(a: Sequence[float], b: Sequence[float]) -> list[float]:
    return [x * y for x, y in zip(a, b, strict=True)]


def _differences(a: Sequence[float], b: Sequence[float]) -> list[float]:
    return [x - y for x, y in zip(a, b, strict=True)]


def _magnitude(values: Sequence[float]) -> float:
    return sum(map(abs, values))


def _largest_change(a: Sequence[float], b: Sequence[float]) -> float:
    return max(map(abs, _differences(a, b)))
