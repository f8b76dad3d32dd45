"""Ops inside of what their papers and models wrap around them: gates that are cumulated, norms, unit vectors, heads.

Each reference is the common code for it, written without the op: torch's own attention where there is one.
"""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tests.normalizers.given_scores import error, random
from tests.ops.subject import Load

N, D = 12, 8
CAUSAL = torch.ones(N, N, dtype=torch.bool).tril()


def tensors(heads: int = 2, n_k: int = N) -> list[Tensor]:
    """Query, key and value, of which gradients are wanted."""
    sizes = (N, n_k, n_k)
    return [random(2, heads, size, D, seed=seed).requires_grad_() for seed, size in enumerate(sizes)]


def agree(found: Tensor, right: Tensor, leaves: list[Tensor], bound: float = 1e-12) -> None:
    """Output and the gradients of all leaves."""
    d_out = random(*right.shape, seed=9)
    assert error(found, right) < bound
    mine, wanted = (torch.autograd.grad(x, leaves, d_out, retain_graph=True) for x in (found, right))
    for one, other in zip(mine, wanted, strict=True):
        assert float((one - other).abs().max()) < bound * max(1.0, float(other.abs().max()))


@pytest.mark.parametrize("is_causal", [False, True])
def test_softmax_is_torchs_attention(is_causal: bool, load: Load) -> None:
    leaves = tensors()
    right = F.scaled_dot_product_attention(*leaves, is_causal=is_causal)
    agree(load("softmax")(*leaves, is_causal=is_causal), right, leaves)


def test_additive_bias_is_torchs_float_mask(load: Load) -> None:
    leaves = [*tensors(), random(2, 2, N, N, seed=5).requires_grad_()]
    right = F.scaled_dot_product_attention(*leaves[:3], attn_mask=leaves[3])
    agree(load("additive_bias")(*leaves[:3], bias=leaves[3]), right, leaves)


def test_grouped_heads_are_torchs(load: Load) -> None:
    query, (_, key, value) = random(2, 4, N, D, seed=7).requires_grad_(), tensors()
    right = F.scaled_dot_product_attention(query, key, value, is_causal=True, enable_gqa=True)
    agree(load("softmax")(query, key, value, is_causal=True), right, [query, key, value])


def test_forgetting_with_its_gates(load: Load) -> None:
    """One cumulated sum of log gates goes in twice; the gates' gradient is that of both."""
    leaves = [*tensors(), random(2, 2, N, seed=4).requires_grad_()]
    query, key, value, logits = leaves
    bias = torch.zeros(2, 2, N, N, dtype=torch.float64)
    for row in range(N):
        for column in range(row):
            kept = F.logsigmoid(logits[:, :, column + 1 : row + 1]).sum(-1)  # all gates after the key, up to the query
            bias = bias + F.pad(kept[..., None, None], (column, N - 1 - column, row, N - 1 - row))
    right = F.scaled_dot_product_attention(query, key, value, attn_mask=bias.masked_fill(~CAUSAL, -torch.inf))
    c = F.logsigmoid(logits).cumsum(-1)
    agree(load("forgetting")(query, key, value, c_query=c, c_key=c, is_causal=True), right, leaves, 1e-11)


def test_gates_of_the_query_have_no_gradient_of_their_own(load: Load) -> None:
    """softmax doesn't see what is added to a whole row."""
    c = random(2, 2, N).requires_grad_()
    out = load("forgetting")(*tensors(), c_query=c, c_key=torch.zeros(2, 2, N).double())
    (gradient,) = torch.autograd.grad(out, c, random(*out.shape, seed=9))
    assert float(gradient.abs().max()) < 1e-14


def test_gaussians_are_of_distances(load: Load) -> None:
    leaves = tensors()
    query, key, value = leaves
    squared = (query[:, :, :, None] - key[:, :, None]).square().sum(-1)
    kernel = torch.exp(-squared / (2 * math.sqrt(D)))
    norms = {"query_norm": query.square().sum(-1), "key_norm": key.square().sum(-1)}
    agree(load("gaussian")(*leaves, **norms), kernel @ value, leaves)
    normalized = kernel / kernel.sum(-1, keepdim=True)
    agree(load("gaussian_l1")(*leaves, key_norm=norms["key_norm"]), normalized @ value, leaves)


def test_scaled_cosine_of_unit_vectors(load: Load) -> None:
    leaves = [*tensors(), torch.tensor([2.0, 7.0], dtype=torch.float64).requires_grad_()]
    query, key, value, log_scale = leaves
    bias = random(2, N, N, seed=6)
    cosine = F.cosine_similarity(query[:, :, :, None], key[:, :, None], dim=-1)
    scale = log_scale.clamp(max=math.log(100)).exp()[:, None, None]
    right = (cosine * scale + bias).softmax(-1) @ value
    unit = (F.normalize(query, dim=-1), F.normalize(key, dim=-1), value)
    agree(load("scaled_cosine")(*unit, log_scale=log_scale, bias=bias), right, leaves)


def test_llama_4s_temperature(load: Load) -> None:
    """The same as a factor of the query, at positions beyond the first 8192."""
    leaves, positions = tensors(), torch.arange(8190, 8190 + N, dtype=torch.float64)
    temperature = 0.1 * torch.log(torch.floor((positions + 1) / 8192) + 1) + 1
    assert len(temperature.unique()) > 1
    right = F.scaled_dot_product_attention(leaves[0] * temperature[:, None], *leaves[1:])
    agree(load("position_temperature")(*leaves, temperature=temperature), right, leaves)


def test_temperature_below_a_bias_is_no_factor_of_all_logits(load: Load) -> None:
    leaves = [*tensors(), random(2, 2, N, seed=3).abs().requires_grad_()]
    query, key, value, temperature = leaves
    position = torch.arange(N, dtype=torch.float64)
    slope = torch.tensor([0.5, 0.25], dtype=torch.float64)
    bias = -slope[:, None, None] * (position[:, None] - position).abs()
    right = F.scaled_dot_product_attention(query * temperature[..., None], key, value, attn_mask=bias)
    found = load("temperature_alibi")(query, key, value, temperature=temperature, slope=slope)
    agree(found, right, leaves)


def test_retention_as_the_recurrence(load: Load) -> None:
    """S = gamma S + k^T v, row by row; the sum of scores is small here, so that its size doesn't count."""
    leaves = [(0.05 * x).detach().requires_grad_() for x in tensors()]
    query, key, value = leaves
    gamma = torch.tensor([0.9, 0.7], dtype=torch.float64)
    state, rows = torch.zeros(2, 2, D, D, dtype=torch.float64), []
    for row in range(N):
        outer = key[:, :, row, :, None] * value[:, :, row, None, :]
        state = gamma[:, None, None] * state + outer
        decays = gamma[:, None] ** torch.arange(row + 1)
        rows.append((query[:, :, row, None] @ state)[:, :, 0] / math.sqrt(D) / decays.sum(-1).sqrt()[:, None])
    log_decay = torch.log(-torch.log(gamma))
    agree(load("retention")(*leaves, log_decay=log_decay, is_causal=True), torch.stack(rows, 2), leaves)


def test_linear_attention_as_a_state(load: Load) -> None:
    leaves = tensors()
    query, key, value = leaves
    agree(load("identity")(*leaves, scale=1.0), query @ (key.mT @ value), leaves)


def test_two_softmaxes_of_opposite_sign(load: Load) -> None:
    leaves = tensors()
    query, key, value = leaves
    warm = F.scaled_dot_product_attention(query, key, value, scale=0.5 / math.sqrt(D))
    right = F.scaled_dot_product_attention(query, key, value) - 0.5 * warm
    agree(load("two_temperatures")(*leaves, cold=1.0, warm=-0.5, heat=2.0), right, leaves)


def test_sparse_steps_get_the_dense_weight_back(load: Load) -> None:
    """rho is the share that the window's keys have of a dense row: the weights are then the dense ones."""
    leaves = tensors()
    query, key, value = leaves
    position = torch.arange(N)
    seen = (position[:, None] - position).abs() <= 2
    dense = (query @ key.mT / math.sqrt(D)).softmax(-1)
    rho = (dense * seen).sum(-1).detach()
    found = load("row_scaled")(query, key, value, rho=rho, window=2)
    assert error(found, (dense * seen) @ value) < 1e-12


def test_lssar_of_unit_vectors(load: Load) -> None:
    leaves = [random(1, 1, N, D, seed=seed).requires_grad_() for seed in range(3)]
    query, key, value = leaves
    unit_q, unit_k = F.normalize(query, dim=-1), F.normalize(key, dim=-1)
    rows = []
    for row in range(N):  # each row by itself, as the paper has it, with rows counted from one
        s = math.log(D) * math.log(row + 1) * (unit_k[0, 0, : row + 1] @ unit_q[0, 0, row])
        a = F.softplus(s) / F.softplus(s).sum()
        b = torch.relu((row + 1) * a - (0.0 if row + 1 <= 3 else 1.0)) ** 3
        rows.append((b / (b.sum() + 1e-8)) @ value[0, 0, : row + 1])
    found = load("lssar", power=3)(unit_q, unit_k, value, is_causal=True)
    agree(found, torch.stack(rows)[None, None], leaves, 1e-10)
