"""What is stable: which sums get a pivot, and that nothing carried relative to it can overflow."""

from random import Random

import pytest

from attngen import ir
from attngen.analysis.result import Analysis
from attngen.selfcheck.evaluate import Evaluation, program
from tests.unit.made_up import HEAD, KEY, SOFTMAX, SOFTPLUS_L1, analysis_of, operations

NO_PIVOT = {
    "softplus": (SOFTPLUS_L1, {}),
    "sigmoid": ("sigmoid(s) / sum(sigmoid(s))", {}),
    "silu": ("silu(s) / n_k", {}),
    "polynomial": ("f / sum(f)", {"f": "1 + s + s ** 2 / 2"}),
    "relu": ("relu(s) ** 2 / (1 + sum(relu(s) ** 2))", {}),
    "spelled sigmoid": ("f / sum(f)", {"f": "1 / (1 + exp(-s))"}),
    "spelled softplus": ("f / sum(f)", {"f": "log(1 + exp(s))"}),
    "tanh": ("tanh(s) / sum(abs(tanh(s)))", {}),
    "exponential that isn't normalized": ("exp(s)", {}),
}
PIVOTS = {
    "softmax": (SOFTMAX, {}, 1),
    "softmax1": ("exp(s) / (1 + sum(exp(s)))", {}, 1),
    "two powers of one exponential": ("exp(s) * sum(exp(2 * s)) / sum(exp(s)) ** 3", {}, 1),
    "square root of squares": ("exp(s) / sqrt(sum(exp(2 * s)))", {}, 1),
    "two temperatures": ("exp(s) / sum(exp(s)) + exp(s / 2) / sum(exp(s / 2))", {}, 1),
    "both signs": ("exp(s) / sum(exp(s)) + exp(-s) / sum(exp(-s))", {}, 2),
    "hyperbolic": ("exp(s) / sum(exp(s) + exp(-s))", {}, 2),
    "rectified": ("relu(exp(s) - 1) / (1 + sum(abs(exp(s) - 1)))", {}, 1),
    "capped": ("min(exp(s), 3) / sum(min(exp(s), 3))", {}, 1),
}


def pivots(analysis: Analysis) -> list[ir.Expr]:
    return [p.exponent for forward_pass in analysis.forward.passes for p in forward_pass.pivots]


@pytest.mark.parametrize("name", NO_PIVOT)
def test_nothing_is_shifted_that_must_not_be(name: str) -> None:
    weights, lets = NO_PIVOT[name]
    assert pivots(analysis_of(weights, **lets)) == []


@pytest.mark.parametrize("name", ["spelled sigmoid", "spelled softplus"])
def test_stable_spellings_are_recognized(name: str) -> None:
    weights, lets = NO_PIVOT[name]
    assert operations(*(a.body for a in analysis_of(weights, **lets).forward.accumulators)) <= {
        "sigmoid",
        "softplus",
        "mul",
    }


@pytest.mark.parametrize("name", PIVOTS)
def test_exponentials_share_a_pivot_per_direction(name: str) -> None:
    weights, lets, number = PIVOTS[name]
    assert len(pivots(analysis_of(weights, **lets))) == number


def test_powers_of_the_shared_pivot() -> None:
    forward = analysis_of("exp(s) * sum(exp(2 * s)) / sum(exp(s)) ** 3").forward
    low, high = sorted(c.power for c in forward.passes[0].carries)
    assert high == 2 * low
    assert [a.power for a in forward.accumulators] == [low]


BOUNDED = {
    **{name: (weights, lets, {}) for name, (weights, lets, _) in PIVOTS.items() if name != "hyperbolic"},
    "sink": ("exp(s) / (exp(sink) + sum(exp(s)))", {}, {"sink": HEAD}),
    "weighted keys": ("exp(s + b) / sum(exp(s + b))", {}, {"b": KEY}),
    "even": ("exp(abs(s)) / sum(exp(abs(s)))", {}, {}),
    "expm1": ("expm1(s) / (1 + sum(abs(expm1(s))))", {}, {}),
    "where": ("w / sum(w)", {"w": "where(s > 0, 1 + s, exp(s))"}, {}),
    "distance": ("w / sum(w)", {"w": "exp(s - abs(i - j))"}, {}),
    "larger of two": ("w / sum(w)", {"w": "max(exp(s), exp(2 * s))"}, {}),
    "second stage": ("exp(t) / sum(exp(t))", {"t": "s / (1 + amax(abs(s)))"}, {}),
}


@pytest.mark.parametrize("name", BOUNDED)
def test_no_exponent_of_what_is_carried_is_positive(name: str) -> None:
    """On random rows with scores of some hundreds, in the last pass, with its pivots taken over the keys."""
    weights, lets, inputs = BOUNDED[name]
    analysis = analysis_of(weights, inputs=inputs, **lets)
    last = analysis.forward.passes[-1]
    bodies = [c.body for c in last.carries] + [a.body for a in analysis.forward.accumulators]
    exponents = [n.args[0] for b in bodies for n in ir.walk(b) if isinstance(n, ir.Apply) and n.op == "exp"]
    assert exponents
    for seed in range(5):
        names = row_of(Random(seed), analysis)
        for exponent in exponents:
            assert max(Evaluation(8).run(program(exponent), names)) <= 1e-9


def row_of(random: Random, analysis: Analysis) -> dict[str, float | list[float]]:
    """Names of one row with eight keys: scores of some hundreds, pivots as the last pass finds them."""
    names: dict[str, float | list[float]] = {"scale": 1.0, "i": 5.0, "n": 8.0, "j": [float(j) for j in range(8)]}
    names |= {"qk": [random.uniform(-300, 300) for _ in range(8)], "sink": random.uniform(-300, 300)}
    names["b"] = [random.uniform(-300, 300) for _ in range(8)]
    for forward_pass in analysis.forward.passes:
        for pivot in forward_pass.pivots:
            names[pivot.name] = max(Evaluation(8).run(program(pivot.exponent), names))
        for carry in forward_pass.carries:
            values = Evaluation(8).run(program(carry.body), names)
            names[carry.name] = max(values) if carry.kind == "amax" else sum(values)
        names |= {s.name: Evaluation(8).run(program(s.value), names)[0] for s in forward_pass.statistics}
    return names


def test_the_smaller_of_two_is_carried_relative_to_the_smaller() -> None:
    """Relative to the larger, min(exp(s), 3) would vanish in fp32 as soon as a score exceeds a hundred."""
    forward = analysis_of("min(exp(s), 3) / sum(min(exp(s), 3))").forward
    (pivot,) = forward.passes[0].pivots
    for score in (-200.0, 0.0, 200.0):
        (value,) = Evaluation(1).run(program(pivot.exponent), {"scale": 1.0, "qk": score})
        assert value == min(score, 0.0)


def test_each_branch_is_carried_relative_to_its_own_exponent() -> None:
    """Relative to exp(s), the 1 + s of a positive score would vanish in fp32."""
    forward = analysis_of("w / sum(w)", w="where(s > 0, 1 + s, exp(s))").forward
    (pivot,), (carry,) = forward.passes[0].pivots, forward.passes[0].carries
    for score in (-200.0, 0.5, 200.0):
        names = {"scale": 1.0, "qk": score}
        (names[pivot.name],) = Evaluation(1).run(program(pivot.exponent), names)
        assert names[pivot.name] == min(score, 0.0)
        assert Evaluation(1).run(program(carry.body), names) == [1 + max(score, 0.0)]


def test_statistics_relative_to_a_pivot_are_kept_as_logarithms() -> None:
    (statistic,) = analysis_of(SOFTMAX).forward.passes[0].statistics
    assert statistic.logarithmic
    (statistic,) = analysis_of(SOFTPLUS_L1).forward.passes[0].statistics
    assert not statistic.logarithmic


def test_an_accumulator_that_nothing_normalizes_is_not_shifted() -> None:
    accumulators = analysis_of("exp(s)").forward.accumulators
    assert [a.pivot for a in accumulators] == [None]


def test_the_virtual_key_of_softmax1_takes_part_in_the_division() -> None:
    """exp(m) / (1 + exp(m) z) is divided by the larger of 1 and exp(m), in the factor as in the backward."""
    analysis = analysis_of("exp(s) / (1 + sum(exp(s)))")
    assert "max" in operations(*analysis.forward.factors)
    assert "max" in operations(analysis.backward.weights)
