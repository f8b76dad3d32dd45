"""The self-check finds wrong plans: every kind of mistake in a plan ends in an InternalError that names it."""

import dataclasses
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import pytest

from attngen import ir
from attngen.diagnostics import InternalError
from attngen.selfcheck.check import check_plan
from tests.unit.made_up import plan_of

SOFTMAX = "name: t\nweights: exp(s) / sum(exp(s))\n"
SQUARE = "name: t\nweights: exp(s) / sqrt(sum(exp(2 * s)))\n"
SINK = "name: t\ninputs:\n  sink: {shape: [head]}\nweights: exp(s) / (exp(sink) + sum(exp(s)))\n"
AFFINE = """
name: t
inputs:
  alpha: {shape: [head, query]}
  beta: {shape: [key]}
  gamma: {shape: [query, key]}
weights: alpha * exp(s) / sum(exp(s)) + beta * gamma
"""
STAGED = "name: t\nlet:\n  a: softplus(s) / sum(softplus(s))\n  r: relu(n * a - 0.5)\nweights: r / (1 + sum(r))\n"
EXTREMA = "name: t\nweights: softplus(s) * (1 + amin(s)) / amax(softplus(s))\n"
POWER = "name: t\nweights: relu(s) ** 6 / sum(relu(s) ** 6)\n"
TWO = "name: t\nweights: exp(s) / sum(exp(s)) + exp(3 * s) / sum(exp(3 * s))\n"
SURPRISE = "name: t\nlet:\n  p: exp(s) / sum(exp(s))\n  q: p * log(p)\nweights: q / sum(q)\n"
DETACHED = "name: t\nweights: s * detach(s) + detach(sigmoid(s))\n"
LEVEL = "name: t\ninputs:\n  beta: {shape: [query]}\nweights: relu(s) / (1 + sum(relu(s))) + beta\n"

Path = tuple[str | int, ...]


def changed(node: Any, path: Path, change: Callable[[Any], Any]) -> Any:
    """`node` with the value at `path`, of fields and indices, replaced by what `change` makes of it."""
    if not path:
        return change(node)
    first, rest = path[0], path[1:]
    if isinstance(first, int):
        return (*node[:first], changed(node[first], rest, change), *node[first + 1 :])
    return dataclasses.replace(node, **{first: changed(getattr(node, first), rest, change)})


FORWARD, BACKWARD = ("analysis", "forward"), ("analysis", "backward")
FIRST = (*FORWARD, "passes", 0)


def negative(expr: ir.Expr) -> ir.Expr:
    return ir.apply("neg", expr)


def slightly_larger(expr: ir.Expr) -> ir.Expr:
    return ir.apply("mul", expr, ir.number("1.0001"))


def shifted(expr: ir.Expr) -> ir.Expr:
    return ir.apply("add", expr, ir.number("0.001"))


def dropped(names: tuple[str, ...]) -> tuple[str, ...]:
    return names[1:]


def other_accumulator(name: str) -> str:
    return "acc1" if name == "acc2" else "acc2"


def no_power(_: Fraction) -> Fraction:
    return Fraction(0)


MUTANTS: dict[str, tuple[str, Path, Callable[[Any], Any], str]] = {
    "carry without rescale": (SOFTMAX, (*FIRST, "carries", 0, "power"), no_power, "."),
    "accumulator without rescale": (SOFTMAX, (*FORWARD, "accumulators", 0, "power"), no_power, "output"),
    "half the rescale": (SQUARE, (*FIRST, "carries", 0, "power"), lambda p: p / 2, "."),
    "sixth power rescaled by the fifth": (POWER, (*FIRST, "carries", 0, "power"), lambda p: p - 1, "."),
    "carry without pivot": (SOFTMAX, (*FIRST, "carries", 0, "pivot"), lambda _: None, "."),
    "carry's body": (SOFTMAX, (*FIRST, "carries", 0, "body"), slightly_larger, "."),
    "body not relative to the pivot": (
        SOFTMAX,
        (*FORWARD, "accumulators", 0, "body"),
        lambda e: ir.substitute(e, {"row_max": ir.number(0)}),
        "output",
    ),
    "max for min": (EXTREMA, (*FIRST, "carries", 0, "kind"), lambda k: "amin" if k == "amax" else "amax", "."),
    "statistic's value": (SOFTMAX, (*FIRST, "statistics", 0, "value"), shifted, "weight"),
    "later statistic": (STAGED, (*FORWARD, "passes", 1, "statistics", 0, "value"), shifted, "."),
    "accumulator's body": (STAGED, (*FORWARD, "accumulators", 0, "body"), shifted, "output"),
    "factor": (SOFTMAX, (*FORWARD, "factors", 0), slightly_larger, "output"),
    "factor of one term": (AFFINE, (*FORWARD, "factors", 1), slightly_larger, "output"),
    "weights of the backward": (SOFTMAX, (*BACKWARD, "weights"), slightly_larger, "weight"),
    "sign of dqk": (SOFTMAX, (*BACKWARD, "dqk"), negative, "gradient of qk"),
    "dqk": (STAGED, (*BACKWARD, "dqk"), slightly_larger, "gradient of qk"),
    "prepass body": (STAGED, (*BACKWARD, "prepass", 0, "body"), slightly_larger, "gradient of qk"),
    "sign of a prepass body": (STAGED, (*BACKWARD, "prepass", 0, "body"), negative, "gradient of qk"),
    "deferred slope": (STAGED, ("deferred", "slope"), slightly_larger, "in the query kernel"),
    "deferred gradient without the late sum": (STAGED, ("deferred", "own"), negative, "in the query kernel"),
    "dqk through what is detached": (DETACHED, (*BACKWARD, "dqk"), lambda e: ir.apply("mul", ir.number(2), e), "qk"),
    "product of the wrong accumulator": (TWO, (*BACKWARD, "products", 0, "accumulator"), other_accumulator, "qk"),
    "row gradient": (SINK, ("row_gradients", 0, "value"), negative, "gradient of sink"),
    "row sum": (AFFINE, ("row_gradients", 0, "sums", 0, "body"), slightly_larger, "gradient of alpha"),
    "key gradient": (AFFINE, ("key_gradients", 0, "value"), slightly_larger, "gradient of beta at key"),
    "pair gradient": (AFFINE, ("pair_gradients", 0, "value"), negative, "gradient of gamma at key"),
    "dqk of what large scores make noise of": (SURPRISE, (*BACKWARD, "dqk"), slightly_larger, "gradient of qk"),
    "missing gradient": (AFFINE, ("key_gradients",), lambda _: (), "gradient of beta"),
    "statistic not saved": (SOFTMAX, ("saved_rows",), dropped, "isn't known"),
    "delta not handed over": (SOFTMAX, ("handed_over",), dropped, "isn't known"),
    "accumulator not saved": (LEVEL, ("saved_accumulators",), dropped, "isn't known"),
    "prepass sum not handed over": (STAGED, ("handed_over",), lambda n: n[:-1], "isn't known"),
}


@pytest.mark.parametrize("name", MUTANTS)
def test_a_wrong_plan_is_an_internal_error(name: str) -> None:
    text, path, change, message = MUTANTS[name]
    plan = plan_of(text)
    check_plan(plan)
    wrong = changed(plan, path, change)
    assert wrong != plan
    with pytest.raises(InternalError, match=message) as caught:
        check_plan(wrong)
    assert "OpPlan" in caught.value.subject


def test_the_message_says_what_differs_and_by_how_much() -> None:
    wrong = changed(plan_of(SOFTMAX), (*FORWARD, "factors", 0), lambda e: ir.apply("mul", ir.number(2), e))
    with pytest.raises(InternalError) as caught:
        check_plan(wrong)
    first = str(caught.value).splitlines()[0]
    assert "the plan of 't' is wrong: channel 0 of the output of row 0 is " in first
    assert " by the plan and " in first
    assert first.endswith(" by the formula")


def test_the_check_is_deterministic() -> None:
    wrong = changed(plan_of(STAGED), (*BACKWARD, "prepass", 0, "body"), slightly_larger)
    messages = set()
    for _ in range(2):
        with pytest.raises(InternalError) as caught:
            check_plan(wrong)
        messages.add(str(caught.value))
    assert len(messages) == 1
