"""The formula itself, written out: a normalizer's score and weights on one row of a case, and their derivatives.

This is what a plan is compared with. It knows formulas alone: nothing of passes, stable forms or symbolic derivatives.
Derivatives are central differences at two distances, extrapolated; where they don't agree with each other, near a kink
or a step of the formula, there is no derivative to compare with. What is detached stays constant meanwhile.
"""

import math
from dataclasses import dataclass, field
from random import Random

from attngen.ir import Normalizer
from attngen.selfcheck.case import Case, Shift
from attngen.selfcheck.evaluate import Evaluation, program

_STEP = 1e-4
_AGREEMENT = 1e-4  # of the two central differences, relative to the scale of the gradient
_KINK = 2e-2  # change of slope over one step, relative to it


@dataclass
class RowFormula:
    """Evaluations on one row that hold the same values detached."""

    score: Evaluation
    weights: Evaluation

    @classmethod
    def of(cls, width: int, jitter: Random | None = None) -> "RowFormula":
        return cls(Evaluation(width, jitter=jitter), Evaluation(width, jitter=jitter))


@dataclass
class OnCase:
    """The formula on one case.

    `base`: the weights of each row; `noise`: how far a weight of each row moves when every step of its evaluation errs
    by `evaluate.JITTER`; `is_tame`: nothing overflows on the way, not even in a branch that isn't taken.
    """

    formula: "Formula"
    case: Case
    rows: list[RowFormula] = field(init=False)
    base: list[list[float]] = field(init=False)
    noise: list[float] = field(init=False)
    is_tame: bool = True

    def __post_init__(self) -> None:
        self.rows = [RowFormula.of(len(seen)) for seen in self.case.seen]
        self.base = [self.formula.weights(self.case, row, held) for row, held in enumerate(self.rows)]
        self.noise = [self._noise(row, Random(row)) for row in range(len(self.rows))]

    def _noise(self, row: int, random: Random) -> float:
        held = RowFormula.of(len(self.case.seen[row]), random)
        jittered = self.formula.weights(self.case, row, held)
        self.is_tame &= not (held.score.overflowed or held.weights.overflowed)
        return max(abs(x - y) for x, y in zip(jittered, self.base[row], strict=True))

    def is_finite(self) -> bool:
        return all(math.isfinite(weight) for row in self.base for weight in row)

    def slope_noise(self) -> float:
        """What rounding makes of a difference quotient; it errs a hundred times less than the jitter."""
        sizes = [sum(map(abs, self.case.d_weights(row))) for row in range(len(self.rows))]
        return sum(noise * size for noise, size in zip(self.noise, sizes, strict=True)) / (100 * _STEP)

    def size(self) -> float:
        """A bound of sum_rows dO . O, the number that is differentiated."""
        rows = range(len(self.rows))
        return sum(abs(w * dw) for row in rows for w, dw in zip(self.base[row], self.case.d_weights(row), strict=True))

    def change(self, shift: Shift) -> float:
        """How sum_rows dO . O changes when one number is shifted."""
        total = 0.0
        for row in filter(shift.changes, range(len(self.rows))):
            shifted = self.formula.weights(self.case, row, self.rows[row], shift)
            d_weights = self.case.d_weights(row)
            total += sum((x - y) * dw for x, y, dw in zip(shifted, self.base[row], d_weights, strict=True))
        return total

    def derivative(self, shift: Shift, scale: float) -> float | None:
        """d sum_rows dO . O / d number, or None where the differences don't show one."""
        up, down, far_up, far_down = (self.change(shift.by(steps * _STEP)) for steps in (1, -1, 2, -2))
        near, far = (up - down) / (2 * _STEP), (far_up - far_down) / (4 * _STEP)
        bound = scale + abs(near)
        smooth = abs(near - far) <= _AGREEMENT * bound and abs(up + down) <= _KINK * bound * _STEP
        return (4 * near - far) / 3 if smooth else None  # not smooth if anything is NaN


class Formula:
    def __init__(self, normalizer: Normalizer) -> None:
        self.score, self.of_score = program(normalizer.score), program(normalizer.weights)

    def weights(self, case: Case, row: int, held: RowFormula, shift: Shift | None = None) -> list[float]:
        names = case.names(row, shift)
        scores = held.score.run(self.score, names)
        return held.weights.run(self.of_score, {**names, "s": scores})
