"""Names of what the analysis introduces: readable, and never those of the spec's inputs."""

import dataclasses
from typing import Any

import pytest

from attngen import ir
from attngen.selfcheck.check import check_plan
from tests.unit.made_up import ROW, SOFTMAX, analysis_of, plan_of, spec

INTRODUCED = ("lse", "delta", "acc", "row_max", "row_sum", "dp", "z", "d_alpha", "dot", "adj", "acc1", "z1")


def introduced(node: Any) -> set[str]:
    """Every name that the analysis gave to something."""
    if isinstance(node, tuple):
        return set().union(*map(introduced, node))
    if not dataclasses.is_dataclass(node) or isinstance(node, ir.Number | ir.Name | ir.Apply | ir.Reduce):
        return set()
    names = {getattr(node, f.name) for f in dataclasses.fields(node) if f.name in ("name", "dp", "delta")}
    nested = set().union(*(introduced(getattr(node, f.name)) for f in dataclasses.fields(node)))
    return {name for name in names if isinstance(name, str)} | nested


@pytest.mark.parametrize("name", INTRODUCED)
@pytest.mark.parametrize(
    "weights", ["{x} * p + {x} ** 2", "relu(p - {x})", "exp({x}) * softplus(s) / (1 + sum(p * s))"]
)
def test_an_input_may_have_any_name(name: str, weights: str) -> None:
    text = spec(weights.format(x=name), inputs={name: "{shape: [head]}"}, p=SOFTMAX)
    plan = plan_of(text)
    forward, backward = plan.analysis.forward, dataclasses.replace(plan.analysis.backward, inputs=(), deferred=None)
    assert name not in introduced((forward, backward))
    check_plan(plan)


def test_all_of_these_names_at_once() -> None:
    inputs = dict.fromkeys(INTRODUCED, "{shape: [head]}")
    plan = plan_of(spec(f"p * {' * '.join(INTRODUCED)} + delta", inputs=inputs, p=SOFTMAX))
    analysis = dataclasses.replace(
        plan.analysis, backward=dataclasses.replace(plan.analysis.backward, inputs=(), deferred=None)
    )
    assert not introduced((analysis.forward, analysis.backward)) & set(INTRODUCED)
    check_plan(plan)


def test_the_sum_for_an_inputs_gradient_has_a_name_of_its_own() -> None:
    plan = plan_of(spec("alpha * p + d_alpha", inputs=dict.fromkeys(("alpha", "d_alpha"), ROW), p=SOFTMAX))
    sums = [s.name for s in plan.row_sums]
    assert len(set(sums)) == len(sums) == 2
    assert not set(sums) & {"alpha", "d_alpha"}
    check_plan(plan)


def test_a_single_one_of_a_kind_has_no_number() -> None:
    forward = analysis_of(SOFTMAX).forward
    assert introduced(forward) == {"row_max", "row_sum", "lse", "acc"}


def test_several_of_a_kind_are_numbered() -> None:
    forward = analysis_of("exp(s) / sum(exp(s)) + exp(-s) / sum(exp(-s))").forward
    assert {"row_max1", "row_max2", "lse1", "lse2", "acc1", "acc2"} <= introduced(forward)


def test_no_marks_are_left() -> None:
    assert not any("%" in name for name in introduced(analysis_of("relu(p - 0.1)", p=SOFTMAX)))
