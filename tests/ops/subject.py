"""One op on one call, compared with the oracle: draws the tensors, runs both, and holds the errors to a tolerance."""

import contextlib
import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import ModuleType

import torch
from torch import Tensor

from attngen.runtime.interpreter import interpreting
from tests.ops import oracle
from tests.ops.formulas import Formula
from tests.ops.oracle import Mask, Tensors, attention

Op = Callable[..., Tensor]
Load = Callable[..., Op]
EVERYTHING = Mask()


@dataclass(frozen=True)
class Case:
    """Shapes of a call, its mask, how the tensors lie in memory, and the kernels' blocks."""

    n_q: int = 17
    n_k: int = 33
    d: int = 16
    d_v: int = 16
    batch: int = 1
    kv_heads: int = 1
    group: int = 1
    mask: Mask = EVERYTHING
    layout: str = "contiguous"
    blocks: tuple[int, int] = (16, 16)
    scale: float | None = None

    def __str__(self) -> str:
        default = Case()
        changed = [f"{name}={value}" for name, value in vars(self).items() if value != getattr(default, name)]
        return ",".join(changed).replace("Mask", "").replace(" ", "") or "plain"


@dataclass(frozen=True)
class Subject:
    """The op of a formula, on the portable path or in interpreted kernels."""

    load: Load
    formula: Formula
    kernels: bool = False

    def op(self) -> Op:
        return self.load(self.formula.spec, **self.formula.statics)

    @contextlib.contextmanager
    def running(self, case: Case) -> Iterator[Op]:
        op = self.op()
        module = inspect.getmodule(op)
        assert module is not None
        with contextlib.ExitStack() as stack:
            stack.enter_context(_tiled(module, case.blocks))
            if self.kernels:
                stack.enter_context(interpreting(module))
            yield op


@contextlib.contextmanager
def _tiled(module: ModuleType, blocks: tuple[int, int]) -> Iterator[None]:
    tile = module.Tile(*blocks, num_warps=4, num_stages=1)
    names = ("forward", "backward_query", "backward_key", "backward_pair", "portable", "native")
    module.OVERRIDES.update(dict.fromkeys(names, tile))
    try:
        yield
    finally:
        module.OVERRIDES.clear()


def check(subject: Subject, case: Case, dtype: torch.dtype, magnitude: float = 1.0) -> None:
    tensors, d_out = draw(subject.formula, case, dtype)
    compare(subject, case, tensors, d_out, magnitude)


def compare(subject: Subject, case: Case, tensors: Tensors, d_out: Tensor, magnitude: float = 1.0) -> None:
    """The op's error is at most twice that of the formula written out in the same precision, and a few roundings.

    `magnitude` is that of the scores: their rounding is an absolute error in an exponent.
    """
    formula, dtype = subject.formula, d_out.dtype
    scale = case.d**-0.5 if case.scale is None else case.scale

    def written_out(given: Tensors) -> Tensor:
        return attention(formula.weights, given, formula.axes, case.mask, scale)

    exact = oracle.results(written_out, {n: t.double() for n, t in tensors.items()}, d_out, formula.fixed)
    plain = oracle.results(written_out, {n: t.to(dtype) for n, t in tensors.items()}, d_out, formula.fixed)
    with subject.running(case) as op:
        found = oracle.results(lambda given: _call(op, given, case), tensors, d_out, formula.fixed)
    for name, right in exact.items():
        assert found[name].shape == right.shape, name
        assert found[name].dtype == (d_out if name == "out" else tensors[name]).dtype, name
        error, allowed = largest(found[name] - right), magnitude * tolerance(plain[name], right, dtype)
        assert error <= allowed, f"{name}: error {error:.3g}, allowed {allowed:.3g}, largest {largest(right):.3g}"


def tolerance(plain: Tensor, right: Tensor, dtype: torch.dtype) -> float:
    """The last term is for what cancels (under a window of one key dQ is 0): its terms are of the order of 1."""
    wide = torch.finfo(torch.promote_types(dtype, torch.float32)).eps
    roundings = 64 if dtype == torch.float64 else 4  # `plain` is exact then: nothing else speaks of sums and products
    return 2 * largest(plain - right) + roundings * torch.finfo(dtype).eps * largest(right) + 64 * wide


def largest(tensor: Tensor) -> float:
    assert not tensor.isnan().any()
    return float(tensor.abs().max())


def _call(op: Op, given: Tensors, case: Case) -> Tensor:
    inputs = {name: tensor for name, tensor in given.items() if name not in ("query", "key", "value")}
    return op(given["query"], given["key"], given["value"], **inputs, scale=case.scale, **case.mask.arguments())


def draw(formula: Formula, case: Case, dtype: torch.dtype) -> tuple[Tensors, Tensor]:
    """Tensors of a call, and the gradient of its output; query, key and value lie as the case says."""
    random = torch.Generator().manual_seed(0)
    heads = case.kv_heads * case.group
    shapes = {
        "query": (case.batch, heads, case.n_q, case.d),
        "key": (case.batch, case.kv_heads, case.n_k, case.d),
        "value": (case.batch, case.kv_heads, case.n_k, case.d_v),
    }
    tensors = {name: lay(shape, case.layout, random).to(dtype) for name, shape in shapes.items()}
    sizes = {"batch": case.batch, "head": heads, "kv_head": case.kv_heads, "query": case.n_q, "key": case.n_k}
    for name, axes in formula.axes.items():
        low, high = formula.between.get(name, (-1.0, 1.0))
        values = torch.rand([sizes[axis] for axis in axes], generator=random, dtype=torch.float64)
        wide = dtype if dtype == torch.float64 else torch.float32
        tensors[name] = (low + (high - low) * values).to(wide)
    return tensors, lay((*shapes["query"][:3], case.d_v), case.layout, random).to(dtype)


def lay(shape: tuple[int, ...], layout: str, random: torch.Generator) -> Tensor:
    batch, heads, length, width = shape
    match layout:
        case "transposed":
            return torch.randn(batch, length, heads, width, generator=random, dtype=torch.float64).transpose(1, 2)
        case "expanded":
            return torch.randn(1, heads, length, width, generator=random, dtype=torch.float64).expand(shape)
        case "sliced":
            whole = torch.randn(batch, heads, length + 3, width + 5, generator=random, dtype=torch.float64)
            return whole[:, :, 2:-1, 3:-2]
        case _:
            return torch.randn(shape, generator=random, dtype=torch.float64)
