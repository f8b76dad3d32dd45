"""Roots that no paper has, against bisection: values, gradients by the implicit function, and what has no zero."""

import inspect
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from attngen.diagnostics import SpecError
from attngen.pipeline import compile_spec
from tests.normalizers.given_scores import FP64, bad, error, kernels, random, weights_and_gradient
from tests.ops.formulas import Formula
from tests.ops.oracle import Mask, Rows
from tests.ops.subject import Case, Load, Subject, check

# The first row sees one key, the last two none.
CASE = Case(n_q=12, n_k=7, d=8, d_v=8, batch=1, mask=Mask(window=(3, 0)))


def solved(residual: Callable[[Tensor], Tensor], low: Tensor, high: Tensor) -> Tensor:
    """Bisection, then a step of zero that has the implicit function's gradient."""
    with torch.no_grad():
        sign, low, high = residual(low).sign(), low.clone(), high.clone()
        for _ in range(200):
            middle = low + (high - low) / 2
            below = residual(middle).sign() == sign
            low, high = torch.where(below, middle, low), torch.where(below, high, middle)
    found = low.requires_grad_()
    (slope,) = torch.autograd.grad(residual(found).sum(), found)
    at_found = residual(low.detach())
    return low.detach() - (at_found - at_found.detach()) / slope


def bounds(r: Rows, low: Tensor | float, high: Tensor | float) -> tuple[Tensor, Tensor]:
    zeros = torch.zeros_like(r.s[..., :1])
    return zeros + low, zeros + high


def _softmax(r: Rows) -> Tensor:
    return torch.exp(r.s - solved(lambda t: r.sum(torch.exp(r.s - t)) - 1, *bounds(r, -50, 50)))


def _share(r: Rows) -> Tensor:
    total, top = r.sum(torch.exp(r.s)), r.amax(r.s)
    t = solved(lambda t: r.sum(torch.relu(r.s - t)) / total - 0.2, *bounds(r, top - 50, top))
    return torch.relu(r.s - t)


def _mean(r: Rows) -> Tensor:
    return torch.exp(r.s - r.mean(r.s))


def _entmax(r: Rows) -> Tensor:
    z = (r.alpha - 1) * r.s
    t = solved(lambda t: r.sum(torch.relu(z - t) ** (1 / (r.alpha - 1))) - 1, *bounds(r, r.amax(z) - 1, r.amax(z)))
    return torch.relu(z - t) ** (1 / (r.alpha - 1))


def _top(r: Rows) -> Tensor:
    def residual(t: Tensor) -> Tensor:
        return r.sum(torch.sigmoid(r.beta * (r.s - t))) - r.k

    return torch.sigmoid(r.beta * (r.s - solved(residual, *bounds(r, r.amin(r.s) - 9, r.amax(r.s) + 9))))


def _turning(r: Rows) -> Tensor:
    low, high = bounds(r, r.mean(r.s) - 1, r.amax(r.s) + 9)
    return torch.relu(solved(lambda t: r.mean((r.s - t) ** 2) - 9, low, high) - r.s)


def _flat(r: Rows) -> Tensor:
    def residual(t: Tensor) -> Tensor:
        return r.mean(torch.sqrt(1 + (r.s - t) ** 2)) - t - 3

    return torch.sigmoid(r.s - solved(residual, *bounds(r, -3e6, 3e6)))


def _logarithm(r: Rows) -> Tensor:
    return r.s * solved(lambda t: torch.log(t) + r.mean(r.s**2), *bounds(r, 0, 1e3))


def _chained(r: Rows) -> Tensor:
    p, top = torch.sqrt(r.softmax(r.s)), torch.sqrt(r.amax(r.softmax(r.s)))
    t = solved(lambda t: r.sum(torch.relu(p - t)) - 0.3, *bounds(r, top - 1, top))
    u = solved(lambda u: r.sum(torch.exp(u * (r.s - r.amax(r.s)))) - 1 - t - r.c, *bounds(r, -1e-3, 1e3))
    return torch.relu(p - t) * u


FORMULAS = {
    "softmax": ('t: {root: "sum(exp(s - t)) - 1", between: [2000, -2000]}', "exp(s - t)", _softmax, {}),
    "share": (
        't: {root: "sum(relu(s - t)) / sum(exp(s)) - 0.2", between: [amax(s) - 1000, amax(s)]}',
        "relu(s - t)",
        _share,
        {},
    ),
    "mean": ('t: {root: "t - mean(s)", between: [-1000, 1e6]}', "exp(s - t)", _mean, {}),
    "entmax": (
        'a: alpha - 1\n  t: {root: "sum(relu(a * s - t) ** (1 / a)) - 1", between: [amax(a * s) - 1, amax(a * s)]}',
        "relu(a * s - t) ** (1 / a)",
        _entmax,
        {"alpha": (("head",), (1.2, 1.9))},
    ),
    "top": (
        't: {root: "sum(sigmoid(beta * (s - t))) - k", between: [amin(s) - 9, amax(s) + 9]}',
        "sigmoid(beta * (s - t))",
        _top,
        {"beta": (("head",), (2.0, 4.0)), "k": ((), (0.5, 0.9))},
    ),
    "turning": (
        't: {root: "mean((s - t) ** 2) - 9", between: [mean(s) - 1, amax(s) + 9]}',
        "relu(t - s)",
        _turning,
        {},
    ),
    # At its upper bound the residual is -3 - mean(s), less than eight roundings of 6e6 in float32.
    "flat": ('t: {root: "mean(sqrt(1 + (s - t) ** 2)) - t - 3", between: [-3e6, 3e6]}', "sigmoid(s - t)", _flat, {}),
    "logarithm": ('t: {root: "log(t) + mean(s ** 2)", between: [0, 1e3]}', "s * t", _logarithm, {}),
    "chained": (
        'p: sqrt(exp(s) / sum(exp(s)))\n  t: {root: "sum(relu(p - t)) - 0.3", between: [amax(p) - 1, amax(p)]}\n'
        '  u: {root: "sum(exp(u * (s - amax(s)))) - 1 - t - c", between: [-1e-3, 1e3]}',
        "relu(p - t) * u",
        _chained,
        {"c": (("query",), (1.0, 1.5))},
    ),
}
SEVERAL_KEYS = ("chained",)  # with one key its second root has no zero


def spec(name: str) -> str:
    lets, weights, _, inputs = FORMULAS[name]
    shapes = "".join(f"  {n}: {{shape: [{', '.join(axes)}]}}\n" for n, (axes, _) in inputs.items())
    return f"name: {name}\n" + (f"inputs:\n{shapes}" if shapes else "") + f"let:\n  {lets}\nweights: {weights}\n"


def subject(name: str, load: Load, on_kernels: bool = False) -> Subject:
    *_, by_hand, inputs = FORMULAS[name]
    axes, between = ({n: given[part] for n, given in inputs.items()} for part in (0, 1))
    return Subject(load, Formula(spec(name), by_hand, axes, between), on_kernels)


def case_of(name: str) -> Case:
    return replace(CASE, mask=Mask()) if name in SEVERAL_KEYS else CASE


@pytest.mark.parametrize("name", FORMULAS)
def test_portable_in_float64(name: str, load: Load) -> None:
    check(subject(name, load), case_of(name), FP64)


@pytest.mark.parametrize("name", FORMULAS)
def test_kernels_in_float32(name: str, load: Load) -> None:
    check(subject(name, load, on_kernels=True), case_of(name), torch.float32, 4.0)


@pytest.mark.parametrize("shift", [-300, 0, 300])
def test_exponentials_of_large_scores(shift: int, load: Load) -> None:
    scores, d_weights = random(3, 20, spread=30) + shift, random(3, 20, seed=3)
    with kernels(load(spec("softmax"))) as op:
        found, gradient = weights_and_gradient(op, scores.float(), d_weights.float())
    assert error(found, scores.float().double().softmax(-1)) < 1e-4
    assert not bad(gradient)


def test_a_wide_bracket_takes_few_walks(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    op = load(spec("softmax"))
    module = inspect.getmodule(op)
    assert module is not None
    walks, step = [], module._Search.next
    monkeypatch.setattr(module._Search, "next", lambda *args: walks.append(1) or step(*args))
    op(*(random(1, 1, 32, 16, seed=n).float() for n in range(3)))
    assert len(walks) <= 4


def test_gradients_of_gradients(load: Load) -> None:
    op = load(spec("softmax"))
    drawn = [random(1, 1, 3, 2, seed=n).requires_grad_() for n in range(3)]
    assert torch.autograd.gradgradcheck(lambda *given: op(*given, is_causal=True), drawn)


@pytest.mark.parametrize(
    "residual",
    [
        "t ** 2 + sum(relu(s))",  # no zero
        "mean(sign(s - t)) + 0.01",  # jumps over it
        "mean(clip(t, -9, 0)) + 0 * mean(s)",  # flat there
        "sum(relu(s - t)) * (t ** 2 - 1)",  # several
    ],
)
def test_what_is_no_root_for_any_scores_is_refused(residual: str) -> None:
    text = f'name: none\nlet:\n  t: {{root: "{residual}", between: [-50, 50]}}\nweights: relu(s - t)\n'
    with pytest.raises(SpecError, match=r"none\.yaml:3:3: error: the root 't' isn.t a single zero"):
        compile_spec(text, "none.yaml")
