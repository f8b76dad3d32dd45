"""The self-check lets every right plan pass: formulas of all kinds compile without a complaint."""

import pytest

from attngen.diagnostics import SpecError
from attngen.selfcheck.check import check_plan
from tests.unit.made_up import HEAD, KEY, PAIR, ROW, SOFTMAX, plan_of, spec

SINGLE_PASS = {
    "shifted": spec("e / sum(e)", e="exp(s - amax(s))"),
    "shifted, detached": spec("exp(s - detach(amax(s))) / sum(exp(s - detach(amax(s))))"),
    "squared and normalized again": spec("p ** 2 / sum(p ** 2)", p=SOFTMAX),
    "L2": spec("exp(s) / sqrt(sum(exp(s) ** 2))"),
    "two powers": spec("exp(s) * sum(exp(2 * s)) / sum(exp(s)) ** 3"),
    "two temperatures": spec("exp(s) / sum(exp(s)) + exp(3 * s) / sum(exp(3 * s))"),
    "falling": spec("exp(-s) / sum(exp(-s))"),
    "even": spec("exp(s ** 2 / 50) / sum(exp(s ** 2 / 50))"),
    "odd": spec("(exp(s) - exp(-s)) / sum(exp(s) + exp(-s))"),
    "signed": spec("exp(abs(s)) * sign(s) / sum(exp(abs(s)))"),
    "signed sum": spec("s / sqrt(sum(s ** 2) + 1)"),
    "rectified": spec("relu(exp(s) - 1) / (sum(abs(exp(s) - 1)) + 1e-6)"),
    "expm1": spec("expm1(s) / (sum(abs(expm1(s))) + 1)"),
    "log1p": spec("log1p(relu(s)) / (1 + sum(log1p(relu(s))))"),
    "positive scores alone": spec("log(s) / sum(s)"),
    "roots": spec("sqrt(s + 20) * rsqrt(1 + s ** 2)"),
    "spelled softplus": spec("log(1 + exp(s)) / sum(log(1 + exp(s)))"),
    "powers": spec("relu(s) ** 1.5 / (1 + sum(relu(s) ** 1.5))"),
    "high powers": spec("relu(s) ** 6 / (1 + sum(relu(s) ** 6)) + s * abs(s) ** 7 / (1 + sum(abs(s) ** 8))"),
    "negative powers": spec("(1 + exp(-s)) ** -2 / sum((1 + exp(-s)) ** -2)"),
    "clip": spec("clip(s, -1, 1) / (1 + sum(clip(s, 0, 2)))"),
    "min": spec("min(exp(s), 3) / sum(min(exp(s), 3))"),
    "min of both signs": spec("sum(min(expm1(s), 0.3)) ** 2"),
    "larger exponential": spec("f / sum(f)", f="max(exp(s), 2 * exp(s / 2))"),
    "max": spec("max(s, 0.1 * s) / sum(abs(max(s, 0.1 * s)))"),
    "where": spec("w / sum(w)", w="where(s > 0, 1 + s, exp(s))"),
    "positions": spec("w / sum(w)", w="where(i - j < 3 and not (j == 2), exp(s), exp(s / 2))"),
    "distance": spec("exp(s) * rsqrt(1 + abs(i - j)) / sum(exp(s) * rsqrt(1 + abs(i - j)))"),
    "erf": spec("s * (1 + erf(s / sqrt(2))) / 2 / count()"),
    "atan, sin, cos": spec("(atan(s) + sin(s) * cos(s)) / (1 + sum(sin(s) ** 2))"),
    "tanh": spec("tanh(s) / sum(abs(tanh(s)))"),
    "factor that underflows": spec("w / (1 + sum(abs(w)))", w="s * softplus(sum(s))"),
    "softplus decay": spec("sigmoid(s) * exp(-sum(softplus(s)) / n)"),
    "amax": spec("softplus(s) / amax(softplus(s))"),
    "amin": spec("softplus(s) / (1 + amin(softplus(s)))"),
    "amin and amax": spec("(s - amin(s)) / (amax(s) - amin(s) + 1e-3)"),
    "mean": spec("relu(s) ** 2 / (mean(relu(s) ** 2) + 0.1) / n"),
    "geometric mean": spec("exp(s) / exp(mean(s)) / n"),
    "entropy": spec("p * -sum(p * log(p))", p=SOFTMAX),
    "log-softmax": spec("s - log(sum(exp(s)))"),
    "detached parts": spec("p * detach(1 + sum(p ** 2)) + s * detach(p)", p=SOFTMAX),
    "detached score": spec("sigmoid(s)", score="scale * qk + detach(scale * qk) ** 2"),
    "high power of a score": spec("amin(exp(s ** 9)) ** 2"),
    "soft cap": spec("exp(s) / (1 + sum(exp(s)))", score="30 * tanh(scale * qk / 30)"),
}
STAGED = {
    "standard score": spec("(s - m) / sqrt(v + 1e-5)", m="mean(s)", v="mean((s - m) ** 2)"),
    "standard score, softmax": spec(
        "exp(z) / sum(exp(z))", m="mean(s)", v="mean((s - m) ** 2)", z="(s - m) / sqrt(v + 1e-5)"
    ),
    "reweighted": spec("r / sum(r)", a="softplus(s) / sum(softplus(s))", r="relu(n * a - where(i < 3, 0, 1)) ** 3"),
    "near the maximum": spec("w / sum(w)", w="where(s > amax(s) - 1, exp(s), 0)"),
    "is the maximum": spec("where(s == amax(s), 1, 0)"),
    "above the mean": spec("max(s, mean(s)) / n"),
    "scaled by the maximum": spec("exp(t) / sum(exp(t))", m="amax(abs(s))", t="s / (m + 1)"),
    "moments": spec("sigmoid(s * k)", m="mean(s)", v="mean((s - m) ** 2)", k="mean((s - m) ** 4) / (v + 1) ** 2"),
    "odds": spec("q / sum(q)", p=SOFTMAX, q="p * (1 - p)"),
    "surprise": spec("q / sum(q)", p=SOFTMAX, q="p * log(p)"),
    "three stages": spec("e / sum(e)", a=SOFTMAX, b="relu(a - 0.1)", c="b / (sum(b) + 0.01)", e="exp(c)"),
    "extremum of an extremum": spec("a * m / (1 + abs(m))", a="amin(s)", m="amax(silu(a * s))"),
    "power of a statistic": spec("p ** (1 + sigmoid(-sum(p * log(p + 1e-6))))", p=SOFTMAX),
    "sigmoid of large statistics": spec(
        "sigmoid(b) * sum(exp(s)) * log(sum(exp(tanh(s))) + 1e-3)",
        a="sum(exp(2 * s)) * sum(relu(s) ** 2)",
        b="abs(a) ** (1 + sigmoid(tanh(a))) - a",
    ),
    "high power": spec("r / sum(r)", a="softplus(s) / sum(softplus(s))", r="relu(n * a - 0.5) ** 15"),
    "four stages": spec(
        "c / sum(c)", a="tanh(s - mean(s))", b="sigmoid(a - mean(a ** 2))", c="softplus(b * n - sum(b))"
    ),
}
WITH_INPUTS = {
    "affine": spec("alpha * p + beta", inputs={"alpha": ROW, "beta": ROW}, p=SOFTMAX),
    "mixture": spec("a * p + (1 - a) * u + 1 / n_k", inputs={"a": HEAD}, p=SOFTMAX, u="relu(s) / (1 + sum(relu(s)))"),
    "difference of two": spec(
        "exp(s) / sum(exp(s)) - lam * exp(other) / sum(exp(other))", inputs={"lam": HEAD, "other": PAIR}
    ),
    "exponent": spec("softplus(s) ** p / sum(softplus(s) ** p)", inputs={"p": HEAD}),
    "norm's exponent": spec("exp(s) / sum(exp(s)) ** p", inputs={"p": "{shape: []}"}),
    "norm of an unknown sign": spec(
        "a ** p / (sum(a ** p) ** (1 / p) + 1e-3)", inputs={"p": HEAD}, a="relu(s) / (amax(s) - amin(s) + 1e-3)"
    ),
    "power of a centred score": spec(
        "p ** (1 + sigmoid(-sum(p * log(p + 1e-6))))",
        inputs={"a": KEY},
        c="exp((0.2 + a ** 2) * (s - mean(s)))",
        p="c / sum(c)",
    ),
    "temperature": spec(SOFTMAX, score="scale * qk * exp(tau)", inputs={"tau": ROW}),
    "sink": spec("exp(s) / (exp(sink) + sum(exp(s)))", inputs={"sink": ROW}),
    "slope": spec(SOFTMAX, score="scale * qk - slope * abs(i - j)", inputs={"slope": HEAD}),
    "bias of keys": spec(SOFTMAX, score="scale * qk + b", inputs={"b": KEY}),
    "bias of pairs": spec(SOFTMAX, score="scale * qk + b", inputs={"b": PAIR}),
    "weights of keys": spec("w * exp(s) / sum(w * exp(s))", inputs={"w": KEY}),
    "gate": spec("sigmoid(gate) * exp(s) / sum(exp(s))", inputs={"gate": PAIR}),
    "no gradient": spec("sigmoid(b + s)", inputs={"b": "{shape: [key], grad: false}"}),
    "in a condition alone": spec("where(s > u, s, 3)", inputs={"u": HEAD}),
    "cancels": spec("exp(s + a) / sum(exp(s + a))", inputs={"a": HEAD}),
    "staged, keys": spec("r / (1 + sum(r))", inputs={"b": KEY}, a="softplus(s + b)", r="relu(a / mean(a) - 0.5)"),
    "staged, pairs and rows": spec(
        "r / (1 + sum(r))", inputs={"b": PAIR, "c": ROW}, a="softplus(s + b)", r="softplus(c * a / mean(a) - 0.5)"
    ),
}
WITH_OUTPUT = {
    "exponentials that are all small": spec("abs(s)")
    + "output: exp(o - detach(csum(abs(o)))) / csum(exp(o - detach(csum(abs(o)))))\n",
}
FORMULAS = {**SINGLE_PASS, **STAGED, **WITH_INPUTS, **WITH_OUTPUT}


@pytest.mark.parametrize("text", FORMULAS.values(), ids=FORMULAS.keys())
def test_right_plans_pass(text: str) -> None:
    check_plan(plan_of(text))


@pytest.mark.parametrize(("weights", "size"), [("s * 1e20 ** 2", "1e40"), ("s / (amax(s) + 1e-20 ** 20)", "1e-400")])
def test_a_product_of_numbers_beyond_float32_is_the_users_mistake(weights: str, size: str) -> None:
    with pytest.raises(SpecError, match=f"comes to a number of about {size}"):
        plan_of(spec(weights))


@pytest.mark.parametrize("weights", ["log(-1 - s ** 2)", "s / (s - s)", "sqrt(-exp(s))", "log(s - 1000)"])
def test_a_formula_without_finite_values_is_the_users_mistake(weights: str) -> None:
    with pytest.raises(SpecError, match=r":\d+:\d+: error: .*finite"):
        check_plan(plan_of(spec(weights)))


@pytest.mark.parametrize(
    "weights", ["log(-s)", "log(s - 1)", "log(5 - s)", "sqrt((2 + s) / (2 - s))", "log(j - i + 9)"]
)
def test_a_formula_that_is_finite_somewhere_passes(weights: str) -> None:
    check_plan(plan_of(spec(weights)))
