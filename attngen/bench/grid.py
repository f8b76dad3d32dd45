"""What is measured: cells of a grid, as values. A cell is one call of one spec, in one direction.

The grid of GPUs is the one of the field: 16,384 tokens and a hidden size of 2048, whatever the length and the head dim.
That of CPUs is one shape, decoding, and memory at a larger length. Rates count two products of 2 Nq Nk D operations per
head forward, 2.5 times as many backward, and half of it under a causal mask, whatever a kernel really computes.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import product
from typing import Literal

from attngen.verify.case import Case, DType

Direction = Literal["forward", "backward", "both"]
Quantity = Literal["time", "memory"]

TOKENS, HIDDEN = 16384, 2048
LENGTHS = (512, 1024, 2048, 4096, 8192, 16384)
HEAD_DIMS = (64, 128, 256)
NAMED = ("softmax", "sigmoid", "softplus_l1", "affine_scaled")  # measured everywhere; the others at one length
_FACTOR: dict[Direction, float] = {"forward": 1.0, "backward": 2.5, "both": 3.5}


@dataclass(frozen=True, slots=True)
class Cell:
    """One call of the op of `spec`. With `quantity` memory, the peak is measured and not the time."""

    spec: str
    case: Case
    direction: Direction
    quantity: Quantity = "time"

    @property
    def flops(self) -> float:
        """By the usual convention: 4 B H Nq Nk D forward, 2.5 times that backward, half if causal."""
        case = self.case
        forward = 2 * case.batch * case.heads * case.n_q * case.n_k * (case.d + case.d_v)
        return _FACTOR[self.direction] * forward / (2 if case.is_causal else 1)

    @property
    def key_bytes(self) -> int:
        """Keys and values, which decoding has to read."""
        case = self.case
        itemsize = 4 if case.dtype == "float32" else 2
        return case.batch * case.kv_heads * case.n_k * (case.d + case.d_v) * itemsize

    @property
    def is_decoding(self) -> bool:
        return self.case.n_q == 1

    @property
    def title(self) -> str:
        case = self.case
        heads = f"H{case.heads}" if case.group == 1 else f"H{case.heads}:{case.kv_heads}"
        lengths = f"N{case.n_k}" if case.n_q == case.n_k else f"Nq{case.n_q} Nk{case.n_k}"
        mask = "causal" if case.is_causal else "full"
        memory = ", memory" if self.quantity == "memory" else ""
        return f"{self.spec} {self.direction}, B{case.batch} {heads} {lengths} D{case.d} {case.dtype} {mask}{memory}"


def gpu_cells(specs: Iterable[str], quick: bool) -> tuple[Cell, ...]:
    """The GPU grid for these specs, what matters most first. `quick`: two lengths, head dims 64 and 128."""
    specs = tuple(specs)
    named = tuple(spec for spec in NAMED if spec in specs) or specs
    lengths, widths = ((4096, 16384), (128, 64)) if quick else (LENGTHS, HEAD_DIMS)
    ways: tuple[Direction, ...] = ("forward", "backward")
    shapes = [_tokens(n, d, is_causal) for d, n, is_causal in product(widths, lengths, (False, True))]
    shapes += [_tokens(n, 128, is_causal=True, group=8) for n in (4096, 16384)]
    main = [Cell(spec, shape, way) for shape, spec, way in product(shapes, named, ways)]
    decoding = [Cell(spec, _DECODING, "forward") for spec in named]
    others = [Cell(s, _tokens(4096, 128, is_causal=False), way) for s in specs if s not in named for way in ways]
    return (*main, *decoding, *others)


_DECODING = Case(batch=16, kv_heads=2, group=8, n_q=1, n_k=16384, d=128, d_v=128, dtype="bfloat16")


def _tokens(length: int, width: int, is_causal: bool, group: int = 1) -> Case:
    batch, heads = max(1, TOKENS // length), HIDDEN // width
    return Case(batch=batch, kv_heads=heads // group, group=group, n_q=length, n_k=length, d=width, d_v=width,
                dtype="bfloat16", is_causal=is_causal)  # fmt: skip


def cpu_cells(specs: Iterable[str], quick: bool) -> tuple[Cell, ...]:
    """The CPU grid: batch 1, 8 heads, 2048 rows, head dim 64. `quick`: no causal cells but two."""
    specs = tuple(specs)
    named = tuple(spec for spec in NAMED if spec in specs) or specs
    shapes = (_cpu(dtype="float32"), _cpu(dtype="bfloat16"))
    cells = [Cell(s, shape, "forward") for shape, s in product(shapes, _first(named, quick))]
    cells += [Cell(s, _cpu(), "both") for s in named]
    cells += [Cell(s, Case(kv_heads=1, group=8, n_q=1, n_k=16384, d=64, d_v=64), "forward") for s in named[:2]]
    cells += [Cell(s, _cpu(is_causal=True), way) for way in _ways(quick) for s in _first(named, quick)]
    cells += [Cell(s, _cpu(length=8192), "both", "memory") for s in _first(named, quick)]
    return (*cells, *(Cell(s, _cpu(), "both") for s in specs if s not in named and not quick))


def _first(named: tuple[str, ...], quick: bool) -> tuple[str, ...]:
    return named[:2] if quick else named


def _ways(quick: bool) -> tuple[Direction, ...]:
    return ("forward",) if quick else ("forward", "both")


def _cpu(length: int = 2048, dtype: DType = "float32", is_causal: bool = False) -> Case:
    return Case(kv_heads=8, n_q=length, n_k=length, d=64, d_v=64, dtype=dtype, is_causal=is_causal)
