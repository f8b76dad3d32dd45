"""The search that kernels make: few trials on smooth residuals, a zero also on those that mislead Halley's method."""

import math
from collections.abc import Callable
from sys import float_info

import pytest

from attngen.schedule import ROOT_TRIALS
from attngen.selfcheck.search import Trial, zero_between

Residual = Callable[[float], Trial]


def searched(low: float, high: float, direction: int, residual: Residual) -> tuple[float, list[float]]:
    trials: list[float] = []

    def trial(x: float) -> Trial:
        trials.append(x)
        return residual(x)

    return zero_between(low, high, direction, trial), trials


def power(x: float) -> Trial:
    gaps = [max(s - x, 0.0) for s in (0.0, -0.2, -0.7, -3.0)]
    return Trial(sum(g * g for g in gaps) - 1, -2 * sum(gaps), 2.0 * sum(g > 0 for g in gaps))


@pytest.mark.parametrize("low", [-1.0, -1e3, -1e9])
def test_a_threshold_takes_few_trials_and_begins_at_the_lower_bound(low: float) -> None:
    found, trials = searched(low, 0.0, 1, power)
    assert power(found).residual == pytest.approx(0, abs=1e-14)
    assert trials[0] == low
    assert 3 <= len(trials) <= (8 if low == -1 else ROOT_TRIALS)


def test_an_unknown_direction_is_told_by_both_bounds() -> None:
    """At the lower bound the residual falls, although it rises to its zero."""
    found, trials = searched(0.0, 10.0, 0, lambda x: Trial((x - 1) ** 2 - 4, 2 * (x - 1), 2.0))
    assert trials[:2] == [10.0, 0.0]
    assert found == pytest.approx(3.0)


@pytest.mark.parametrize("direction", [1, 0])
def test_bounds_may_be_in_any_order_or_equal(direction: int) -> None:
    assert searched(0.0, -1.0, direction, power)[0] == searched(-1.0, 0.0, direction, power)[0]
    assert searched(-0.3, -0.3, direction, power)[0] == -0.3


def test_every_trial_stays_between_the_bounds() -> None:
    def steep(x: float) -> Trial:
        return Trial(math.atan(50 * (x - 0.3)), 50 / (1 + (50 * (x - 0.3)) ** 2), 0.0)

    found, trials = searched(-4.0, 4.0, -1, steep)
    assert found == pytest.approx(0.3, abs=1e-12)
    assert all(-4 <= x <= 4 for x in trials)


def test_a_flat_slope_is_halved_away() -> None:
    def kinked(x: float) -> Trial:
        return Trial(-1.0, 0.0) if x < 0.5 else Trial(x - 0.75, 1.0)

    found, trials = searched(0.0, 1.0, -1, kinked)
    assert found == pytest.approx(0.75)
    assert trials[1] == 0.5
    assert len(trials) < ROOT_TRIALS


def test_without_a_zero_a_search_ends_soon_at_the_bound_nearer_to_one() -> None:
    assert searched(0.0, 1.0, -1, lambda x: Trial(x - 3, 1.0)) == (1.0, [0.0, 1.0])
    assert searched(0.0, 1.0, -1, lambda x: Trial(x + 3, 1.0)) == (0.0, [0.0])
    assert searched(-3.0, 1.0, 0, lambda x: Trial(x * x + 1, 2 * x, 2.0))[0] == 1.0
    assert searched(-1.0, 3.0, 0, lambda x: Trial(-x * x - 1, -2 * x, -2.0))[0] == -1.0


def test_infinite_residuals_and_slopes_at_a_bound_have_signs_all_the_same() -> None:
    def logarithm(x: float) -> Trial:
        return Trial(math.log(x) + 2, 1 / x, -1 / x**2) if x else Trial(-math.inf, math.inf, -math.inf)

    def root(x: float) -> Trial:
        return Trial(math.sqrt(x) - 3, 0.5 / math.sqrt(x) if x else math.inf)

    assert searched(0.0, 100.0, -1, logarithm)[0] == pytest.approx(math.exp(-2))
    assert searched(0.0, 100.0, 0, logarithm)[0] == pytest.approx(math.exp(-2))
    assert searched(0.0, 100.0, -1, root)[0] == pytest.approx(9)
    assert math.isnan(searched(0.0, 1.0, 0, lambda x: Trial(math.nan if x == 1 else -1.0, 1.0))[0])


def test_the_last_digits_are_those_of_the_zero_not_of_the_bounds() -> None:
    found, _ = searched(0.0, 1e9, -1, lambda x: Trial(x**3 - 1e-9, 3 * x**2, 6 * x, x**3 + 1e-9))
    assert found == pytest.approx(1e-3, rel=1e-14)


def test_a_residual_below_the_rounding_of_its_terms_is_zero() -> None:
    """Otherwise a zero near the number zero would be looked for in the noise."""

    def noisy(x: float) -> Trial:
        return Trial((5.0 + x) - 5.0 + 2 * float_info.epsilon, 1.0, 0.0, 10.0)

    _, trials = searched(-1.0, 1.0, -1, noisy)
    assert len(trials) <= 3


def test_small_steps_are_no_zero_where_the_slope_changes_faster() -> None:
    """A double exponential: Newton's first step is far below the last digit of the bound."""

    def steep(x: float) -> Trial:
        grown = math.exp(x)
        return Trial(3 - grown, -grown, -grown) if x < 40 else Trial(-1e20, -1e36, -1e53)

    assert searched(-20.0, 80.0, 0, steep)[0] == pytest.approx(math.log(3))


@pytest.mark.parametrize(("bend", "factor"), [(0.0, 1.0), (0.5, 2.0), (2.0, 4.0), (-9.0, 0.25)])
def test_halleys_step_is_newtons_at_most_four_times_longer_or_shorter(bend: float, factor: float) -> None:
    assert Trial(-0.5, 1.0, -4 * bend).step == pytest.approx(0.5 * factor)


def test_steps_that_are_too_short_give_way_to_halving() -> None:
    found, trials = searched(0.0, 1.0, -1, lambda x: Trial(x - 0.75, 100.0))
    assert found == pytest.approx(0.75, abs=1e-12)
    assert len(trials) < 120
