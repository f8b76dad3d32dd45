"""Use a generated sigmoid op as anybody would who was sent the file, and hold it against the formula written out.

The module is imported from its path; attngen is not. Shown are sizes and errors, forward and backward: the written-out
formula in float64 is the truth, and the same formula in float32 says how close float32 comes.

    attngen build sigmoid -o demo-out && python examples/demo.py demo-out/sigmoid.py
"""

import importlib.util
import math
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import torch
from torch import Tensor

SHAPES = ((1, 2, 64, 32), (2, 4, 200, 64), (1, 4, 777, 64))  # batch, heads, rows, channels


def imported(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise SystemExit(f"{path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def written_out(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    s = query @ key.transpose(-1, -2) / math.sqrt(query.shape[-1])
    return (torch.sigmoid(s - math.log(key.shape[-2])) * torch.ones_like(s).tril()) @ value


def gradients(op: Callable[..., Tensor], tensors: list[Tensor], cotangent: Tensor) -> list[Tensor]:
    """The output, dQ, dK and dV, in float64."""
    leaves = [tensor.detach().requires_grad_() for tensor in tensors]
    out = op(*leaves)
    return [tensor.detach().double() for tensor in (out, *torch.autograd.grad(out, leaves, cotangent.to(out.dtype)))]


def errors(op: Callable[..., Tensor], shape: tuple[int, int, int, int]) -> tuple[float, float]:
    """The largest error, over the largest true value, of the op and of the formula in float32."""
    torch.manual_seed(0)
    query, key, value, cotangent = (torch.randn(shape) for _ in range(4))
    truth = gradients(written_out, [query.double(), key.double(), value.double()], cotangent)
    ours = gradients(lambda q, k, v: op(q, k, v, is_causal=True), [query, key, value], cotangent)
    plain = gradients(written_out, [query, key, value], cotangent)
    return largest(ours, truth), largest(plain, truth)


def largest(found: list[Tensor], truth: list[Tensor]) -> float:
    return max(((a - b).abs().max() / b.abs().max()).item() for a, b in zip(found, truth, strict=True))


def main() -> int:
    path = Path(sys.argv[1])
    module = imported(path)
    print(f"\n{path}: {len(path.read_text('utf-8').splitlines())} lines; kernels {', '.join(module.KERNELS)}")
    print("causal sigmoid attention, worst error of output, dQ, dK, dV against float64:\n")
    print(f"  {'batch, heads, rows, channels':<30} {'generated op':>14} {'float32 formula':>16}")
    worst = 0.0
    for shape in SHAPES:
        ours, plain = errors(module.sigmoid_attention, shape)
        worst = max(worst, ours / max(plain, torch.finfo(torch.float32).eps))
        print(f"  {shape!s:<30} {ours:>14.1e} {plain:>16.1e}")
    agree = worst < 10
    print(
        f"\n{'The op is as close to its formula as float32 allows.' if agree else 'The op DISAGREES with its formula.'}"
    )
    return 0 if agree else 1


if __name__ == "__main__":
    sys.exit(main())
