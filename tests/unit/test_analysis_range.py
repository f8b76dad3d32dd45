"""Plans work in fp32's range: with scores up to a hundred and fifty nothing that matters overflows or vanishes.

The plan is executed in float64, but what fp32 can't hold becomes infinite or zero in every step. The formula itself is
evaluated in all of float64's range.
"""

import math
from random import Random

import pytest

from attngen.selfcheck import execute
from attngen.selfcheck.case import draw
from attngen.selfcheck.compare import difference
from attngen.selfcheck.evaluate import Evaluation, Names, Step
from attngen.selfcheck.formula import Formula, OnCase
from tests.unit.made_up import plan_of
from tests.unit.test_selfcheck_formulas import FORMULAS

LARGEST, SMALLEST = 3.4e38, 1.2e-38
# Weights, or what channels are divided by, of which some can't be held by fp32 themselves.
OUT_OF_RANGE = {
    "factor that underflows", "geometric mean", "norm's exponent", "softplus decay", "exponentials that are all small",
    "sigmoid of large statistics",
}  # fmt: skip
SCORES = (150.0, 60.0, 95.0)


def held(x: float) -> float:
    if abs(x) > LARGEST:
        return math.copysign(math.inf, x)
    return x if abs(x) >= SMALLEST or x != x else 0.0


class Narrow(Evaluation):
    """An evaluation that can't hold more than fp32 can."""

    def _value(self, step: Step, values: list[list[float]], names: Names) -> list[float]:
        return [held(x) for x in super()._value(step, values, names)]


@pytest.mark.parametrize("name", sorted(FORMULAS.keys() - OUT_OF_RANGE))
def test_plans_work_in_the_range_of_fp32(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(execute, "Evaluation", Narrow)
    plan = plan_of(FORMULAS[name])
    formula, execution = Formula(plan.normalizer), execute.Execution(plan)
    for seed in range(9):
        truth = OnCase(formula, draw(plan.normalizer.inputs, Random(seed), 0, SCORES[seed % 3]))
        if truth.is_finite() and truth.is_telling:
            assert difference(execution, truth) is None
