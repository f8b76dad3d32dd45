"""Attention in many spellings. Each is a function of query (B, H, Nq, D), key and value (B, H, Nk, D)."""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

BATCH, HEADS, ROWS, KEYS, DIM = 2, 4, 12, 12, 8
SCALE = DIM**-0.5
Function = Callable[..., Tensor]
SEEN = torch.ones(ROWS, KEYS, dtype=torch.bool).tril()
SCATTERED = (torch.arange(ROWS)[:, None] * 3 + torch.arange(KEYS)[None, :] * 5) % 4 < 2
PADDING = torch.ones(BATCH, 1, 1, KEYS, dtype=torch.bool)
PADDING[1, ..., 9:] = False
PADDED = torch.zeros(BATCH, 1, 1, KEYS).masked_fill(~PADDING, float("-inf"))
SLOPES = torch.tensor([0.5, 0.25, 0.125, 0.0625])


def scores(q: Tensor, k: Tensor) -> Tensor:
    return q @ k.transpose(-2, -1) * SCALE


def causal_mask(rows: int, keys: int) -> Tensor:
    return torch.tril(torch.ones(rows, keys, dtype=torch.bool))


# ------------------------------------------------------------------------------------------------------- softmax


def softmax_by_hand(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    s = scores(q, k)
    e = torch.exp(s - s.max(dim=-1, keepdim=True).values)
    return e / e.sum(-1, keepdim=True) @ v


def softmax_divided_late(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    s = scores(q, k)
    e = torch.exp(s - s.amax(-1, keepdim=True))
    return (e @ v) / e.sum(-1, keepdim=True)


def softmax_times_reciprocal(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    e = scores(q, k).exp()
    return e.matmul(v) * e.sum(-1).reciprocal().unsqueeze(-1)


def softmax_by_logsumexp(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    s = scores(q, k)
    return torch.exp(s - torch.logsumexp(s, -1, keepdim=True)) @ v


def softmax_detached_maximum(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    s = scores(q, k)
    e = torch.exp(s - s.amax(-1, keepdim=True).detach())
    return e / e.sum(-1, keepdim=True) @ v


def merged_heads(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    b, h, n, d = q.shape
    q, k, v = (x.reshape(b * h, -1, d) for x in (q, k, v))
    return torch.bmm(torch.bmm(q, k.transpose(1, 2)).mul(SCALE).softmax(-1), v).view(b, h, n, d)


def merged_heads_split_for_a_mask(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    b, h, n, d = q.shape
    q, k, v = (x.reshape(b * h, -1, d) for x in (q, k, v))
    s = torch.bmm(q, k.transpose(1, 2)).view(b, h, n, -1) * SCALE
    p = s.masked_fill(~PADDING, float("-inf")).softmax(-1).view(b * h, n, -1)
    return torch.bmm(p, v).view(b, h, n, d)


def by_baddbmm(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    b, h, n, d = q.shape
    q, k, v = (x.reshape(b * h, -1, d) for x in (q, k, v))
    mask = torch.zeros(n, n).masked_fill(~causal_mask(n, n), float("-inf")).expand(b * h, n, n)
    return torch.bmm(torch.baddbmm(mask, q, k.mT, beta=1, alpha=SCALE).softmax(-1), v).view(b, h, n, d)


def rows_before_heads(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    p = torch.einsum("bqhd,bkhd->bhqk", q, k).mul(SCALE).softmax(-1)
    return torch.einsum("bhqk,bkhd->bqhd", p, v).transpose(1, 2)


def transposed_scores(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    p = torch.softmax(k @ q.mT * SCALE, dim=-2)
    return p.transpose(-1, -2) @ v


def values_first(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return (v.mT @ scores(q, k).softmax(-1).mT).mT


def repeated_keys(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    k, v = (x[:, :2].repeat_interleave(2, dim=1) for x in (k, v))
    return scores(q, k).softmax(-1) @ v


def expanded_keys(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    b, _, n, d = k.shape
    k, v = (x[:, :2, None].expand(b, 2, 2, n, d).reshape(b, 4, n, d) for x in (k, v))
    return scores(q, k).softmax(-1) @ v


def grouped_by_einsum(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    q = q.unflatten(1, (2, 2))
    p = torch.einsum("bhgqd,bhkd->bhgqk", q, k[:, :2]).mul(SCALE).softmax(-1)
    return torch.einsum("bhgqk,bhkd->bhgqd", p, v[:, :2]).flatten(1, 2)


def one_key_head(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return scores(q, k[:, :1]).softmax(-1) @ v[:, :1]


def single_sequence(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return (q[0, 0] @ k[0, 0].t() * SCALE).softmax(1) @ v[0, 0]


def additive_triangle(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    n = q.shape[2]
    mask = torch.triu(torch.full((n, n), float("-inf")), diagonal=1)
    return (scores(q, k) + mask).softmax(-1) @ v


def compared_positions(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    places = torch.arange(q.shape[2])
    s = torch.where(places[:, None] >= places[None, :], scores(q, k), torch.finfo(q.dtype).min)
    return s.softmax(-1) @ v


def sliding_window(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    distance = torch.arange(q.shape[2])[:, None] - torch.arange(k.shape[2])[None, :]
    s = scores(q, k).masked_fill((distance < 0) | (distance > 3), float("-inf"))
    return s.softmax(-1) @ v


def causal_and_padded(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    s = scores(q, k).masked_fill(~causal_mask(q.shape[2], k.shape[2]), float("-inf"))
    return s.masked_fill(~PADDING, float("-inf")).softmax(-1) @ v


def two_bands(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    s = scores(q, k).masked_fill(~causal_mask(ROWS, KEYS), float("-inf"))
    near = torch.triu(torch.ones(ROWS, KEYS, dtype=torch.bool), diagonal=-2)
    return s.masked_fill(~near, float("-inf")).softmax(-1) @ v


def learnt_bias(q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
    return (scores(q, k) + bias).softmax(-1) @ v


def strictly_causal(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    hidden = torch.ones(q.shape[2], k.shape[2], dtype=torch.bool).triu()
    return torch.sigmoid(scores(q, k)).masked_fill(hidden, 0) @ v


def padded_by_the_least_number(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    seen = causal_mask(q.shape[2], k.shape[2])[None, None] & PADDING.flip(-1)
    return (scores(q, k) + torch.where(seen, 0.0, torch.finfo(q.dtype).min)).softmax(-1) @ v


def repeated_in_blocks(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    k, v = (x[:, :2].repeat(1, 2, 1, 1) for x in (k, v))
    return scores(q, k).softmax(-1) @ v


def alibi(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    distance = (torch.arange(ROWS)[:, None] - torch.arange(KEYS)[None, :]).abs()
    return (scores(q, k) - SLOPES[:, None, None] * distance).softmax(-1) @ v


def two_masks(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Numbers are added twice, and how many of them hide keys isn't known."""
    return (scores(q, k) + SLOPES[:, None, None] * torch.arange(KEYS) + PADDED).softmax(-1) @ v


def mask_like_the_query(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    n = q.shape[2]
    hidden = q.new_ones(n, n).triu(1) + torch.zeros(n, n).type_as(q)
    return scores(q, k).masked_fill(hidden.to(q).bool(), float("-inf")).softmax(-1) @ v


def bias_added_in_place(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    s = q @ k.mT
    s *= SCALE
    s += PADDED
    return F.softmax(s.float(), dim=-1).type_as(s) @ v


def masked_in_place(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    s = torch.bmm(q.flatten(0, 1), k.flatten(0, 1).mT).mul_(SCALE).view(*q.shape[:3], -1)
    s.masked_fill_(~causal_mask(q.shape[2], k.shape[2]), float("-inf"))
    return s.softmax(-1) @ v


def divided_in_place(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    e = scores(q, k).exp()
    out = e @ v
    out /= e.sum(-1, keepdim=True)
    return out


def by_addmm(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    q, k, v = q[0, 0], k[0, 0], v[0, 0]
    return torch.addmm(q, torch.addmm(PADDED[0, 0], q, k.t(), alpha=SCALE).softmax(-1), v)


def shared_queries(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return (q[0, 0] @ k.mT * SCALE).softmax(-1) @ v


def number_over_infinity(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return (scores(q, k) + PADDED).masked_fill(~SCATTERED, -1e9).softmax(-1) @ v


SOFTMAX: dict[str, Function] = {
    "at sign": lambda q, k, v: F.softmax(q @ k.mT * SCALE, dim=-1) @ v,
    "matmul": lambda q, k, v: torch.matmul(torch.softmax(torch.matmul(q, k.transpose(2, 3)) / math.sqrt(DIM), 3), v),
    "method": lambda q, k, v: q.matmul(k.mT).div(DIM**0.5).softmax(dim=-1).matmul(v),
    "einsum": lambda q, k, v: torch.einsum(
        "bhij,bhjd->bhid", torch.einsum("bhid,bhjd->bhij", q, k).mul(SCALE).softmax(-1), v
    ),
    "einsum with dots": lambda q, k, v: torch.einsum(
        "...ij,...jd->...id", (torch.einsum("...id,...jd->...ij", q, k) * SCALE).softmax(-1), v
    ),
    "query scaled": lambda q, k, v: ((q * SCALE) @ k.mT).softmax(-1) @ v,
    "both scaled": lambda q, k, v: ((q * DIM**-0.25) @ (k * DIM**-0.25).mT).softmax(-1) @ v,
    "scale on the left": lambda q, k, v: (SCALE * (q @ k.mT)).softmax(-1) @ v,
    "bias added in place": bias_added_in_place,
    "masked in place": masked_in_place,
    "divided in place, late": divided_in_place,
    "addmm": by_addmm,
    "shared queries": shared_queries,
    "no scale": lambda q, k, v: (q @ k.mT).softmax(-1) @ v,
    "fused call": lambda q, k, v: F.scaled_dot_product_attention(q, k, v),
    "fused call, causal": lambda q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=True),
    "fused call, mask": lambda q, k, v: F.scaled_dot_product_attention(q, k, v, attn_mask=SCATTERED, scale=0.3),
    "fused call, grouped": lambda q, k, v: F.scaled_dot_product_attention(q, k[:, :2], v[:, :2], enable_gqa=True),
    "by hand": softmax_by_hand,
    "divided late": softmax_divided_late,
    "times reciprocal, late": softmax_times_reciprocal,
    "logsumexp": softmax_by_logsumexp,
    "exp of log_softmax": lambda q, k, v: F.log_softmax(scores(q, k), -1).exp() @ v,
    "maximum detached": softmax_detached_maximum,
    "softmin of the negative": lambda q, k, v: F.softmin(-scores(q, k), -1) @ v,
    "float32 and back": lambda q, k, v: F.softmax(scores(q, k), -1, dtype=torch.float32).to(q.dtype) @ v,
    "dropout of nothing": lambda q, k, v: F.dropout(scores(q, k).softmax(-1), 0.0, True) @ v,
    "dropout in eval": lambda q, k, v: F.dropout(scores(q, k).softmax(-1), 0.1, False) @ v,
    "merged heads": merged_heads,
    "merged heads, split": merged_heads_split_for_a_mask,
    "baddbmm": by_baddbmm,
    "rows before heads": rows_before_heads,
    "scores transposed": transposed_scores,
    "values first": values_first,
    "keys repeated": repeated_keys,
    "keys expanded": expanded_keys,
    "grouped by einsum": grouped_by_einsum,
    "one key head": one_key_head,
    "single sequence": single_sequence,
    "masked_fill": lambda q, k, v: scores(q, k).masked_fill(~SEEN, float("-inf")).softmax(-1) @ v,
    "where with -1e9": lambda q, k, v: torch.where(SCATTERED, scores(q, k), -1e9).softmax(-1) @ v,
    "additive triangle": additive_triangle,
    "compared positions": compared_positions,
    "sliding window": sliding_window,
    "causal and padded": causal_and_padded,
    "two bands": two_bands,
    "learnt bias": learnt_bias,
    "distance": alibi,
    "padded by the least number": padded_by_the_least_number,
    "keys repeated in blocks": repeated_in_blocks,
    "two masks": two_masks,
    "mask like the query": mask_like_the_query,
    "a number over infinity": number_over_infinity,
    "one channel": lambda q, k, v: scores(q, k).softmax(-1) @ v[..., :1],
    "one key head, no batch": lambda q, k, v: scores(q[:1], k[:1, :1]).softmax(-1) @ v[:1, :1],
}

# ------------------------------------------------------------------------------------------------------- sigmoid

SIGMOID: dict[str, Function] = {
    "at sign": lambda q, k, v: torch.sigmoid(q @ k.mT * SCALE) @ v,
    "scalar bias": lambda q, k, v: torch.sigmoid(scores(q, k) - math.log(KEYS)) @ v,
    "learnt bias": lambda q, k, v, bias: torch.sigmoid(scores(q, k) + bias) @ v,
    "by exp": lambda q, k, v: (1 / (1 + torch.exp(-scores(q, k)))) @ v,
    "by tanh": lambda q, k, v: (0.5 * (1 + torch.tanh(scores(q, k) / 2))) @ v,
    "logsigmoid": lambda q, k, v: F.logsigmoid(scores(q, k)).exp() @ v,
    "expit, einsum": lambda q, k, v: torch.einsum("bhqk,bhkd->bhqd", torch.special.expit(scores(q, k)), v),
    "masked afterwards": lambda q, k, v: torch.sigmoid(scores(q, k)).masked_fill(~causal_mask(ROWS, KEYS), 0.0) @ v,
    "times the mask": lambda q, k, v: (torch.sigmoid(scores(q, k)) * causal_mask(ROWS, KEYS)) @ v,
    "strictly causal": strictly_causal,
    "weights of tril": lambda q, k, v: torch.sigmoid(scores(q, k)).where(SCATTERED, 0) @ v,
}

# -------------------------------------------------------------------------------- normalized by the sum of weights


def softplus_late(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    w = F.softplus(scores(q, k))
    return (w @ v) / w.sum(dim=-1, keepdim=True)


def softplus_causal(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    w = F.softplus(scores(q, k)) * causal_mask(ROWS, KEYS)
    return (w / w.sum(-1, keepdim=True)) @ v


def sigmoid_sum(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    w = scores(q, k).sigmoid()
    return w / w.sum(-1, keepdim=True).clamp_min(1e-6) @ v


SUMS: dict[str, Function] = {
    "softplus, F.normalize": lambda q, k, v: F.normalize(F.softplus(scores(q, k)), p=1, dim=-1) @ v,
    "softplus, log1p": lambda q, k, v: F.normalize(torch.log1p(scores(q, k).exp()), p=1.0, dim=-1) @ v,
    "softplus, late": softplus_late,
    "softplus, causal": softplus_causal,
    "softplus, logaddexp": lambda q, k, v: (
        F.normalize(torch.logaddexp(scores(q, k), torch.zeros(())), p=1.0, dim=-1) @ v
    ),
    "sigmoid, clamped": sigmoid_sum,
    "sigmoid, norm": lambda q, k, v: F.normalize(torch.sigmoid(scores(q, k)), p=1.0, dim=-1) @ v,
}

# -------------------------------------------------------------------------------------------------------- unusual


def softmax1(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    s = scores(q, k)
    m = s.amax(-1, keepdim=True).clamp_min(0)
    e = (s - m).exp()
    return e / ((-m).exp() + e.sum(-1, keepdim=True)) @ v


def sink_by_concatenation(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    s = scores(q, k)
    s = torch.cat([s, torch.zeros_like(s[..., :1])], -1)
    return s.softmax(-1)[..., :-1] @ v


def sinks_before_the_keys(q: Tensor, k: Tensor, v: Tensor, sinks: Tensor) -> Tensor:
    s = torch.cat([sinks.reshape(1, -1, 1, 1).expand(q.shape[0], -1, q.shape[2], -1), scores(q, k)], -1)
    s = s - s.max(-1, keepdim=True).values
    return F.softmax(s, -1)[..., 1:] @ v


def sharpened(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    p = scores(q, k).softmax(-1) ** 2
    return p / p.sum(-1, keepdim=True) @ v


def standardized(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    s = scores(q, k)
    return torch.sigmoid((s - s.mean(-1, keepdim=True)) / (s.var(-1, keepdim=True, unbiased=False) + 1e-5).sqrt()) @ v


def softpick(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    e = scores(q, k).exp() - 1
    return F.relu(e) / (e.abs().sum(-1, keepdim=True) + 1e-6) @ v


UNUSUAL: dict[str, Function] = {
    "squared relu": lambda q, k, v: F.relu(scores(q, k) / KEYS).square() @ v,
    "squared relu, power": lambda q, k, v: torch.clamp(scores(q, k), min=0).div(KEYS).pow(2) @ v,
    "softcap": lambda q, k, v: (30 * torch.tanh(scores(q, k) / 30)).softmax(-1) @ v,
    "softcap, causal": lambda q, k, v: (
        (30 * torch.tanh(scores(q, k) / 30)).masked_fill(~causal_mask(ROWS, KEYS), float("-inf")).softmax(-1) @ v
    ),
    "softmax1": softmax1,
    "softmax1, naive": lambda q, k, v: scores(q, k).exp() / (1 + scores(q, k).exp().sum(-1, keepdim=True)) @ v,
    "sink by concatenation": sink_by_concatenation,
    "sinks before the keys": sinks_before_the_keys,
    "zero by padding": lambda q, k, v: F.pad(scores(q, k), (0, 1)).softmax(-1)[..., :-1] @ v,
    "sharpened": sharpened,
    "standardized": standardized,
    "softpick": softpick,
    "silu over length": lambda q, k, v: F.silu(scores(q, k)) / KEYS @ v,
    "gelu": lambda q, k, v: F.gelu(scores(q, k)) @ v,
    "gelu by tanh": lambda q, k, v: F.gelu(scores(q, k), approximate="tanh") @ v,
    "mish": lambda q, k, v: F.mish(scores(q, k)) @ v,
    "elu + 1": lambda q, k, v: F.normalize(F.elu(scores(q, k)) + 1, p=1.0, dim=-1) @ v,
    "leaky": lambda q, k, v: F.leaky_relu(scores(q, k), 0.1) @ v,
    "polynomial": lambda q, k, v: F.normalize(1 + scores(q, k) + scores(q, k) ** 2 / 2, p=1.0, dim=-1) @ v,
    "layer norm": lambda q, k, v: F.layer_norm(scores(q, k), (KEYS,)) @ v,
    "unit rows": lambda q, k, v: F.normalize(F.softplus(scores(q, k)), dim=-1) @ v,
    "relu in place": lambda q, k, v: F.relu(scores(q, k) / KEYS, inplace=True).square() @ v,
    "triangle of the scores": lambda q, k, v: scores(q, k).tril() @ v,
    "triangle of the output": lambda q, k, v: torch.tril(scores(q, k).softmax(-1) @ v, -1),
    "causal linear": lambda q, k, v: (scores(q, k) * causal_mask(ROWS, KEYS)) @ v,
    "sum of two": lambda q, k, v: (scores(q, k).softmax(-1) + 0.1 * scores(q, k).sigmoid()) @ v,
}
