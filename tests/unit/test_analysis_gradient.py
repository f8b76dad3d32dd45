"""What the backward needs: which sums over the keys algebra saves, and which gradients belong to which kernel."""

import pytest

from attngen import ir
from attngen.analysis.result import Analysis
from tests.unit.made_up import HEAD, KEY, PAIR, ROW, SOFTMAX, SOFTPLUS_L1, analysis_of, operations, plan_of, spec

DELTA_ALONE = {
    "softmax": (SOFTMAX, {}),
    "softmax1": ("exp(s) / (1 + sum(exp(s)))", {}),
    "L1": (SOFTPLUS_L1, {}),
    "L2": ("exp(s) / sqrt(sum(exp(2 * s)))", {}),
    "other power": ("sigmoid(s) / (3 + sum(softplus(s))) ** 1.5", {}),
    "other numerator": ("tanh(s) / (1 + sum(exp(s)))", {}),
    "signed": ("s / (1 + sum(abs(s)))", {}),
    "rectified": ("relu(exp(s) - 1) / (1e-6 + sum(abs(exp(s) - 1)))", {}),
    "squared again": ("p ** 2 / sum(p ** 2)", {"p": SOFTMAX}),
    "two sums": ("exp(s) / (sum(exp(s)) * (1 + sum(softplus(s))))", {}),
}


@pytest.mark.parametrize("name", DELTA_ALONE)
def test_a_ratio_needs_delta_alone(name: str) -> None:
    """f / (sum g + c) ** p: no saved accumulator, no further pass."""
    weights, lets = DELTA_ALONE[name]
    plan = plan_of(spec(weights, **lets))
    backward = plan.analysis.backward
    assert (backward.delta, backward.products, backward.prepass) == ("delta", (), ())
    assert plan.saved_accumulators == ()
    assert plan.handed_over == ("delta",)


@pytest.mark.parametrize("weights", ["sigmoid(s)", "silu(s) / n_k", "exp(s - 3)", "relu(s / n) ** 2"])
def test_elementwise_weights_need_nothing_of_the_row(weights: str) -> None:
    plan = plan_of(spec(weights))
    backward = plan.analysis.backward
    assert (backward.delta, backward.products, backward.prepass) == (None, (), ())
    assert (plan.saved_rows, plan.saved_accumulators, plan.handed_over) == ((), (), ())


SEVERAL_TERMS = {
    "affine": analysis_of("alpha * p + beta", inputs={"alpha": ROW, "beta": ROW}, p=SOFTMAX),
    "mixture": analysis_of("a * p + (1 - a) * u", inputs={"a": HEAD}, p=SOFTMAX, u="relu(s) / (1 + sum(relu(s)))"),
    "sum": analysis_of("exp(s) / sum(exp(s)) + lam * softplus(s) / sum(softplus(s))", inputs={"lam": HEAD}),
}


@pytest.mark.parametrize("name", SEVERAL_TERMS)
def test_several_terms_save_accumulators_and_need_no_prepass(name: str) -> None:
    analysis = SEVERAL_TERMS[name]
    names = {a.name for a in analysis.forward.accumulators}
    assert analysis.backward.products
    assert {p.accumulator for p in analysis.backward.products} <= names
    assert analysis.backward.prepass == ()


@pytest.mark.parametrize("weights", ["relu(p - 0.1)", "where(p > amax(p) / 2, p, 0)"])
def test_staged_weights_need_a_prepass(weights: str) -> None:
    backward = analysis_of(weights, p=SOFTMAX).backward
    assert backward.prepass
    assert any(backward.dp in ir.names(p.body) for p in backward.prepass)


def test_prepass_sums_are_all_summed_in_one_pass() -> None:
    """None uses another one: the lowest key of an extremum of an extremum's ties too."""
    backward = analysis_of("a * m / (1 + abs(m))", a="amin(s)", m="amax(silu(a * s))").backward
    own = {p.name for p in backward.prepass}
    assert len(own) > 1
    assert all(not own & ir.names(p.body) for p in backward.prepass)


def formulas_of_the_backward(analysis: Analysis) -> list[ir.Expr]:
    backward = analysis.backward
    exprs = [backward.weights, backward.dqk, *(p.body for p in backward.prepass)]
    return exprs + [g.value for g in backward.inputs] + [s.body for g in backward.inputs for s in g.sums]


def denominators(expr: ir.Expr) -> list[ir.Expr]:
    return [n.args[1] for n in ir.walk(expr) if isinstance(n, ir.Apply) and n.op == "div"]


@pytest.mark.parametrize(
    "weights", ["alpha * p + beta", "alpha * p", "alpha ** 2 * p + beta", "softplus(alpha) * p + beta"]
)
def test_nothing_is_divided_by_an_input_that_may_be_zero(weights: str) -> None:
    inputs = {"alpha": ROW} | ({"beta": ROW} if "beta" in weights else {})
    analysis = analysis_of(weights, inputs=inputs, p=SOFTMAX)
    below = [d for expr in formulas_of_the_backward(analysis) for d in denominators(expr)]
    assert not any({"alpha", "beta"} & ir.names(d) for d in below)
    assert not {"log"} & operations(*formulas_of_the_backward(analysis))


LEVELS = {
    "{shape: []}": "row",
    HEAD: "row",
    ROW: "row",
    "{shape: [kv_head]}": "row",
    "{shape: [query]}": "row",
    KEY: "key",
    "{shape: [key]}": "key",
    PAIR: "pair",
    "{shape: [query, key]}": "pair",
}


@pytest.mark.parametrize("shape", LEVELS)
def test_levels_of_gradients_follow_the_axes(shape: str) -> None:
    plan = plan_of(spec("sigmoid(s + b) / (1 + sum(relu(s * b)))", inputs={"b": shape}))
    levels = {"row": plan.row_gradients, "key": plan.key_gradients, "pair": plan.pair_gradients}
    assert {level: len(gradients) for level, gradients in levels.items() if gradients} == {LEVELS[shape]: 1}


def test_no_gradient_is_derived_that_isnt_wanted() -> None:
    assert analysis_of("sigmoid(s + b)", inputs={"b": "{shape: [head], grad: false}"}).backward.inputs == ()


def test_a_sum_is_spared_where_the_gradient_follows_from_delta() -> None:
    (gradient,) = analysis_of("exp(s) / (exp(sink) + sum(exp(s)))", inputs={"sink": HEAD}).backward.inputs
    assert gradient.sums == ()
    assert "delta" in ir.names(gradient.value)


def test_an_input_in_a_condition_has_a_gradient_of_zero() -> None:
    (gradient,) = analysis_of("where(s > u, s, 3)", inputs={"u": HEAD}).backward.inputs
    assert (gradient.value, gradient.sums) == (ir.number(0), ())


def test_what_is_detached_has_no_gradient() -> None:
    backward = analysis_of("exp(s) * detach(1 / sum(exp(s)))").backward
    assert backward.delta is None
    assert backward.prepass == ()


@pytest.mark.parametrize(("kind", "ties"), [("amax", 1), ("amin", 1), ("mean", 0), ("sum", 0)])
def test_ties_of_extrema_share_the_gradient(kind: str, ties: int) -> None:
    backward = analysis_of(f"s / (1 + {kind}(abs(s)))").backward
    assert sum("attains" in operations(p.body) for p in backward.prepass) == ties


def test_the_derivative_of_relu_hides_what_is_infinite_elsewhere() -> None:
    """sqrt(relu(x)) has an infinite slope at zero; `where` selects, it doesn't multiply by zero."""
    backward = analysis_of("relu(s) ** 0.5").backward
    assert isinstance(backward.dqk, ir.Apply)
    assert backward.dqk.op == "where"


def test_the_derivative_of_min_hides_what_overflows_elsewhere() -> None:
    backward = analysis_of("min(exp(s), 3) / sum(min(exp(s), 3))").backward
    assert isinstance(backward.dqk, ir.Apply)
    assert backward.dqk.op == "where"
    assert backward.dqk.args[2] != ir.number(0)
    assert any(n == ir.number(0) for n in ir.walk(backward.dqk.args[2]))
