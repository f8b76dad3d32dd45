"""The search that kernels make: few trials on smooth residuals, a zero also on those that mislead Halley's method."""

import math
from collections.abc import Callable

import pytest

from attngen.schedule import ROOT_TRIALS
from attngen.selfcheck.search import halley, zero_between

Residual = Callable[[float], tuple[float, float, float]]


def searched(low: float, high: float, direction: int, residual: Residual) -> tuple[float, list[float]]:
    trials: list[float] = []

    def trial(x: float) -> tuple[float, float, float]:
        trials.append(x)
        return residual(x)

    return zero_between(low, high, direction, trial), trials


def power(x: float) -> tuple[float, float, float]:
    gaps = [max(s - x, 0.0) for s in (0.0, -0.2, -0.7, -3.0)]
    return sum(g * g for g in gaps) - 1, -2 * sum(gaps), 2.0 * sum(g > 0 for g in gaps)


@pytest.mark.parametrize("direction", [1, 0])
def test_a_threshold_takes_few_trials_and_begins_at_the_first_bound(direction: int) -> None:
    found, trials = searched(-1.0, 0.0, direction, power)
    assert power(found)[0] == pytest.approx(0, abs=1e-14)
    assert trials[0] == -1.0
    assert 3 <= len(trials) <= 8


def test_every_trial_stays_between_the_bounds() -> None:
    def steep(x: float) -> tuple[float, float, float]:
        return math.atan(50 * (x - 0.3)), 50 / (1 + (50 * (x - 0.3)) ** 2), 0.0

    found, trials = searched(-4.0, 4.0, -1, steep)
    assert found == pytest.approx(0.3, abs=1e-12)
    assert all(-4 <= x <= 4 for x in trials)


def test_a_flat_slope_is_halved_away() -> None:
    def kinked(x: float) -> tuple[float, float, float]:
        return (-1.0, 0.0, 0.0) if x < 0.5 else (x - 0.75, 1.0, 0.0)

    found, trials = searched(0.0, 1.0, -1, kinked)
    assert found == pytest.approx(0.75)
    assert trials[1] == 0.5
    assert len(trials) < ROOT_TRIALS


def test_without_a_zero_the_search_ends_at_a_bound() -> None:
    assert searched(0.0, 1.0, -1, lambda x: (x - 3, 1.0, 0.0))[0] == pytest.approx(1.0)


@pytest.mark.parametrize(("bend", "factor"), [(0.0, 1.0), (0.5, 2.0), (2.0, 4.0), (-9.0, 0.25)])
def test_halleys_step_is_newtons_at_most_four_times_longer_or_shorter(bend: float, factor: float) -> None:
    assert halley(0.5, bend) == pytest.approx(0.5 * factor)


def test_steps_that_are_too_short_give_way_to_halving() -> None:
    found, trials = searched(0.0, 1.0, -1, lambda x: (x - 0.75, 100.0, 0.0))
    assert found == pytest.approx(0.75, abs=1e-12)
    assert len(trials) < 120
