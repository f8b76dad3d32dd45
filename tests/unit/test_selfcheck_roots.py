"""The written-out roots and outputs of the self-check against torch's: another solver, and autograd."""

import math
from collections.abc import Callable
from random import Random

import pytest
import torch
from torch import Tensor

from attngen.selfcheck.case import Case, Shift, draw
from attngen.selfcheck.formula import Formula, OnCase
from attngen.selfcheck.zero import zero
from attngen.spec.lower import read_spec
from attngen.verify.reference import Call, Operands, attention

GIVEN = "inputs: {score: {shape: [query, key]}, alpha: {shape: []}, gain: {shape: [query]}}\nscore: scale * score\n"
ROOTS = {
    "sparsemax": '{root: "sum(relu(s - tau)) - 1", between: [amax(s) - 1, amax(s)]}\nweights: relu(s - tau)',
    "entmax": '{root: "sum(relu(alpha * s - tau) ** (1 / alpha)) - 1", between: [amax(alpha * s) - 1, amax(alpha * s)]}'
    "\nweights: relu(alpha * s - tau) ** (1 / alpha)",
    "rising": '{root: "mean(tanh(tau - s)) - 0.3 + detach(tanh(amin(s)))", between: [-50, 50]}'
    "\nweights: sigmoid(s - tau)",
    "nested": '{root: "sum(sigmoid(s - tau)) - n / 3", between: [amin(s) - 9, amax(s) + 9]}\n'
    '  rho: {root: "rho ** 3 + rho - tau", between: [-100, 100]}\nweights: sigmoid(s - rho * tau)',
}
OUTPUTS = {
    "scaled": "gain * o / sqrt(csum(o ** 2) / csum(1) + 0.1)",
    "detached": "(o - csum(o)) * exp(-detach(csum(o ** 2)) / 9) + i / n",
}
SPECS = {name: f"name: x\n{GIVEN}let:\n  tau: {text}\n" for name, text in ROOTS.items()}
SPECS |= {name: f"name: x\n{GIVEN}weights: exp(s) / sum(exp(s))\noutput: {text}\n" for name, text in OUTPUTS.items()}


def case_of(normalizer: "object") -> Case:
    """Alpha is positive, as its root needs it."""
    case = draw(normalizer.inputs, Random(7), 0)  # type: ignore[attr-defined]
    case.rows["alpha"][:] = [0.4] * len(case.seen)
    return case


def by_torch(text: str, case: Case) -> list[dict[str, Tensor]]:
    """Per row: the output, and the gradients of its product with dO."""
    found = []
    for row, seen in enumerate(case.seen):
        keys = list(seen)
        score = torch.tensor(case.pairs["score"][row], dtype=torch.float64)[keys][None]
        rows = {name: torch.tensor(case.rows[name][row], dtype=torch.float64) for name in ("alpha", "gain")}
        inputs = {"score": score, "alpha": rows["alpha"], "gain": rows["gain"][None]}
        leaves = {name: x.requires_grad_() for name, x in inputs.items()}
        zeros = torch.zeros(1, 1, len(keys), 4, dtype=torch.float64)
        value = torch.tensor(case.value, dtype=torch.float64)[keys][None, None]
        shifted = text.replace("i / n", f"{case.rows['i'][row]} / n")
        call = Call(scale=case.rows["scale"][row])
        out = attention(read_spec(shifted, "x"), Operands(zeros[:, :, :1], zeros, value, leaves), call, torch.float64)
        total = (out * torch.tensor(case.d_out[row], dtype=torch.float64)).sum()
        grads = torch.autograd.grad(total, list(leaves.values()), allow_unused=True)
        found.append({"out": out.flatten().detach()} | dict(zip(leaves, grads, strict=True)))
    return found


@pytest.mark.parametrize("text", SPECS.values(), ids=SPECS.keys())
def test_outputs_and_derivatives(text: str) -> None:
    normalizer = read_spec(text, "x")
    case = case_of(normalizer)
    truth, wanted = OnCase(Formula(normalizer), case), by_torch(text, case)
    assert truth.is_finite()
    for row, seen in enumerate(case.seen):
        assert truth.outputs[row] == pytest.approx(wanted[row]["out"].tolist(), rel=1e-12, abs=1e-12)
        for position, key in enumerate(seen):
            slope = truth.derivative(Shift("score", row, key), truth.size())
            assert slope == pytest.approx(float(wanted[row]["score"][0, position]), rel=1e-6, abs=1e-7)
        gain = wanted[row]["gain"]
        slope = truth.derivative(Shift("gain", row, None), truth.size())
        assert slope == pytest.approx(0.0 if gain is None else float(gain), rel=1e-6, abs=1e-7)
    total = sum(float(x["alpha"]) for x in wanted if x["alpha"] is not None)
    assert truth.derivative(Shift("alpha", None, None), truth.size()) == pytest.approx(total, rel=1e-6, abs=1e-7)


@pytest.mark.parametrize("text", SPECS.values(), ids=SPECS.keys())
def test_noise_is_that_of_the_last_digits(text: str) -> None:
    normalizer = read_spec(text, "x")
    truth = OnCase(Formula(normalizer), case_of(normalizer))
    assert truth.is_tame
    assert all(0 < noise < 1e-10 for noise in (*truth.noise, *truth.output_noise))


@pytest.mark.parametrize(
    ("function", "low", "high"),
    [
        (lambda t: t - 0.3, 0.0, 1.0),
        (lambda t: 0.3 - t, 0.0, 1.0),
        (lambda t: t - 0.3, 1.0, 0.0),
        (lambda t: math.exp(t) - 5, -400.0, 700.0),
        (lambda t: t**9 - 1e-6, -1.0, 3.0),
        (lambda t: max(t, 0.0) - 1e-12, -1.0, 1.0),
        (lambda t: math.copysign(1.0, t - 0.7), 0.0, 1.0),
        (lambda t: 1e300 * (t - 1e5), 0.0, 1e6),
        (lambda t: 1e-300 * (t - 1e-5), 0.0, 1.0),
        (lambda t: math.atan(1e9 * (t - 0.12345)), 0.0, 1.0),
    ],
)
def test_zeros_are_exact(function: Callable[[float], float], low: float, high: float) -> None:
    """The function changes its sign between the numbers next to the one that is found."""
    found = zero(function, low, high)
    before, after = (function(math.nextafter(found, end)) for end in (-math.inf, math.inf))
    assert function(found) == 0 or before * after < 0 or (before < 0) != (after < 0)


def test_few_evaluations_are_enough() -> None:
    calls = []
    zero(lambda t: calls.append(t) or math.exp(t) - 5, -3.0, 10.0)  # type: ignore[func-returns-value]
    assert len(calls) < 40


@pytest.mark.parametrize(("low", "high", "found"), [(1.0, 3.0, 1.0), (-3.0, -1.0, -1.0)])
def test_without_a_zero_it_is_the_nearer_bound(low: float, high: float, found: float) -> None:
    assert zero(lambda t: t * t + 1, low, high) == found


def test_zeros_at_bounds_and_unknown_bounds() -> None:
    assert zero(lambda t: t - 1, 1.0, 2.0) == 1.0
    assert zero(lambda t: t - 2, 1.0, 2.0) == 2.0
    assert math.isnan(zero(lambda t: t - 2, math.nan, 2.0))
