"""How few passes: what separates and cancels costs none, what doesn't costs one each."""

import pytest

from attngen import ir, notation
from attngen.analysis.resting import telling
from attngen.schedule import Costs
from tests.unit.made_up import HEAD, KEY, SOFTMAX, SOFTPLUS_L1, analysis_of, operations, plan_of, same_value, spec

STANDARD = {"m": "mean(s)", "v": "mean((s - m) ** 2)", "z": "(s - m) / sqrt(v + 1e-5)"}
PASSES = {
    "sigmoid": (spec("sigmoid(s)"), 1),
    "softmax": (spec(SOFTMAX), 1),
    "shifted softmax": (spec("exp(s - amax(s)) / sum(exp(s - amax(s)))"), 1),
    "softmax of softmax squared": (spec("p ** 2 / sum(p ** 2)", p=SOFTMAX), 1),
    "log-softmax": (spec("s - log(sum(exp(s)))"), 2),
    "softplus_l1": (spec(SOFTPLUS_L1), 1),
    "relu of softplus_l1": (spec("relu(a) / sum(relu(a))", a=SOFTPLUS_L1), 1),
    "relu of softmax minus a number": (spec("relu(p - 0.1)", p=SOFTMAX), 2),
    "the same, normalized again": (spec("r / sum(r)", p=SOFTMAX, r="relu(p - 0.1)"), 2),
    "scaled by the largest": (spec("s / (1 + amax(abs(s)))"), 1),
    "between the extremes": (spec("(s - amin(s)) / (1 + amax(s) - amin(s))"), 2),
    "near the largest": (spec("where(s > amax(s) - 1, s, 0)"), 2),
    "centred": (spec("s - mean(s)"), 2),
    "variance": (spec("(s - m) / sqrt(v)", m="mean(s)", v="mean((s - m) ** 2)"), 2),
    "softmax of a standard score": (spec("exp(z) / sum(exp(z))", **STANDARD), 3),
    "three nested stages": (
        spec("c / sum(c)", a="tanh(s - mean(s))", b="sigmoid(a - mean(a ** 2))", c="softplus(b * n - sum(b))"),
        4,
    ),
    "count": (spec("sigmoid(s) / count()"), 1),
}  # fmt: skip


@pytest.mark.parametrize("name", PASSES)
def test_number_of_passes(name: str) -> None:
    text, passes = PASSES[name]
    plan = plan_of(text)
    assert len(plan.analysis.forward.passes) == passes
    assert (plan.analysis.kind == "staged") == (passes > 1)


@pytest.mark.parametrize(
    ("weights", "sums"),
    [
        (SOFTMAX, 1),
        ("exp(s) / sqrt(sum(exp(2 * s)))", 1),
        ("exp(s) / (sum(exp(s)) + sum(exp(-s)))", 2),
        ("exp(2 * s) / sum(exp(s)) ** 2", 0),
        ("exp(s) / sum(exp(s)) ** 1.5 * sum(abs(s) * exp(s))", 0),
        ("exp(s) / sum(exp(s)) ** d", 0),
        ("exp(s)", 0),
    ],
)
def test_pivots_rest_where_nothing_is_of_higher_powers_than_their_sums(weights: str, sums: int) -> None:
    assert len(telling(plan_of(spec(weights)).analysis.forward)) == sums


KINDS = {
    "elementwise": spec("silu(s) / n_k"),
    "ratio": spec(SOFTPLUS_L1),
    "shift-invariant ratio": spec(SOFTMAX),
    "affine": spec("a * p + 1 / n", inputs={"a": HEAD}, p=SOFTMAX),
    "staged": spec("relu(p - 0.1)", p=SOFTMAX),
}


@pytest.mark.parametrize("kind", KINDS)
def test_kinds(kind: str) -> None:
    assert plan_of(KINDS[kind]).analysis.kind == kind


def statistics(*args: str, **lets: str) -> list[ir.Expr]:
    analysis = analysis_of(*args, **lets)
    return [s.meaning for forward_pass in analysis.forward.passes for s in forward_pass.statistics]


def test_a_stage_that_is_homogeneous_cancels_the_one_before() -> None:
    (statistic,) = statistics("p ** 2 / sum(p ** 2)", p=SOFTMAX)
    assert isinstance(statistic, ir.Reduce)
    assert statistic.kind == "sum"
    assert statistic.body is not None
    assert same_value(statistic.body, ir.apply("exp", ir.apply("mul", *map(ir.Name, ("qk", "scale")), ir.number(2))))


@pytest.mark.parametrize("shift", ["amax(s)", "detach(amax(s))", "amin(s)", "mean(s)", "log(sum(exp(s)))"])
def test_shifting_a_softmax_leaves_nothing_of_the_shift(shift: str) -> None:
    assert analysis_of(f"exp(s - {shift}) / sum(exp(s - {shift}))").forward == analysis_of(SOFTMAX).forward


def test_equal_reductions_are_one_statistic() -> None:
    assert len(statistics("exp(s) / sum(exp(s)) + sum(exp(s))")) == 1


def test_squares_of_differences_are_not_expanded() -> None:
    meanings = [notation.text(m) for m in statistics("(s - m) / sqrt(v)", m="mean(s)", v="mean((s - m) ** 2)")]
    assert len(meanings) == 2
    assert not any(text == "sum(qk ** 2 * scale ** 2)" for text in meanings)


def test_separated_weights_are_summed_in_the_pass_of_their_statistics() -> None:
    forward = analysis_of("alpha * p + beta", inputs={"alpha": HEAD, "beta": HEAD}, p=SOFTMAX).forward
    assert len(forward.passes) == 1
    bodies = [a.body for a in forward.accumulators]
    assert ir.number(1) in bodies
    assert all(not ir.names(body) & {"alpha", "beta"} for body in bodies)
    assert len(forward.factors) == len(bodies) == 2


def test_more_than_two_terms_of_the_pair_are_recomputed_in_a_second_pass() -> None:
    forward = analysis_of("exp(s) / a + sigmoid(s) / b + tanh(s) / c", a="sum(exp(s))", b="1 + a", c="2 + a").forward
    assert len(forward.passes) == 2
    assert len(forward.accumulators) == 1


def test_costs_count_products() -> None:
    costs = Costs(forward=2, backward_query=3, backward_key=4, backward_pair=0, adjoints=())
    assert plan_of(spec(SOFTMAX)).costs == costs


@pytest.mark.parametrize(
    ("weights", "sums", "way", "products"),
    [
        ("relu(p - 0.1)", 1, "deferred", 4),
        ("relu(p - 0.1) / (1 + sum(relu(p - 0.1)))", 1, "deferred", 4),
        ("tanh((s - mean(s)) / sqrt(mean((s - mean(s)) ** 2) + 0.1))", 3, "walk", 5),
    ],
)
def test_the_cheapest_way_to_row_adjoints_is_taken(weights: str, sums: int, way: str, products: int) -> None:
    plan = plan_of(spec(weights, p=SOFTMAX))
    assert len(plan.analysis.backward.prepass) == sums
    assert (plan.costs.adjoint_way, plan.costs.backward_query) == (way, products)
    assert (plan.deferred is not None) == (way == "deferred")


@pytest.mark.parametrize(("term", "products"), [("beta", 0), ("b", 0), ("b / (1 + j)", 0), ("b / (1 + i - j)", 1)])
def test_a_term_that_is_the_same_for_all_rows_costs_no_product(term: str, products: int) -> None:
    plan = plan_of(spec(f"p + {term}", inputs={"beta": HEAD, "b": KEY}, p=SOFTMAX))
    assert len(plan.analysis.forward.accumulators) == 2
    assert plan.costs.forward == 2 + products


def test_where_is_separated_by_its_branches() -> None:
    analysis = analysis_of("w / sum(w)", w="where(j < 3, exp(s), 0.5 * exp(s))")
    assert len(analysis.forward.passes) == 1
    assert "where" in operations(analysis.forward.accumulators[0].body)
