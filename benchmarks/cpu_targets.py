"""What the native CPU kernels are held to: each case beside its peer in one run, by turns, with errors and limits.

    ATTNGEN_CPU=native python benchmarks/cpu_targets.py [--rounds 9] [--only softmax]

Prints a table and writes benchmarks/results/cpu_targets.json. Times are medians of rounds in which ours and the peer's
follow each other; the ratio is the median of the rounds' ratios, so that a slow moment of the machine hits both. The
limit is what a plain float32 product of this machine would need for the case's products, or reading K and V once.
"""

import argparse
import importlib
import json
import os
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention.flex_attention import flex_attention

Op = Callable[..., Tensor]
LENGTH, DIM = 2048, 64


def written_out(weights: Callable[[Tensor], Tensor]) -> Op:
    compiled = torch.compile(lambda q, k, v: weights(q @ k.mT * DIM**-0.5) @ v)
    return lambda q, k, v, **_: compiled(q, k, v)


def sigmoid(s: Tensor) -> Tensor:
    return torch.sigmoid(s - torch.log(torch.tensor(float(LENGTH))))


def softplus_l1(s: Tensor) -> Tensor:
    p = F.softplus(s)
    return p / p.sum(-1, keepdim=True)


def affine(s: Tensor) -> Tensor:
    return 0.7 * torch.softmax(s, -1) + 0.1


@dataclass(frozen=True)
class Target:
    case: str
    spec: str
    peer: str
    at_most: float
    dtype: str = "float32"
    backward: bool = False
    is_causal: bool = False
    n_q: int = LENGTH
    n_k: int = LENGTH
    kv_heads: int = 8


TARGETS = (
    Target("sigmoid forward", "sigmoid", "sdpa", 0.50),
    Target("softmax forward", "softmax", "sdpa", 0.70),
    Target("softmax forward", "softmax", "sdpa", 0.60, "bfloat16"),
    Target("sigmoid forward", "sigmoid", "sdpa", 0.45, "bfloat16"),
    Target("softmax both", "softmax", "sdpa", 0.80, backward=True),
    Target("sigmoid both", "sigmoid", "compiled sigmoid", 0.40, backward=True),
    Target("softplus_l1 both", "softplus_l1", "compiled softplus_l1", 0.40, backward=True),
    Target("affine_scaled both", "affine_scaled", "compiled affine", 0.40, backward=True),
    Target("softmax forward", "softmax", "flex", 0.30),
    Target("softmax forward, causal to full", "softmax", "itself", 0.60, is_causal=True),
    Target("sigmoid forward, causal to full", "sigmoid", "itself", 0.60, "bfloat16", is_causal=True),
    Target("softmax both, causal to full", "softmax", "itself", 0.60, backward=True, is_causal=True),
    Target("decoding, GQA 8:1", "softmax", "sdpa", 0.80, n_q=1, n_k=16384, kv_heads=1),
    Target("decoding, GQA 8:1", "softmax", "sdpa", 0.80, "bfloat16", n_q=1, n_k=16384, kv_heads=1),
)


def ours(spec: str) -> Op:
    op = getattr(importlib.import_module(f"generated.{spec}"), f"{spec}_attention")
    given = {"alpha": 0.7, "beta": 0.1} if spec == "affine_scaled" else {}
    return lambda q, k, v, **mask: op(q, k, v, **given, **mask)


def peer_of(target: Target) -> Op:
    match target.peer.split()[-1]:
        case "itself":
            op = ours(target.spec)
            return lambda q, k, v, **_: op(q, k, v)
        case "sdpa":
            return lambda q, k, v, **mask: F.scaled_dot_product_attention(q, k, v, enable_gqa=True, **mask)
        case "flex":
            compiled = torch.compile(flex_attention)
            return lambda q, k, v, **_: compiled(q, k, v)
        case name:
            return written_out({"sigmoid": sigmoid, "softplus_l1": softplus_l1, "affine": affine}[name])


def milliseconds(op: Op, tensors: tuple[Tensor, ...], d_out: Tensor | None, **mask: bool) -> float:
    start = time.perf_counter()
    if d_out is None:
        with torch.no_grad():
            op(*tensors, **mask)
    else:
        torch.autograd.grad(op(*tensors, **mask), tensors, d_out)
    return 1e3 * (time.perf_counter() - start)


def limit(target: Target, gigaflops: float, gigabytes: float) -> float:
    products = 2 * 8 * target.n_q * target.n_k * DIM * (7 if target.backward else 2) / 1e6
    size = 2 if target.dtype == "bfloat16" else 4
    return max(products / gigaflops, 2 * target.kv_heads * target.n_k * DIM * size / 1e6 / gigabytes)


def best_rate(work: float, function: Callable[[], object]) -> float:
    """Work, in units of 1e9, per second of the fastest of some runs."""
    times = []
    for _ in range(7):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return work / 1e9 / min(times)


def machine() -> tuple[float, float]:
    """GFLOP/s of a float32 product, GB/s of reading what no cache holds."""
    a, large = torch.randn(2048, 2048), torch.randn(1 << 26)
    return best_rate(2 * 2048**3, lambda: a @ a), best_rate(4 * large.numel(), large.sum)


def measure(target: Target, rounds: int, rates: tuple[float, float]) -> dict[str, object]:
    shapes = ((1, 8, target.n_q, DIM), *((1, target.kv_heads, target.n_k, DIM),) * 2)
    dtype = getattr(torch, target.dtype)
    tensors = tuple(torch.randn(shape, dtype=dtype).requires_grad_(target.backward) for shape in shapes)
    d_out = torch.randn(shapes[0], dtype=dtype) if target.backward else None
    mask = {"is_causal": True} if target.is_causal else {}
    op, peer = ours(target.spec), peer_of(target)
    pairs = [(milliseconds(op, tensors, d_out, **mask), milliseconds(peer, tensors, d_out)) for _ in range(rounds + 2)]
    mine, others = zip(*pairs[2:], strict=True)
    exact = ours(target.spec)(*(x.detach().double() for x in tensors), **mask)  # float64: the portable implementation
    error = float((op(*tensors, **mask).detach().double() - exact).abs().max() / exact.abs().max())
    return asdict(target) | {
        "ours_ms": statistics.median(mine), "peer_ms": statistics.median(others), "error": error,
        "ratio": statistics.median(a / b for a, b in zip(mine, others, strict=True)), "limit_ms": limit(target, *rates),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--only", default="", help="cases whose name contains this")
    given = parser.parse_args()
    os.environ.setdefault("ATTNGEN_CPU", "native")
    rates = machine()
    print(f"{torch.get_num_threads()} threads, {rates[0]:.0f} GFLOP/s in float32, {rates[1]:.0f} GB/s")
    rows = []
    for target in (t for t in TARGETS if given.only in t.case):
        row = measure(target, given.rounds, rates)
        rows.append(row)
        times = f"ours {row['ours_ms']:7.2f} ms, peer {row['peer_ms']:7.2f} ms, limit {row['limit_ms']:6.2f} ms"
        found = f"ratio {row['ratio']:.2f} (at most {target.at_most:.2f}), error {row['error']:.0e}"
        print(f"{target.case:32} {target.dtype:8} {target.peer:21} {times}, {found}")
    folder = Path(__file__).parent / "results"
    folder.mkdir(exist_ok=True)
    (folder / "cpu_targets.json").write_text(json.dumps({"rates": rates, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
