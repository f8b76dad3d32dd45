"""Native kernels: the properties of their specs, oracles written by hand, and what CPUs have of their own."""

import importlib
import inspect
from pathlib import Path
from types import ModuleType

import pytest
import torch

from attngen.spec.lower import read_spec
from attngen.verify.report import render
from attngen.verify.run import Settings, verify
from tests.cpu.conftest import Load
from tests.normalizers.test_implicit import FORMULAS as IMPLICIT
from tests.normalizers.test_roots import subject
from tests.ops.formulas import FORMULAS
from tests.ops.oracle import Mask
from tests.ops.subject import Case, Subject, check

SPECS = {path.stem: path for path in sorted((Path(__file__).parents[2] / "specs").glob("*.yaml"))}
# One for each kind of template: a pivot; two accumulators and query-level inputs; an input of pairs; key-level inputs;
# a root; a step behind the weighted sum.
SOME = ("softmax", "affine_scaled", "additive_bias", "forgetting", "sparsemax", "transnormer")


def module_of(name: str) -> ModuleType:
    module = importlib.import_module(f"generated.{name}")
    assert module._on_native(torch.zeros(1))
    return module


@pytest.mark.parametrize("name", SPECS)
def test_properties(name: str, request: pytest.FixtureRequest) -> None:
    if name not in SOME and not request.config.getoption("--all-native"):
        pytest.skip("--all-native builds them all")
    normalizer = read_spec(SPECS[name].read_text("utf-8"), SPECS[name].name)
    report = verify(module_of(name), normalizer, Settings(examples=10 if name in SOME else 4))
    assert report.passed, render(report)


SHAPES = (
    Case(n_q=1, n_k=1),
    Case(n_q=300, n_k=300, mask=Mask(is_causal=True), blocks=(64, 128)),
    Case(n_q=65, n_k=130, d=40, d_v=72, batch=2, kv_heads=2, group=3, mask=Mask(window=(20, 2)), blocks=(32, 64)),
    Case(n_q=33, n_k=17, d=1, d_v=1, mask=Mask(is_causal=True, alignment="lower_right")),
    Case(n_q=33, n_k=47, d=33, d_v=7, group=2),
    Case(n_q=70, n_k=260, d=256, d_v=192, blocks=(64, 64)),
    Case(n_q=1, n_k=700, group=8, kv_heads=2, blocks=(64, 64)),  # its keys are shared out, its heads share a block
    Case(n_q=3, n_k=700, group=2, mask=Mask(is_causal=True, alignment="lower_right"), blocks=(32, 64)),
    Case(layout="transposed", batch=2, group=2),
    Case(layout="expanded", batch=3),
    Case(layout="sliced", batch=2, kv_heads=2, mask=Mask(is_causal=True)),
)


# lssar_like has several passes, and row adjoints with a pass of their own; tile_gate has a gradient of pairs; sparsemax
# searches for a root.
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("case", SHAPES, ids=str)
@pytest.mark.parametrize("name", ["softmax", "affine_scaled", "lssar_like", "tile_gate", "sparsemax"])
def test_shapes(name: str, case: Case, dtype: torch.dtype, load: Load) -> None:
    subject = Subject(load, (FORMULAS | IMPLICIT)[name])
    module = inspect.getmodule(subject.op())
    assert module is not None
    assert module._on_native(torch.zeros(1))
    check(subject, case, dtype)


def test_two_roots_with_exponentials(load: Load) -> None:
    """Few queries of many keys: the keys of both searches are shared out."""
    chained = subject("chained", load)
    module = inspect.getmodule(chained.op())
    assert module is not None
    assert module._on_native(torch.zeros(1))
    check(chained, Case(n_q=3, n_k=300, blocks=(32, 64)), torch.float32, 4.0)


def test_float16_is_multiplied_as_float32(load: Load) -> None:
    check(Subject(load, FORMULAS["softmax"]), Case(n_q=70, n_k=90, d=40, d_v=24), torch.float16)


def test_float64_and_the_portable_switch_stay_with_plain_torch(
    softmax: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not softmax._on_native(torch.zeros(1, dtype=torch.float64))
    monkeypatch.setenv("ATTNGEN_CPU", "portable")
    assert not softmax._on_native(torch.zeros(1))


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_results_repeat_for_a_number_of_threads(softmax: ModuleType, threads: int) -> None:
    """Two runs are equal to the bit, whoever computes which block."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        first, second = gradients(softmax), gradients(softmax)
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def gradients(module: ModuleType) -> tuple[torch.Tensor, ...]:
    random = torch.Generator().manual_seed(0)
    shapes = ((1, 2, 400, 32), (1, 1, 900, 32), (1, 1, 900, 32))
    leaves = [torch.randn(shape, generator=random).requires_grad_() for shape in shapes]
    out = module.softmax_attention(*leaves)
    return out, *torch.autograd.grad(out.square().sum(), leaves)


def test_inputs_of_other_types_are_read_as_they_are(load: Load) -> None:
    op = load("additive_bias")
    q, k, v = (torch.randn(1, 2, 40, 16) for _ in range(3))
    bias = torch.randn(40, 40, dtype=torch.bfloat16)
    torch.testing.assert_close(op(q, k, v, bias=bias), op(q, k, v, bias=bias.float()), rtol=0, atol=0)


def test_values_of_tiles_without_support_are_not_read(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    """The scores of keys from 64 on are negative: zero times NaN would be NaN, in every product."""
    op = load("relu_squared")
    module = inspect.getmodule(op)
    assert module is not None
    monkeypatch.setitem(module.OVERRIDES, "native", module.Tile(64, 64, 0, 0))
    query, key, value = (torch.randn(1, 1, 128, 16) for _ in range(3))
    query[..., 0], key[..., :64, 0], key[..., 64:, 0], value[..., 64:, :] = 10.0, 10.0, -10.0, torch.nan
    leaves = [x.requires_grad_() for x in (query, key, value)]
    out = op(*leaves)
    gradients = torch.autograd.grad(out.sum(), leaves)
    assert all(bool(x.isfinite().all()) for x in (out, *gradients))


def test_rows_that_lie_far_apart(softmax: ModuleType) -> None:
    """32 MiB between rows: more than the machine code of products can add to an address."""
    near = torch.randn(1, 1, 3, 8)
    far = torch.empty(3 << 23).as_strided(near.shape, (0, 0, 1 << 23, 1)).copy_(near)
    torch.testing.assert_close(softmax.softmax_attention(far, far, far), softmax.softmax_attention(near, near, near))


@pytest.mark.parametrize(("dtype", "value_dim"), [(torch.float32, 16), (torch.bfloat16, 7)], ids=["whole", "padded"])
def test_outputs_may_be_changed_in_place(softmax: ModuleType, dtype: torch.dtype, value_dim: int) -> None:
    """Torch forbids it for a view that a function returns, one of its own buffer too."""
    query, key, value = (torch.randn(1, 1, 1, size, dtype=dtype) for size in (16, 16, value_dim))
    out = softmax.softmax_attention(query, key, value.requires_grad_())
    torch.testing.assert_close(out.add_(1), value + 1)
