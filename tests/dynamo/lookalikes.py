"""What looks like attention and must stay as it is. Functions of query, key, value (B, H, N, D) and further tensors."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from tests.dynamo.spellings import SCALE, scores

Function = Callable[..., Tensor]


def weights_used_elsewhere(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    p = torch.sigmoid(scores(q, k))
    return p @ v + p.mean()


def scores_used_elsewhere(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    s = scores(q, k)
    return s.softmax(-1) @ v + s.square().mean()


def weights_used_twice(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    p = scores(q, k).softmax(-1)
    return p @ v + p @ v.flip(2)


def change_seen_through_a_view(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    s = q @ k.mT
    seen = s.mT
    s *= SCALE
    return s.softmax(-1) @ v + seen.mean()


def change_behind_autograd(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    s = scores(q, k)
    s.detach().mul_(2)
    return s.softmax(-1) @ v


def change_of_some_keys(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    s = scores(q, k)
    s[..., 0] += 1
    return s.softmax(-1) @ v


def change_of_a_copy_or_not(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    s = torch.einsum("bhqd,bhkd->bqhk", q, k).transpose(1, 2)
    copy = s.contiguous()
    copy += torch.arange(s.shape[-1])
    return (s.softmax(-1) + copy.softmax(-1)) @ v


def change_of_the_bias(q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
    s = bias.expand(q.shape[0], q.shape[1], -1, -1).clone()
    s += scores(q, k)
    return s.softmax(-1) @ v


def keys_overwritten(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    few = k[:, :2].detach().clone()
    keys = few.repeat_interleave(2, dim=1).mT
    few.zero_()  # the op would read them instead of the repeated ones
    return (q @ keys * SCALE).softmax(-1) @ v


def bias_overwritten(q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
    bias = bias + 1
    s = scores(q, k) + bias
    bias.zero_()  # what stands where the product with v stands would read zeros
    return s.softmax(-1) @ v


def values_overwritten(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    v = v * 2
    e = scores(q.detach(), k.detach()).exp()
    out = e @ v
    v[:, :, 0] = 0
    return out / e.sum(-1, keepdim=True) + v


def query_overwritten(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    q = q.detach() * 1
    s = q @ k.detach().mT
    q.add_(1)
    return s.softmax(-1) @ v + q


def strongest_keys(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    s = scores(q, k)
    least = s.topk(3, dim=-1).values[..., -1:]
    return s.masked_fill(s < least, float("-inf")).softmax(-1) @ v


def stick_breaking(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    s = scores(q, k)
    logs = F.logsigmoid(-s)
    return (s.sigmoid() * (logs.cumsum(-1) - logs).exp()) @ v


def sink_among_the_weights(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    s = scores(q, k)
    s = torch.cat([s, torch.zeros_like(s[..., :1])], -1)
    return s.softmax(-1)[..., 1:] @ v


def two_kinds_of_keys(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    s = torch.cat([scores(q, k), scores(q, k.flip(-1))], -1)
    return s.softmax(-1) @ torch.cat([v, v], -2)


def talking_heads(q: Tensor, k: Tensor, v: Tensor, mixing: Tensor) -> Tensor:
    p = scores(q, k).softmax(-1)
    return torch.einsum("bhqk,hg->bgqk", p, mixing) @ v


def talking_heads_by_layers(q: Tensor, k: Tensor, v: Tensor, mixing: Tensor) -> Tensor:
    s = F.linear(scores(q, k).permute(0, 2, 3, 1), mixing)
    return F.linear(s.softmax(2), mixing).permute(0, 3, 1, 2) @ v


def softmax_over_queries_by_einsum(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    p = torch.einsum("bhqd,bhkd->bhqk", q, k).softmax(-2)
    return torch.einsum("bhqk,bhkd->bhqd", p, v)


def layer(q: Tensor, k: Tensor, v: Tensor, inner: Tensor, outer: Tensor) -> Tensor:
    return F.relu(q @ inner) @ outer + k + v


def half_of_the_keys(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return scores(q, k).softmax(-1)[..., :6] @ v[:, :, :6]


def wide_heads(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    q, k = q.repeat(1, 1, 1, 40), k.repeat(1, 1, 1, 40)
    return scores(q, k).softmax(-1) @ v


def values_of_the_scores(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    s = scores(q, k)
    return s.softmax(-1) @ (v + s.mean())


def gradient_switched_off(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    s = scores(q, k)
    with torch.no_grad():
        peak = s.amax(-1, keepdim=True)
    return (s - peak).sigmoid() @ v


def maximum_of_one_key(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Where scores tie its gradient goes to one of them, that of `amax` to all."""
    s = scores(q, k)
    return F.softplus(s - s.max(-1, keepdim=True).values) @ v


LOOKALIKES: dict[str, Function] = {
    "weights used elsewhere": weights_used_elsewhere,
    "scores used elsewhere": scores_used_elsewhere,
    "weights used twice": weights_used_twice,
    "dropout": lambda q, k, v: F.dropout(scores(q, k).softmax(-1), 0.5, True) @ v,
    "dropout of the fused call": lambda q, k, v: F.scaled_dot_product_attention(q, k, v, dropout_p=0.5),
    "change seen through a view": change_seen_through_a_view,
    "change behind autograd": change_behind_autograd,
    "change of some keys": change_of_some_keys,
    "change of a copy or not": change_of_a_copy_or_not,
    "change of the bias": change_of_the_bias,
    "bias overwritten": bias_overwritten,
    "values overwritten": values_overwritten,
    "query overwritten": query_overwritten,
    "softmax over the queries": lambda q, k, v: scores(q, k).softmax(-2) @ v,
    "softmax over the heads": lambda q, k, v: scores(q, k).softmax(1) @ v,
    "softmax over all": lambda q, k, v: scores(q, k).flatten(2).softmax(-1).unflatten(2, (12, 12)) @ v,
    "strongest keys": strongest_keys,
    "stick breaking": stick_breaking,
    "symmetric": lambda q, k, v: (lambda s: (s + s.mT).softmax(-1) @ v)(scores(q, k)),
    "sink among the weights": sink_among_the_weights,
    "two kinds of keys": two_kinds_of_keys,
    "talking heads": talking_heads,
    "talking heads by layers": talking_heads_by_layers,
    "softmax over queries by einsum": softmax_over_queries_by_einsum,
    "products only": lambda q, k, v: scores(q, k) @ v,
    "layer": layer,
    "half of the keys": half_of_the_keys,
    "whole numbers": lambda q, k, v: (scores(q, k) * 4).int().float().softmax(-1) @ v,
    "rounded": lambda q, k, v: scores(q, k).round().softmax(-1) @ v,
    "wide heads": wide_heads,
    "values of the scores": values_of_the_scores,
    "maximum of one key": maximum_of_one_key,
    "gradient switched off": gradient_switched_off,
}
