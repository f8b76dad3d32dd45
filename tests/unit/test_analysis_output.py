"""The step behind the weighted sum: relative sums, adjoints that are left out, gradients of inputs."""

import pytest

from attngen import ir
from attngen.analysis.result import Output
from attngen.schedule import OpPlan, pivot_of_output
from attngen.selfcheck.check import check_plan
from tests.unit.made_up import HEAD, plan_of, spec

UNIT = "o / sqrt(csum(o ** 2))"
SOFTMAX = "exp(s) / sum(exp(s))"


def made(weights: str, output: str, inputs: dict[str, str] | None = None) -> OpPlan:
    return plan_of(f"{spec(weights, inputs=inputs)}output: {output}\n")


def step(plan: OpPlan) -> Output:
    assert plan.analysis.output is not None
    return plan.analysis.output


@pytest.mark.parametrize(("weights", "pivot"), [("exp(s)", "row_max"), (SOFTMAX, None), ("sigmoid(s)", None)])
def test_what_the_weighted_sum_is_relative_to(weights: str, pivot: str | None) -> None:
    plan = made(weights, UNIT)
    assert pivot_of_output(plan) == pivot
    assert ("row_max" in ir.names(plan.analysis.backward.weights)) == (pivot is not None)
    check_plan(plan)


def test_what_cancels_is_not_in_the_step() -> None:
    assert not any(
        "row_max" in ir.names(e) for e in (step(made("exp(s)", UNIT)).value, step(made("exp(s)", UNIT)).gradient)
    )


def test_what_does_not_cancel_is() -> None:
    plan = made("exp(s)", "o / (1 + sqrt(csum(o ** 2)))")
    assert "row_max" in ir.names(step(plan).value)
    check_plan(plan)


def test_sums_of_constants_and_detached_sums_have_no_adjoint() -> None:
    found = step(made(SOFTMAX, "o / csum(1) - detach(csum(o))"))
    assert len(found.sums) == 2
    assert found.adjoints == ()


def test_adjoints_use_later_ones_alone() -> None:
    found = step(made(SOFTMAX, "o / sqrt(csum((o - csum(o) / csum(1)) ** 2))"))
    known: set[str] = set()
    names = {a.name for a in found.adjoints}
    assert len(names) == 2
    for adjoint in found.adjoints:
        assert ir.names(adjoint.body) & names <= known
        known.add(adjoint.name)


def test_inputs_of_the_step() -> None:
    plan = made(SOFTMAX, "gain * o", {"gain": HEAD, "b": HEAD})
    assert [s.name for s in step(plan).inputs] == ["gain"]
    assert plan.saved_accumulators == ("o",)
