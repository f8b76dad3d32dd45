"""Normalizers as a spec and, beside it, the same formula written by hand in torch."""

from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from tests.ops.oracle import Rows, Weights


@dataclass(frozen=True)
class Formula:
    """`spec`: a shipped name or YAML text. `between`: the range that an input's values are drawn from. `fixed`: inputs
    without a gradient."""

    spec: str
    weights: Weights
    axes: dict[str, tuple[str, ...]] = field(default_factory=dict)
    between: dict[str, tuple[float, float]] = field(default_factory=dict)
    statics: dict[str, Any] = field(default_factory=dict)
    fixed: tuple[str, ...] = ()


def _affine_scaled(r: Rows) -> Tensor:
    return r.alpha * r.softmax(r.s) + r.beta


def _mixed(r: Rows) -> Tensor:
    return r.mix * r.softmax(r.s) + (1 - r.mix) * r.softmax(r.s / r.heat)


def _gated(r: Rows) -> Tensor:
    return r.softmax(r.s + F.logsigmoid(r.gate))


def _relu_power(r: Rows) -> Tensor:
    p = torch.relu(r.s) ** 3
    return p / (r.sum(p) + r.floor)


def _standardized(r: Rows) -> Tensor:
    centred = r.s - r.mean(r.s)
    return r.softmax(centred / torch.sqrt(r.mean(centred**2) + 0.01))


def _lssar_like(r: Rows) -> Tensor:
    a = F.softplus(r.s)
    p = torch.relu(r.n * (a / r.sum(a)) - torch.where(r.i < 3, 0.0, 0.5)) ** 2
    return p / (r.sum(p) + 0.1)


def _relative(r: Rows) -> Tensor:
    p = torch.relu(1 + r.s - r.amax(r.s))
    return p / r.sum(p)


def _biased(r: Rows) -> Tensor:
    return r.softmax(r.s + r.bias)


def _by_key_head(r: Rows) -> Tensor:
    p = torch.sigmoid(r.tau * r.s + r.kappa)
    return p / torch.sqrt(r.sum(p))


def _clipped(r: Rows) -> Tensor:
    return torch.where(r.j < r.i - 2, r.s.clamp(-1, 1) ** 2, F.silu(r.s)) / r.n


def _silu_ratio(r: Rows) -> Tensor:
    p = F.silu(r.s)
    return p * torch.rsqrt(r.sum(p**2) + 1)


def _cosine(r: Rows) -> Tensor:
    p = F.softplus(r.s * torch.cos((r.i - r.j) * torch.pi / 32))
    return p / (r.gain + r.sum(p))


def _from_least(r: Rows) -> Tensor:
    p = r.s - r.amin(r.s)
    return p / (r.sum(p) + 1)


def _tile_gate(r: Rows) -> Tensor:
    p = torch.exp(torch.tanh(r.s)) * r.gate**2
    return p / (r.sum(p) + 0.5)


ROW = ("batch", "head", "query")

FORMULAS = {
    "sigmoid": Formula("sigmoid", lambda r: torch.sigmoid(r.s + r.bias), {"bias": ()}, {"bias": (-2, 0)}),
    "softmax": Formula("softmax", lambda r: r.softmax(r.s)),
    "softplus_l1": Formula("softplus_l1", lambda r: F.softplus(r.s) / r.sum(F.softplus(r.s))),
    "affine_scaled": Formula("affine_scaled", _affine_scaled, {"alpha": ROW, "beta": ROW}),
    "mixed": Formula(
        """
name: mixed
inputs:
  mix: {shape: []}
  heat: {shape: [head]}
let:
  cold: exp(s) / sum(exp(s))
  warm: exp(s / heat) / sum(exp(s / heat))
weights: mix * cold + (1 - mix) * warm
""",
        _mixed,
        {"mix": (), "heat": ("head",)},
        {"mix": (0.2, 0.8), "heat": (1.5, 4)},
    ),
    "gated": Formula(
        """
name: gated
inputs:
  gate: {shape: [batch, head, key]}
let:
  p: sigmoid(gate) * exp(s)
weights: p / sum(p)
""",
        _gated,
        {"gate": ("batch", "head", "key")},
    ),
    "relu_power": Formula(
        """
name: relu_power
inputs:
  floor: {shape: [head]}
  power: {kind: static, default: 2}
weights: relu(s) ** power / (sum(relu(s) ** power) + floor)
""",
        _relu_power,
        {"floor": ("head",)},
        {"floor": (0.5, 1.5)},
        {"power": 3},
    ),
    "standardized": Formula(
        """
name: standardized
let:
  centred: s - mean(s)
  t: centred / sqrt(mean(centred ** 2) + 0.01)
weights: exp(t) / sum(exp(t))
""",
        _standardized,
    ),
    "lssar_like": Formula(
        """
name: lssar_like
inputs:
  power: {kind: static, default: 15}
let:
  a: softplus(s) / sum(softplus(s))
  p: relu(n * a - where(i < 3, 0, 0.5)) ** power
weights: p / (sum(p) + 0.1)
""",
        _lssar_like,
        statics={"power": 2},
    ),
    "relative": Formula(
        """
name: relative
let:
  p: relu(1 + s - amax(s))
weights: p / sum(p)
""",
        _relative,
    ),
    "biased": Formula(
        """
name: biased
inputs:
  bias: {shape: [head, query, key]}
score: scale * qk + bias
weights: exp(s) / sum(exp(s))
""",
        _biased,
        {"bias": ("head", "query", "key")},
    ),
    "by_key_head": Formula(
        """
name: by_key_head
inputs:
  tau: {shape: [kv_head]}
  kappa: {shape: [batch, kv_head, key]}
let:
  p: sigmoid(tau * s + kappa)
weights: p / sqrt(sum(p))
""",
        _by_key_head,
        {"tau": ("kv_head",), "kappa": ("batch", "kv_head", "key")},
        {"tau": (0.5, 2)},
    ),
    "clipped": Formula(
        """
name: clipped
weights: where(j < i - 2, clip(s, -1, 1) ** 2, silu(s)) / n
""",
        _clipped,
    ),
    "silu_ratio": Formula(
        """
name: silu_ratio
weights: silu(s) * rsqrt(sum(silu(s) ** 2) + 1)
""",
        _silu_ratio,
    ),
    "cosine": Formula(
        """
name: cosine
inputs:
  gain: {shape: [query]}
score: scale * qk * cos((i - j) * pi / 32)
weights: softplus(s) / (gain + sum(softplus(s)))
""",
        _cosine,
        {"gain": ("query",)},
        {"gain": (0.5, 2)},
    ),
    "from_least": Formula(
        """
name: from_least
let:
  p: s - amin(s)
weights: p / (sum(p) + 1)
""",
        _from_least,
    ),
    "tile_gate": Formula(
        """
name: tile_gate
inputs:
  gate: {shape: [batch, kv_head, query, key]}
let:
  p: exp(tanh(s)) * gate ** 2
weights: p / (sum(p) + 0.5)
""",
        _tile_gate,
        {"gate": ("batch", "kv_head", "query", "key")},
    ),
}
