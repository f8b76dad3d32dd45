"""The formulas of the shipped specs as their papers have them, written by hand in torch, one for each spec.

Nothing here is taken from a spec or from attngen: a formula is a function of rows of scores, and what it computes is
the paper's expression. Ranges are those in which an input means something.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from tests.ops.formulas import Formula
from tests.ops.oracle import Rows, Weights

HEAD = ("head",)
ROW = ("batch", "head", "query")
HEAD_KEY = ("batch", "head", "key")
KEY = ("batch", "kv_head", "key")
PAIR = ("batch", "head", "query", "key")
Between = tuple[float, float]

# Inputs that the specs give no gradient to.
FIXED = {
    "affine_total": ("average",),
    "affine_visible": ("average",),
    "alibi": ("slope",),
    "position_temperature": ("temperature",),
    "relu_n": ("length",),
    "row_scaled": ("rho",),
}


def _sink(r: Rows) -> Tensor:
    """A column with the sink's logit is appended, softmax taken, and the column dropped: as the models' code has it."""
    scores = torch.where(r.seen, r.s, -torch.inf)
    column = r.sink.to(scores).expand(*scores.shape[:3], 1)
    return torch.cat([scores, column], dim=-1).softmax(-1)[..., :-1]


def _softmax_n(r: Rows) -> Tensor:
    shift = r.amax(r.s).clamp(min=0).detach()
    return torch.exp(r.s - shift) / (r.extra * torch.exp(-shift) + r.sum(torch.exp(r.s - shift)))


def _softmax1(r: Rows) -> Tensor:
    shift = r.amax(r.s).clamp(min=0).detach()
    return torch.exp(r.s - shift) / (torch.exp(-shift) + r.sum(torch.exp(r.s - shift)))


def _softpick(r: Rows) -> Tensor:
    return torch.relu(torch.expm1(r.s)) / (r.sum(torch.expm1(r.s).abs()) + 1e-6)


def _stablemax(r: Rows) -> Tensor:
    h = torch.where(r.s >= 0, r.s + 1, 1 / (1 - r.s.clamp(max=0)))
    return h / r.sum(h)


def _taylor(r: Rows) -> Tensor:
    f = 1 + r.s + r.s**2 / 2
    return f / r.sum(f)


def _retention(r: Rows) -> Tensor:
    gamma = torch.exp(-torch.exp(r.log_decay))
    decay = gamma ** (r.i - r.j).abs()
    p = r.s * decay / torch.sqrt(r.sum(decay))
    total = r.sum(p).abs()
    return p / torch.where(total > 1, total, 1.0)


def _softplus(x: Tensor) -> Tensor:
    """torch's own is the identity above 20, 2e-9 off."""
    return torch.logaddexp(x, torch.zeros_like(x))


def _lssa(r: Rows) -> Tensor:
    return _ratio(r, _softplus(math.log(r.d) * torch.log(r.n) * r.qk))


def _lssar(power: int) -> Weights:
    def weights(r: Rows) -> Tensor:
        b = torch.relu(r.n * _lssa(r) - torch.where(r.i < 3, 0.0, 1.0)) ** power
        return b / (r.sum(b) + 1e-8)

    return weights


def _cosformer(r: Rows) -> Tensor:
    p = torch.relu(r.s) * torch.cos(torch.pi / 2 * (r.i - r.j) / max(r.n_q, r.n_k))
    return p / r.sum(p).clamp(min=1e-6)


def _t_softmax(r: Rows) -> Tensor:
    p = torch.relu(r.s - r.amax(r.s) + r.t) * torch.exp(r.s - r.amax(r.s).detach())
    return p / r.sum(p)


def _cog(r: Rows) -> Tensor:
    p = torch.exp(r.s.abs() - r.amax(r.s.abs()).detach())
    return torch.sign(r.s) * p / r.sum(p)


def _exp_l2(r: Rows) -> Tensor:
    e = torch.exp(r.s - r.amax(r.s).detach())
    return e / torch.sqrt(r.sum(e**2))


def _softmax_power(r: Rows) -> Tensor:
    lse = torch.where(r.seen, r.s, -torch.inf).logsumexp(-1, keepdim=True)
    return torch.exp(r.s - r.p * lse)


def _two_temperatures(r: Rows) -> Tensor:
    return r.cold * r.softmax(r.s) + r.warm * r.softmax(r.s / r.heat)


def _ssmax(r: Rows) -> Tensor:
    return r.softmax((r.slope * torch.log(r.n) + r.offset) * r.s)


def _log_n(r: Rows) -> Tensor:
    position = r.i.clamp(min=0) + 1
    return r.softmax(r.s * (torch.log(position) / math.log(8)).clamp(min=1))


def _gaussian(r: Rows) -> Tensor:
    squared_distance = r.query_norm + r.key_norm - 2 * r.qk
    return torch.exp(-squared_distance.clamp(min=0) * r.scale / 2)


def _laplace(r: Rows) -> Tensor:
    mu, sigma = math.sqrt(0.5), math.sqrt(0.25 / math.pi)
    return 0.5 * (1 + torch.erf((r.s - mu) / (sigma * math.sqrt(2))))


def _ratio(r: Rows, f: Tensor, eps: float = 0.0) -> Tensor:
    return f / (r.sum(f) + eps)


def _affine(r: Rows, count: Tensor | float) -> Tensor:
    return r.alpha * r.softmax(r.s) + (r.average - r.alpha) / count


def _entry(
    spec: str,
    weights: Weights,
    between: dict[str, Between] | None = None,
    axes: dict[str, tuple[str, ...]] | None = None,
) -> tuple[str, Formula]:
    return spec, Formula(spec, weights, axes or {}, between or {}, fixed=FIXED.get(spec, ()))


FORMULAS = dict(
    [
        _entry("additive_bias", lambda r: r.softmax(r.s + r.bias), axes={"bias": PAIR}),
        _entry("affine_scaled", lambda r: r.alpha * r.softmax(r.s) + r.beta, axes={"alpha": ROW, "beta": ROW}),
        _entry("affine_total", lambda r: _affine(r, r.n_k), axes={"alpha": ROW, "average": HEAD}),
        _entry("affine_visible", lambda r: _affine(r, r.n), axes={"alpha": ROW, "average": HEAD}),
        _entry("alibi", lambda r: r.softmax(r.s - r.slope * (r.i - r.j).abs()), axes={"slope": HEAD}),
        _entry("cog", _cog),
        _entry("cosformer", _cosformer),
        _entry("elu_l1", lambda r: _ratio(r, F.elu(r.s) + 1)),
        _entry("exp_l2", _exp_l2),
        _entry("forgetting", lambda r: r.softmax(r.s + r.c_query - r.c_key), axes={"c_query": ROW, "c_key": HEAD_KEY}),
        _entry(
            "gaussian", _gaussian, {"query_norm": (4, 12), "key_norm": (4, 12)}, {"query_norm": ROW, "key_norm": KEY}
        ),
        _entry("gaussian_l1", lambda r: r.softmax(r.s - r.key_norm * r.scale / 2), axes={"key_norm": KEY}),
        _entry("hstu", lambda r: F.silu(r.s) / r.n_k),
        _entry("hstu_scaled", lambda r: r.attn_scale * F.silu(r.s), axes={"attn_scale": ("batch", "query")}),
        _entry("identity", lambda r: r.s),
        _entry("l2", lambda r: r.s / torch.sqrt(r.sum(r.s**2) + 1e-12)),
        _entry("laplace", _laplace),
        _entry("lssa", _lssa),
        _entry("poly2", _taylor),
        _entry("polynomial", lambda r: _ratio(r, r.s**4)),
        _entry("position_temperature", lambda r: r.softmax(r.s * r.temperature), {}, {"temperature": ("query",)}),
        _entry("power", lambda r: r.s**3 / math.sqrt(r.n_k)),
        _entry("rebased", lambda r: _ratio(r, r.s**2, 1e-6)),
        _entry("relu_l1", lambda r: _ratio(r, torch.relu(r.s), 1e-6)),
        _entry("relu_n", lambda r: torch.relu(r.s) / r.length, {"length": (3, 9)}, {"length": ("query",)}),
        _entry("relu_squared", lambda r: torch.relu(r.s / r.n_k) ** 2),
        _entry("retention", _retention, {"log_decay": (-5, -1)}, {"log_decay": HEAD}),
        _entry("row_scaled", lambda r: r.rho * r.softmax(r.s), axes={"rho": ROW}),
        _entry(
            "scaled_cosine",
            lambda r: r.softmax(r.qk * torch.exp(r.log_scale.clamp(max=math.log(100))) + r.bias),
            {"log_scale": (-2, 0.5)},
            {"log_scale": HEAD, "bias": ("head", "query", "key")},
        ),
        _entry("sigmoid", lambda r: torch.sigmoid(r.s + r.bias), {"bias": (-4, 0)}, {"bias": ()}),
        _entry("sigmoid_l1", lambda r: _ratio(r, torch.sigmoid(r.s))),
        _entry("sink", _sink, axes={"sink": HEAD}),
        _entry("softcap", lambda r: r.softmax(50 * torch.tanh(r.s / 50))),
        _entry("softmax", lambda r: r.softmax(r.s)),
        _entry("softmax1", _softmax1),
        _entry("softmax_n", _softmax_n, {"extra": (0.1, 4)}, {"extra": HEAD}),
        _entry("softmax_power", _softmax_power, {"p": (-0.5, 1.5)}, {"p": HEAD}),
        _entry("softpick", _softpick),
        _entry("softplus_l1", lambda r: _ratio(r, _softplus(r.s))),
        _entry("spherical", lambda r: _ratio(r, r.s**2 + 1e-6)),
        _entry("ssmax", _ssmax, {"slope": (-0.5, 1)}, {"slope": HEAD, "offset": HEAD}),
        _entry("stablemax", _stablemax),
        _entry("t_softmax", _t_softmax, {"t": (0.5, 3)}, {"t": HEAD}),
        _entry(
            "temperature_alibi",
            lambda r: r.softmax(r.temperature * r.s - r.slope * (r.i - r.j).abs()),
            axes={"temperature": ROW, "slope": HEAD},
        ),
        _entry("two_temperatures", _two_temperatures, {"heat": (1.5, 4)}, {"cold": HEAD, "warm": HEAD, "heat": HEAD}),
    ]
)
FORMULAS["log_n"] = Formula("log_n", _log_n, statics={"length": 8})
FORMULAS["lssar"] = Formula("lssar", _lssar(3), statics={"power": 3})
