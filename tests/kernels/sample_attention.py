"""A softmax attention in the form of a generated module, small enough to read, to try the kernels' tools on."""

from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl

LOG2E = tl.constexpr(1.4426950408889634)
KERNELS = ("sample_forward", "sample_backward_query")


class Tile(NamedTuple):
    block_m: int
    block_n: int
    num_warps: int
    num_stages: int


CONFIGS: dict[str, dict[str, Tile]] = {
    "sm_80": {"forward": Tile(64, 32, 4, 2), "backward_query": Tile(64, 32, 4, 2)},
    "sm_90": {"forward": Tile(128, 64, 8, 3), "backward_query": Tile(64, 64, 4, 2)},
    "sm_100": {"forward": Tile(128, 64, 4, 2), "backward_query": Tile(64, 64, 4, 2)},
    "gfx942": {"forward": Tile(128, 64, 4, 1), "backward_query": Tile(128, 32, 4, 1)},
}
OVERRIDES: dict[str, Tile] = {}
INTERPRETS_BFLOAT16 = False


class Call(NamedTuple):
    scale: float
    is_causal: bool


@triton.jit
def exp2_of_difference(s, m):
    return tl.exp2(s - m[:, None])


@triton.jit
def load_rows(pointer, rows, n_rows, stride, HEAD_DIM: tl.constexpr):
    offsets = rows[:, None] * stride + tl.arange(0, HEAD_DIM)[None, :]
    return tl.load(pointer + offsets, mask=rows[:, None] < n_rows, other=0.0)


@triton.jit
def sample_forward(
    Q, K, V, O, LSE, scale, stride_q, stride_k, stride_v, stride_o, n_q, n_k,
    HEAD_DIM: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, CAUSAL: tl.constexpr,
):  # fmt: skip
    """Heads are contiguous one after the other. Grid: (rows / BLOCK_M, batch * heads)."""
    head = tl.program_id(1).to(tl.int64)
    rows = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    q = load_rows(Q + head * n_q * stride_q, rows, n_q, stride_q, HEAD_DIM)
    row_max = tl.full([BLOCK_M], float("-inf"), tl.float32)
    row_sum = tl.zeros([BLOCK_M], tl.float32)
    acc = tl.zeros([BLOCK_M, HEAD_DIM], tl.float32)
    end = n_k
    if CAUSAL:
        end = tl.minimum(n_k, (tl.program_id(0) + 1) * BLOCK_M)
    for start in range(0, end, BLOCK_N):
        keys = start + tl.arange(0, BLOCK_N)
        k = load_rows(K + head * n_k * stride_k, keys, n_k, stride_k, HEAD_DIM)
        s = tl.dot(q, tl.trans(k)) * (scale * LOG2E)
        visible = keys[None, :] < n_k
        if CAUSAL:
            visible = visible & (keys[None, :] <= rows[:, None])
        s = tl.where(visible, s, float("-inf"))
        new_max = tl.maximum(row_max, tl.max(s, 1))
        rescale = tl.exp2(row_max - new_max)
        p = exp2_of_difference(s, new_max)
        row_sum = row_sum * rescale + tl.sum(p, 1)
        v = load_rows(V + head * n_k * stride_v, keys, n_k, stride_v, HEAD_DIM)
        acc = acc * rescale[:, None] + tl.dot(p.to(v.dtype), v)
        row_max = new_max
    lse = row_max + tl.log2(row_sum)
    tl.store(LSE + head * n_q + rows, lse, mask=rows < n_q)
    offsets = rows[:, None] * stride_o + tl.arange(0, HEAD_DIM)[None, :]
    tl.store(O + head * n_q * stride_o + offsets, (acc / row_sum[:, None]).to(O.dtype.element_ty), rows[:, None] < n_q)


@triton.jit
def sample_backward_query(
    Q, K, V, DO, DQ, LSE, DELTA, scale, stride_q, stride_k, stride_v, stride_o, n_q, n_k,
    HEAD_DIM: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, CAUSAL: tl.constexpr,
):  # fmt: skip
    head = tl.program_id(1).to(tl.int64)
    rows = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    q = load_rows(Q + head * n_q * stride_q, rows, n_q, stride_q, HEAD_DIM)
    do = load_rows(DO + head * n_q * stride_o, rows, n_q, stride_o, HEAD_DIM)
    lse = tl.load(LSE + head * n_q + rows, mask=rows < n_q, other=0.0)
    delta = tl.load(DELTA + head * n_q + rows, mask=rows < n_q, other=0.0)
    dq = tl.zeros([BLOCK_M, HEAD_DIM], tl.float32)
    end = n_k
    if CAUSAL:
        end = tl.minimum(n_k, (tl.program_id(0) + 1) * BLOCK_M)
    for start in range(0, end, BLOCK_N):
        keys = start + tl.arange(0, BLOCK_N)
        k = load_rows(K + head * n_k * stride_k, keys, n_k, stride_k, HEAD_DIM)
        v = load_rows(V + head * n_k * stride_v, keys, n_k, stride_v, HEAD_DIM)
        visible = keys[None, :] < n_k
        if CAUSAL:
            visible = visible & (keys[None, :] <= rows[:, None])
        s = tl.dot(q, tl.trans(k)) * (scale * LOG2E)
        p = tl.where(visible, exp2_of_difference(s, lse), 0.0)
        ds = p * (tl.dot(do, tl.trans(v)) - delta[:, None])
        dq += tl.dot(ds.to(k.dtype), k)
    offsets = rows[:, None] * stride_q + tl.arange(0, HEAD_DIM)[None, :]
    tl.store(DQ + head * n_q * stride_q + offsets, (dq * scale).to(DQ.dtype.element_ty), rows[:, None] < n_q)


def _tile(kernel: str) -> Tile:
    if kernel in OVERRIDES:
        return OVERRIDES[kernel]
    if not isinstance(sample_forward, triton.JITFunction):
        return Tile(32, 32, 4, 1)
    target = triton.runtime.driver.active.get_current_target()
    return CONFIGS[target.arch if target.backend == "hip" else f"sm_{target.arch}"][kernel]


def launch_forward(query, key, value, call):
    """(B, H, N, D) x 3 -> output, lse in base 2."""
    batch, heads, rows, head_dim = query.shape
    out = torch.empty_like(query)
    lse = torch.empty(batch, heads, rows, dtype=torch.float32)
    tile = _tile("forward")
    sample_forward[(triton.cdiv(rows, tile.block_m), batch * heads)](
        query, key, value, out, lse, call.scale, query.stride(2), key.stride(2), value.stride(2), out.stride(2),
        rows, key.shape[2], HEAD_DIM=head_dim, CAUSAL=call.is_causal, **_flags(tile),
    )  # fmt: skip
    return out, lse


def launch_backward(grad, query, key, value, out, lse, call):
    """-> dQ."""
    batch, heads, rows, head_dim = query.shape
    delta = (grad.float() * out.float()).sum(-1)
    dq = torch.empty_like(query)
    tile = _tile("backward_query")
    sample_backward_query[(triton.cdiv(rows, tile.block_m), batch * heads)](
        query, key, value, grad, dq, lse, delta, call.scale, query.stride(2), key.stride(2), value.stride(2),
        grad.stride(2), rows, key.shape[2], HEAD_DIM=head_dim, CAUSAL=call.is_causal, **_flags(tile),
    )  # fmt: skip
    return dq


def _flags(tile: Tile) -> dict[str, Any]:
    block_m, block_n, num_warps, num_stages = tile
    return {"BLOCK_M": block_m, "BLOCK_N": block_n, "num_warps": num_warps, "num_stages": num_stages}


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(ctx, query, key, value, call):
        if query.device.type == "cpu" and isinstance(sample_forward, triton.JITFunction):
            raise NotImplementedError("the portable path")
        if not isinstance(sample_forward, triton.JITFunction) and not INTERPRETS_BFLOAT16:
            query, key, value = query.float(), key.float(), value.float()
        out, lse = launch_forward(query, key, value, call)
        ctx.save_for_backward(query, key, value, out, lse)
        ctx.call = call
        return out

    @staticmethod
    def backward(ctx, grad):
        return launch_backward(grad, *ctx.saved_tensors, ctx.call), None, None, None


def sample_attention(query, key, value, *, is_causal=False):
    return _Attention.apply(query, key, value, Call(query.shape[-1] ** -0.5, is_causal))
