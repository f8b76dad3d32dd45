"""Ops against oracles written by hand: output and every gradient, on the portable path and in Triton's interpreter."""

import contextlib
import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import ModuleType

import pytest
import torch
from torch import Tensor

from attngen.runtime.interpreter import interpreting
from tests.ops import oracle
from tests.ops.formulas import FORMULAS, Formula
from tests.ops.oracle import Mask, Tensors, attention

Op = Callable[..., Tensor]
Load = Callable[..., Op]


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
    mask: Mask = Mask()
    layout: str = "contiguous"
    blocks: tuple[int, int] = (16, 16)
    scale: float | None = None

    def __str__(self) -> str:
        default = Case()
        changed = [f"{name}={value}" for name, value in vars(self).items() if value != getattr(default, name)]
        return ",".join(changed).replace("Mask", "").replace(" ", "") or "plain"


CAUSAL = Mask(is_causal=True)
LOWER_RIGHT = Mask(is_causal=True, alignment="lower_right")

# Two calls for every formula: everything visible, and a mask with empty and partial rows.
EVERY = (
    Case(n_q=17, n_k=33, d=24, d_v=16, kv_heads=2, batch=2),
    Case(n_q=33, n_k=17, d=16, d_v=40, kv_heads=2, group=2, mask=LOWER_RIGHT, blocks=(16, 32), scale=0.4),
)
# More for those that stand for a kind of kernel.
SOME = ("sigmoid", "softmax", "affine_scaled", "tile_gate", "lssar_like")
MASKS = (
    CAUSAL,
    Mask(window=0),
    Mask(window=(3, -1)),
    Mask(window=(-1, 5)),
    Mask(window=(20, 2), alignment="lower_right"),
    Mask(is_causal=True, window=(4, 9)),
    Mask(is_causal=True, window=0, alignment="lower_right"),
)
MASKED = [
    Case(n_q=n_q, n_k=n_k, mask=mask, blocks=(32, 16) if number % 2 else (16, 16))
    for number, mask in enumerate(MASKS)
    for n_q, n_k in ((17, 33), (33, 17))
]
SHAPES = (
    Case(n_q=1, n_k=1),
    Case(n_q=1, n_k=33, mask=LOWER_RIGHT, group=4),
    Case(n_q=33, n_k=1, mask=CAUSAL),
    Case(n_q=65, n_k=65, mask=CAUSAL, blocks=(32, 32)),
    Case(n_q=16, n_k=32, kv_heads=2, batch=2, blocks=(16, 32)),
    Case(group=4, d=20, d_v=16),
    Case(layout="transposed", batch=2, kv_heads=2, group=2),
    Case(layout="expanded", batch=3),
    Case(layout="sliced", batch=2, kv_heads=2, mask=CAUSAL),
)
WIDTHS = tuple(
    Case(n_q=17, n_k=17, d=d, d_v=d_v, mask=CAUSAL, blocks=(32, 32))
    for d, d_v in ((1, 1), (40, 80), (80, 96), (96, 24), (128, 192), (192, 128), (256, 256))
)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
@pytest.mark.parametrize("case", EVERY, ids=str)
@pytest.mark.parametrize("name", FORMULAS)
def test_every_formula_portable(name: str, case: Case, dtype: torch.dtype, load: Load) -> None:
    check(Subject(load, FORMULAS[name]), case, dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=["fp32", "fp16", "bf16"])
@pytest.mark.parametrize("case", EVERY, ids=str)
@pytest.mark.parametrize("name", FORMULAS)
def test_every_formula_in_kernels(name: str, case: Case, dtype: torch.dtype, load: Load) -> None:
    check(Subject(load, FORMULAS[name], kernels=True), case, dtype)


@pytest.mark.parametrize("case", [*MASKED, *SHAPES], ids=str)
@pytest.mark.parametrize("name", SOME)
def test_masks_and_shapes_portable(name: str, case: Case, load: Load) -> None:
    check(Subject(load, FORMULAS[name]), case, torch.float64)


@pytest.mark.parametrize("case", [*MASKED, *SHAPES], ids=str)
@pytest.mark.parametrize("name", SOME)
def test_masks_and_shapes_in_kernels(name: str, case: Case, load: Load) -> None:
    check(Subject(load, FORMULAS[name], kernels=True), case, torch.float32)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("case", WIDTHS, ids=str)
def test_head_dims_in_kernels(case: Case, dtype: torch.dtype, load: Load) -> None:
    check(Subject(load, FORMULAS["affine_scaled"], kernels=True), case, dtype)


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
    names = ("forward", "backward_query", "backward_key", "backward_pair", "portable")
    module.OVERRIDES.update(dict.fromkeys(names, tile))
    try:
        yield
    finally:
        module.OVERRIDES.clear()


def check(subject: Subject, case: Case, dtype: torch.dtype) -> None:
    tensors, d_out = draw(subject.formula, case, dtype)
    compare(subject, case, tensors, d_out)


def compare(subject: Subject, case: Case, tensors: Tensors, d_out: Tensor) -> None:
    """The op's error is at most twice that of the formula written out in the same precision, and a few roundings."""
    formula, dtype = subject.formula, d_out.dtype
    scale = case.d**-0.5 if case.scale is None else case.scale

    def written_out(given: Tensors) -> Tensor:
        return attention(formula.weights, given, formula.axes, case.mask, scale)

    exact = oracle.results(written_out, {n: t.double() for n, t in tensors.items()}, d_out)
    plain = oracle.results(written_out, {n: t.to(dtype) for n, t in tensors.items()}, d_out)
    with subject.running(case) as op:
        found = oracle.results(lambda given: _call(op, given, case), tensors, d_out)
    for name, right in exact.items():
        assert found[name].shape == right.shape, name
        assert found[name].dtype == (d_out if name == "out" else tensors[name]).dtype, name
        error, allowed = largest(found[name] - right), tolerance(plain[name], right, dtype)
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
