"""Formulas that no paper has, as a spec and, beside it, written by hand: what a compiler of formulas must cope with."""

import torch
import torch.nn.functional as F
from torch import Tensor

from tests.ops.formulas import Formula
from tests.ops.oracle import Rows

ROW = ("batch", "head", "query")


def _gated_twice(r: Rows) -> Tensor:
    p = r.softmax(r.s) * torch.sigmoid(r.gate + r.n * r.softmax(r.s))
    return p / r.sum(p)


def _trainable_exponent(r: Rows) -> Tensor:
    f = 1 + torch.logaddexp(r.s, torch.zeros_like(r.s))
    return f**r.alpha / r.sum(f**r.alpha) ** r.p


def _standardized(r: Rows) -> Tensor:
    centred = r.s - r.mean(r.s)
    return r.softmax(r.gain * centred / torch.sqrt(r.mean(centred**2) + 0.01))


def _two_heats(r: Rows) -> Tensor:
    return r.mix * r.softmax(r.s * r.low) + (1 - r.mix) * r.softmax(r.s * r.high)


def _squared_softmax(r: Rows) -> Tensor:
    return r.softmax(2 * r.s)


def _relu_of_excess(r: Rows) -> Tensor:
    p = torch.relu(r.softmax(r.s) - r.tau / r.n)
    return p / (r.sum(p) + 0.01)


def _three_stages(r: Rows) -> Tensor:
    a = r.softmax(r.s)
    b = torch.sqrt(a + 0.1)
    c = torch.tanh(r.n * (b / r.sum(b)))
    return c / (1 + r.sum(c**2))


def _log_ratio(r: Rows) -> Tensor:
    return torch.log1p(torch.exp(r.s) / (1 + r.sum(torch.exp(r.s))))


def _midrange(r: Rows) -> Tensor:
    middle = (r.amax(r.s) + r.amin(r.s)) / 2
    p = torch.sigmoid(r.heat * (r.s - middle))
    return p / r.sum(p)


def _signed_norm(r: Rows) -> Tensor:
    p = torch.sinh(r.s) * 0.5
    return p / (r.sum(p.abs()) + torch.exp(r.sink))


def _mean_of_three(r: Rows) -> Tensor:
    smooth, squared = torch.sigmoid(r.s), r.s**2
    return (r.softmax(r.s) + smooth / r.sum(smooth) + squared / (r.sum(squared) + 1)) / 3


def _harmonic(r: Rows) -> Tensor:
    p = 1 / (1 + r.s**2)
    return p * r.n / r.sum(p) ** 2


def _bounded_softmax(r: Rows) -> Tensor:
    return r.softmax(r.s).clamp(0.02, 0.3) * r.rho


def _detached(r: Rows) -> Tensor:
    p = r.softmax(r.s)
    return F.silu(r.s) * p.detach() + p


def _log_uniform(r: Rows) -> Tensor:
    f = torch.atan(r.s) + torch.pi / 2
    return f / torch.sqrt(r.sum(f) * r.sum(f**2))


def _distance(r: Rows) -> Tensor:
    f = torch.exp(-r.decay * (r.i - r.j).abs()) * (r.s.abs() + 0.1)
    return torch.sign(r.s) * f / r.sum(f)


SPECS = {
    "gated_twice": "inputs: {gate: {shape: [batch, head, query]}}\nlet:\n  a: exp(s) / sum(exp(s))\n"
    "  b: a * sigmoid(gate + n * a)\nweights: b / sum(b)",
    "trainable_exponent": "inputs: {alpha: {shape: [head]}, p: {shape: []}}\nlet:\n  f: (1 + softplus(s)) ** alpha\n"
    "weights: f / sum(f) ** p",
    "standardized_gain": "inputs: {gain: {shape: [head]}}\nlet:\n  c: s - mean(s)\n"
    "  t: gain * c / sqrt(mean(c ** 2) + 0.01)\nweights: exp(t) / sum(exp(t))",
    "two_heats": "inputs: {mix: {shape: [batch, head, query]}, low: {shape: []}, high: {shape: [head]}}\nlet:\n"
    "  a: exp(s * low) / sum(exp(s * low))\n  b: exp(s * high) / sum(exp(s * high))\nweights: mix * a + (1 - mix) * b",
    "squared_softmax": "let:\n  p: exp(s) / sum(exp(s))\nweights: p ** 2 / sum(p ** 2)",
    "relu_of_excess": "inputs: {tau: {shape: [head]}}\nlet:\n  p: exp(s) / sum(exp(s))\n  r: relu(p - tau / n)\n"
    "weights: r / (sum(r) + 0.01)",
    "three_stages": "let:\n  a: exp(s) / sum(exp(s))\n  b: sqrt(a + 0.1)\n  c: tanh(n * b / sum(b))\n"
    "weights: c / (1 + sum(c ** 2))",
    "log_ratio": "weights: log1p(exp(s) / (1 + sum(exp(s))))",
    "midrange": "inputs: {heat: {shape: []}}\nlet:\n  p: sigmoid(heat * (s - (amax(s) + amin(s)) / 2))\n"
    "weights: p / sum(p)",
    "signed_norm": "inputs: {sink: {shape: [head]}}\nlet:\n  f: (exp(s) - exp(-s)) / 4\n"
    "weights: f / (sum(abs(f)) + exp(sink))",
    "mean_of_three": "weights: (exp(s) / sum(exp(s)) + sigmoid(s) / sum(sigmoid(s)) + s ** 2 / (sum(s ** 2) + 1)) / 3",
    "harmonic": "let:\n  p: 1 / (1 + s ** 2)\nweights: p * n / sum(p) ** 2",
    "bounded_softmax": "inputs: {rho: {shape: [query]}}\nweights: rho * clip(exp(s) / sum(exp(s)), 0.02, 0.3)",
    "detached": "let:\n  p: exp(s) / sum(exp(s))\nweights: silu(s) * detach(p) + p",
    "log_uniform": "let:\n  f: atan(s) + pi / 2\nweights: f / sqrt(sum(f) * sum(f ** 2))",
    "distance": "inputs: {decay: {shape: [head]}}\nlet:\n  f: exp(-decay * abs(i - j)) * (abs(s) + 0.1)\n"
    "weights: sign(s) * f / sum(f)",
}
HEAD = ("head",)
FORMULAS = {
    "gated_twice": Formula("", _gated_twice, {"gate": ROW}),
    "trainable_exponent": Formula("", _trainable_exponent, {"alpha": HEAD, "p": ()}, {"alpha": (0.5, 3)}),
    "standardized_gain": Formula("", _standardized, {"gain": HEAD}, {"gain": (0.5, 2)}),
    "two_heats": Formula("", _two_heats, {"mix": ROW, "low": (), "high": HEAD}, {"high": (1, 3)}),
    "squared_softmax": Formula("", _squared_softmax),
    "relu_of_excess": Formula("", _relu_of_excess, {"tau": HEAD}, {"tau": (0.2, 1.2)}),
    "three_stages": Formula("", _three_stages),
    "log_ratio": Formula("", _log_ratio),
    "midrange": Formula("", _midrange, {"heat": ()}, {"heat": (0.5, 3)}),
    "signed_norm": Formula("", _signed_norm, {"sink": HEAD}),
    "mean_of_three": Formula("", _mean_of_three),
    "harmonic": Formula("", _harmonic),
    "bounded_softmax": Formula("", _bounded_softmax, {"rho": ("query",)}),
    "detached": Formula("", _detached),
    "log_uniform": Formula("", _log_uniform),
    "distance": Formula("", _distance, {"decay": HEAD}, {"decay": (0.05, 0.5)}),
}
UNSEEN = {name: Formula(f"name: {name}\n{SPECS[name]}\n", f.weights, f.axes, f.between) for name, f in FORMULAS.items()}
