"""Attention that stands in Dynamo's graph as one node, spelled out in nodes of its own: `scaled_dot_product_attention`
and `multi_head_attention_forward`.
"""

import inspect
import operator
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx

from attngen.dynamo.nodes import NotLifted, is_zero, name_of, tensor_of
from attngen.dynamo.spelled import Spelled, guarded

COMPOSITES = ("scaled_dot_product_attention", "multi_head_attention_forward")
_SDPA = ("query", "key", "value", "attn_mask", "dropout_p", "is_causal")


def spell_out(node: fx.Node) -> Spelled:
    """The node in smaller ones. Raises NotLifted for calls that can't be."""
    if name_of(node) == "scaled_dot_product_attention":
        spelled = Spelled(node, node)
        given: dict[str, Any] = dict(zip(_SDPA, node.args, strict=False)) | dict(node.kwargs)
        return guarded(spelled, lambda: _attention(spelled, given))
    bound = inspect.signature(F.multi_head_attention_forward).bind(*node.args, **node.kwargs)
    bound.apply_defaults()
    spelled = Spelled(node, _attention_output(node))
    return guarded(spelled, lambda: _multi_head(spelled, dict(bound.arguments)))


def _attention(spelled: Spelled, given: dict[str, Any]) -> fx.Node:
    if not is_zero(given.get("dropout_p", 0.0)):
        raise NotLifted("dropout in training")
    query, key, value = given["query"], given["key"], given["value"]
    depth = tensor_of(query).shape[-1]
    if given.get("enable_gqa") and tensor_of(query).shape[-3] != tensor_of(key).shape[-3]:
        group = int(tensor_of(query).shape[-3]) // int(tensor_of(key).shape[-3])
        key, value = (spelled.call("repeat_interleave", node, group, -3) for node in (key, value))
    scale = given.get("scale")
    if scale is None:
        dynamic = not isinstance(depth, int)
        scale = spelled.call(operator.pow, spelled.call("size", query, -1), -0.5) if dynamic else depth**-0.5
    scores = spelled.call(torch.matmul, query, spelled.call("transpose", key, -2, -1))
    scores = spelled.call(torch.mul, scores, scale)
    masks = [mask for mask in (given.get("attn_mask"), _causal(spelled, given, query, key)) if mask is not None]
    for mask in masks:
        scores = _masked(spelled, scores, mask)
    spelled.second = spelled.call(torch.matmul, spelled.call(F.softmax, scores, -1), value)
    return spelled.second


def _causal(spelled: Spelled, given: dict[str, Any], query: fx.Node, key: fx.Node) -> fx.Node | None:
    if not given.get("is_causal"):
        return None
    n_q, n_k = spelled.call("size", query, -2), spelled.call("size", key, -2)
    device = tensor_of(query).device
    return spelled.call("tril", spelled.call(torch.ones, n_q, n_k, dtype=torch.bool, device=device))


def _masked(spelled: Spelled, scores: fx.Node, mask: fx.Node) -> fx.Node:
    """A boolean mask is true where a key is seen; another one is added."""
    if tensor_of(mask).dtype != torch.bool:
        return spelled.call(torch.add, scores, mask)
    return spelled.call("masked_fill", scores, spelled.call(torch.logical_not, mask), float("-inf"))


def _attention_output(node: fx.Node) -> fx.Node:
    """multi_head_attention_forward returns a pair; only its first part may be used."""
    users = list(node.users)
    if len(users) != 1 or name_of(users[0]) != "getitem" or users[0].args[1] != 0:
        raise NotLifted("the weights are used elsewhere")
    return users[0]


def _multi_head(spelled: Spelled, given: dict[str, Any]) -> fx.Node:
    if given["training"] and not is_zero(given["dropout_p"]):
        raise NotLifted("dropout in training")
    rare = ("bias_k", "bias_v", "static_k", "static_v")
    if given["add_zero_attn"] or any(given[name] is not None for name in rare):
        raise NotLifted("multi_head_attention_forward with additional keys")
    if tensor_of(given["query"]).dim() != 3:
        raise NotLifted("multi_head_attention_forward without a batch")
    heads = [_heads(spelled, node, given["num_heads"]) for node in _projected(spelled, given)]
    masks = _masks(spelled, given)
    call: dict[str, Any] = dict(zip(("query", "key", "value"), heads, strict=True))
    if given["is_causal"] and given["attn_mask"] is not None and not masks:
        call["is_causal"] = True
    summed = masks[0] if masks else None
    for mask in masks[1:]:
        summed = spelled.call(torch.add, summed, mask)
    out = _attention(spelled, call | {"attn_mask": summed})
    merged = spelled.call("flatten", spelled.call("permute", out, 2, 0, 1, 3), 2)
    return spelled.call(F.linear, merged, given["out_proj_weight"], given["out_proj_bias"])


def _projected(spelled: Spelled, given: dict[str, Any]) -> list[fx.Node]:
    """Query, key and value behind their projections, (length, batch, width)."""
    sources = [given[name] for name in ("query", "key", "value")]
    weight, bias = given["in_proj_weight"], given["in_proj_bias"]
    if not given["use_separate_proj_weight"] and sources[0] is sources[1] is sources[2]:
        packed = spelled.call(F.linear, sources[0], weight, bias)
        parts = spelled.call("chunk", packed, 3, -1)
        return [spelled.call(operator.getitem, parts, place) for place in range(3)]
    biases = [None] * 3 if bias is None else _thirds(spelled, bias)
    if given["use_separate_proj_weight"]:
        weights = [given[f"{name}_proj_weight"] for name in "qkv"]
    else:
        weights = _thirds(spelled, weight)
    return [spelled.call(F.linear, x, w, b) for x, w, b in zip(sources, weights, biases, strict=True)]


def _thirds(spelled: Spelled, node: fx.Node) -> list[fx.Node]:
    parts = spelled.call("chunk", node, 3, 0)
    return [spelled.call(operator.getitem, parts, place) for place in range(3)]


def _heads(spelled: Spelled, node: fx.Node, count: int) -> fx.Node:
    """(length, batch, width) -> (batch, heads, length, head dim)"""
    return spelled.call("permute", spelled.call("unflatten", node, -1, (count, -1)), 1, 2, 0, 3)


def _masks(spelled: Spelled, given: dict[str, Any]) -> list[fx.Node]:
    """The masks as numbers that are added to the scores; in a module boolean masks are true where a key is hidden."""
    mask, padding = given["attn_mask"], given["key_padding_mask"]
    if given["is_causal"] and padding is None and not given["need_weights"]:
        mask = None  # the call says that it is the causal mask
    found = []
    if mask is not None:
        if tensor_of(mask).dim() == 3:
            mask = spelled.call("unflatten", mask, 0, (-1, given["num_heads"]))
        found.append(_additive(spelled, mask, given["query"]))
    if padding is not None:
        padding = spelled.call("unsqueeze", spelled.call("unsqueeze", padding, 1), 1)
        found.append(_additive(spelled, padding, given["query"]))
    return found


def _additive(spelled: Spelled, mask: fx.Node, like: fx.Node) -> fx.Node:
    if tensor_of(mask).dtype != torch.bool:
        return mask
    zeros = spelled.call(torch.zeros, (), dtype=tensor_of(like).dtype, device=tensor_of(like).device)
    return spelled.call("masked_fill", zeros, mask, float("-inf"))
