"""Roots in the analysis: passes, derivatives as sums, direction, names, support; and deferred adjoints."""

import pytest

from attngen import ir, notation
from attngen.schedule import OpPlan
from attngen.selfcheck.check import check_plan
from tests.unit.made_up import HEAD, plan_of, spec

WITHIN = "between: [amax(s) - 9, amax(s) + 9]"


def root(residual: str, between: str = WITHIN) -> str:
    return f'{{root: "{residual}", {between}}}'


def shape(plan: OpPlan) -> list[str]:
    """A word for each pass: the root that it finds, or its statistics."""
    passes = plan.analysis.forward.passes
    return [p.root.name if p.root else " ".join(s.name for s in p.statistics) for p in passes]


THRESHOLD = spec("relu(s - tau)", tau=root("sum(relu(s - tau)) - 1"))


@pytest.mark.parametrize(
    ("residual", "direction"),
    [
        ("sum(relu(s - tau)) - 1", 1),
        ("sum(sigmoid(s - tau)) - 1", 1),
        ("1 - sum(relu(s - tau) ** 2)", -1),
        ("sum(sigmoid(tau - s)) - 1", -1),
        ("sum(sin(s - tau))", 0),
    ],
)
def test_the_direction_is_known_where_the_slope_has_a_sign(residual: str, direction: int) -> None:
    found = plan_of(spec("sigmoid(s - tau)", tau=root(residual))).analysis.forward.passes[1].root
    assert found is not None
    assert found.direction == direction


def test_a_roots_sums_stand_behind_it_and_nothing_else_stands_beside_it() -> None:
    assert shape(plan_of(THRESHOLD)) == ["extreme", "tau", "tau_slope"]


def test_two_roots_of_one_level_have_a_pass_each() -> None:
    two = spec(
        "relu(s - tau) * sigmoid(s - rho)", tau=root("sum(relu(s - tau)) - 1"), rho=root("sum(sigmoid(s - rho)) - 1")
    )
    plan = plan_of(two)
    roots = [p.root.name for p in plan.analysis.forward.passes if p.root]
    assert sorted(roots) == ["rho", "tau"]
    assert all(len(p.statistics) == 1 for p in plan.analysis.forward.passes if p.root)
    check_plan(plan)


def test_a_root_of_a_root_comes_behind_it() -> None:
    nested = spec("relu(s - rho)", tau=root("sum(relu(s - tau)) - 1"), rho=root("sum(sigmoid(s - rho - tau)) - 1"))
    plan = plan_of(nested)
    words = shape(plan)
    assert words.index("tau") < words.index("rho")
    check_plan(plan)


def test_other_statistics_of_the_level_are_not_walked_for_every_trial() -> None:
    plan = plan_of(spec("relu(s - tau) * exp(s - amax(s)) / sum(abs(s - amax(s)))", tau=root("sum(relu(s - tau)) - 1")))
    assert all(len(p.statistics) == 1 for p in plan.analysis.forward.passes if p.root)
    check_plan(plan)


def test_an_input_of_the_residual_itself_gets_a_gradient() -> None:
    plan = plan_of(spec("sigmoid(s - tau)", inputs={"k": HEAD}, tau=root("sum(sigmoid(s - tau)) - k")))
    (gradient,) = plan.row_gradients
    assert gradient.name == "k"
    assert gradient.value != ir.number(0)
    check_plan(plan)


@pytest.mark.parametrize("name", ["q", "rows", "trial1", "acc1", "delta", "dp", "z3", "extreme1", "lse", "adj1"])
def test_a_root_may_have_any_name(name: str) -> None:
    plan = plan_of(THRESHOLD.replace("tau", name))
    found = next(p for p in plan.analysis.forward.passes if p.root)
    assert found.root is not None
    assert found.root.name == f"{name}_"
    assert found.statistics[0].label == name
    assert [a.name for a in plan.aux][1] == name
    others = [a.name for a in plan.analysis.forward.accumulators] + [c.name for c in found.carries]
    assert found.root.name not in others
    check_plan(plan)


def test_names_that_no_op_needs_are_kept() -> None:
    assert shape(plan_of(THRESHOLD.replace("tau", "tau1"))) == ["extreme", "tau1", "tau1_slope"]


@pytest.mark.parametrize(
    ("weights", "found"),
    [
        ("relu(s - tau)", "scale * qk - tau"),
        ("relu(s - tau) ** 2 * (1 + s ** 2)", "scale * qk - tau"),
        ("relu(s - tau) + relu(s - tau) ** 3", "scale * qk - tau"),
        ("relu(s - tau) + 0.1", None),
        ("relu(s - tau) + sigmoid(s)", None),
        ("exp(s - tau)", None),
    ],
)
def test_support(weights: str, found: str | None) -> None:
    support = plan_of(spec(weights, tau=root("sum(relu(s - tau)) - 1"))).analysis.support
    assert (support is None) == (found is None)
    if support is not None:
        assert notation.text(support) in (found, "qk * scale - tau")


def test_support_is_not_that_of_the_weights_where_gradients_go_on() -> None:
    """Scores outside of the weights' support move the root, and with it all weights."""
    plan = plan_of(spec("relu(s - tau - 1)", tau=root("sum(sigmoid(s - tau)) - 1")))
    assert plan.analysis.support is None


def test_one_sum_of_the_backwards_own_is_deferred() -> None:
    plan = plan_of(THRESHOLD)
    assert plan.deferred is not None
    late = plan.deferred.late
    assert late == plan.analysis.backward.prepass[0].name
    assert not {late} & (ir.names(plan.deferred.own) | ir.names(plan.deferred.slope))
    assert dict(plan.costs.adjoints)["deferred"] < dict(plan.costs.adjoints)["walk"]
    assert plan.costs.adjoint_way == "deferred"


def test_without_a_sum_of_its_own_there_is_no_way_to_choose() -> None:
    plan = plan_of(spec("exp(s) / sum(exp(s))"))
    assert (plan.deferred, plan.costs.adjoints, plan.costs.adjoint_way) == (None, (), None)
