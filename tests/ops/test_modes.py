"""Ops under PyTorch's settings: determinism, default types, precision, profiles, fake tensors; and inside modules."""

import copy
import inspect
import pickle
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import pytest
import torch
import torch._dynamo.testing
from torch import Tensor
from torch._subclasses import FakeTensorMode
from torch.func import functional_call
from torch.profiler import ProfilerActivity, profile

import generated.affine_scaled
import generated.sigmoid
import generated.softmax
from attngen.runtime.interpreter import interpreting
from tests.ops.formulas import FORMULAS

Op = Callable[..., Any]
Load = Callable[..., Op]


def module_of(op: Op) -> ModuleType:
    module = inspect.getmodule(op)
    assert module is not None
    return module


def tensors(n_q: int = 20, n_k: int = 18, batch: int = 2, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    random = torch.Generator().manual_seed(5)
    shapes = [(batch, 4, n_q, 16), (batch, 2, n_k, 16), (batch, 2, n_k, 16)]
    return [torch.randn(shape, generator=random, dtype=torch.float64).to(dtype) for shape in shapes]


def results(op: Op, given: list[Tensor], **inputs: Any) -> list[Tensor]:
    """Output, statistics and all gradients of one call."""
    leaves = [x.clone().requires_grad_() for x in given]
    others = {name: x.clone().requires_grad_() for name, x in inputs.items()}
    out, aux = op(*leaves, **others, is_causal=True, return_aux=True)
    loss = out.float().sin().sum() + sum(x.square().sum() for x in aux)
    return [out, *aux, *torch.autograd.grad(loss, [*leaves, *others.values()])]


def equal(found: list[Tensor], right: list[Tensor]) -> bool:
    return all(map(torch.equal, found, right))


def test_gradients_of_several_cotangents_at_once() -> None:
    """Those of the output, and of a statistic; the bias' are sums over the batch."""
    op, bias = generated.sigmoid.sigmoid_attention, torch.tensor(-0.5, dtype=torch.float64, requires_grad=True)
    leaves = [*(x.requires_grad_() for x in tensors(5, 4, 1, torch.float64)), bias]
    out = op(*leaves[:3], bias=bias)
    cotangents = torch.randn(3, *out.shape, dtype=torch.float64)
    found = torch.autograd.grad(out, leaves, cotangents, retain_graph=True, is_grads_batched=True)
    single = [torch.autograd.grad(out, leaves, one, retain_graph=True) for one in cotangents]
    torch.testing.assert_close(list(found), [torch.stack(parts) for parts in zip(*single, strict=True)])
    lse = generated.softmax.softmax_attention(*leaves[:3], return_aux=True)[1].lse
    both = torch.eye(2, dtype=torch.float64)[:, None, :, None].expand(2, 1, 2, 5).repeat(1, 1, 2, 1)
    found = torch.autograd.grad(lse, leaves[:1], both, retain_graph=True, is_grads_batched=True)
    right = [torch.autograd.grad(lse, leaves[0], one, retain_graph=True)[0] for one in both]
    torch.testing.assert_close(found[0], torch.stack(right))


# ------------------------------------------------------------------------------------------ determinism


@contextmanager
def deterministic() -> Iterator[None]:
    torch.use_deterministic_algorithms(True)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)  # torch's; numpy's, in the interpreter, are others
            yield
    finally:
        torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("kernels", [False, True], ids=["portable", "kernels"])
@pytest.mark.parametrize("name", ["affine_scaled", "by_key_head", "biased", "standardized"])
def test_deterministic_algorithms(name: str, kernels: bool, load: Load) -> None:
    """No error, no warning, and the bits of every other run; memory that PyTorch fills with NaN is not read."""
    formula, random = FORMULAS[name], torch.Generator().manual_seed(1)
    op, sizes = load(formula.spec), {"batch": 2, "head": 4, "kv_head": 2, "query": 20, "key": 18}
    inputs = {key: torch.rand([sizes[a] for a in axes], generator=random) for key, axes in formula.axes.items()}
    with interpreting(*([module_of(op)] if kernels else [])):
        right = results(op, tensors(), **inputs)
        with deterministic():
            assert all(equal(results(op, tensors(), **inputs), right) for _ in range(2))


# ------------------------------------------------------------------------------------- default settings


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_default_dtype(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    """Numbers and defaults of inputs have the type of the call, not of the process."""
    sigmoid, affine = generated.sigmoid, generated.affine_scaled
    sigmoid._default_number.cache_clear()
    right = [sigmoid.sigmoid_attention(*tensors()), affine.affine_scaled_attention(*tensors(), alpha=1, beta=0.1)]
    sigmoid._default_number.cache_clear()
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        found = [sigmoid.sigmoid_attention(*tensors()), affine.affine_scaled_attention(*tensors(), alpha=1, beta=0.1)]
        compiled = torch.compile(sigmoid.sigmoid_attention, backend="aot_eager", fullgraph=True, dynamic=True)
        torch.testing.assert_close(compiled(*tensors()), right[0])
    finally:
        torch.set_default_dtype(before)
    assert equal(found, right)


def test_default_device() -> None:
    """What an op makes for itself lies where its tensors lie."""
    right = results(generated.sigmoid.sigmoid_attention, tensors())
    with torch.device("meta"):
        leaves = [x.requires_grad_() for x in map(torch.clone, RIGHT_HERE)]
        out = generated.sigmoid.sigmoid_attention(*leaves, is_causal=True)
        found = torch.autograd.grad(out.sin().sum(), leaves)
    assert equal([out, *found], right)


RIGHT_HERE = tensors()  # made before any test changes where tensors are made


# -------------------------------------------------------------------------------------------- precision


def legacy(allow: bool) -> None:
    torch.backends.cuda.matmul.allow_tf32 = allow


def current(precision: str) -> None:
    torch.backends.cuda.matmul.fp32_precision = precision


SETTINGS: dict[str, tuple[Callable[[], None], str]] = {
    "untouched": (lambda: None, "ieee"),
    "legacy on": (lambda: legacy(True), "tf32"),
    "legacy on and off": (lambda: (legacy(True), legacy(False))[0], "ieee"),
    "current on": (lambda: current("tf32"), "tf32"),
    "current off": (lambda: current("ieee"), "ieee"),
    "legacy, then current": (lambda: (legacy(True), current("ieee"))[0], "ieee"),
    "high": (lambda: torch.set_float32_matmul_precision("high"), "tf32"),
    "medium": (lambda: torch.set_float32_matmul_precision("medium"), "tf32"),
    "highest": (lambda: torch.set_float32_matmul_precision("highest"), "ieee"),
}


@pytest.fixture
def precision_restored() -> Iterator[None]:
    """ "none", the state of a fresh process, can't be had back by the other settings."""
    yield
    torch.set_float32_matmul_precision("highest")
    torch.backends.cuda.matmul.fp32_precision = "none"
    torch.backends.mkldnn.matmul.fp32_precision = "none"


@pytest.mark.usefixtures("precision_restored")
@pytest.mark.parametrize("setting", SETTINGS)
def test_tf32_only_where_it_is_allowed(setting: str) -> None:
    module, given = generated.softmax, tensors()
    change, wanted = SETTINGS[setting]
    change()
    assert module._precision(given[0]) == wanted
    assert module._precision(given[0].bfloat16()) == "ieee"
    call = module._call(*given[:2], False, None, None, "upper_left")
    with interpreting(module):
        assert module._constants("forward", given[0], given[2], call)["PRECISION"] == wanted


# --------------------------------------------------------------------------------------------- profiles


def test_profiles_show_the_spec() -> None:
    leaves = [x.requires_grad_() for x in tensors()]
    with profile(activities=[ProfilerActivity.CPU], record_shapes=True) as seen:
        generated.softmax.softmax_attention(*leaves).sum().backward()
    shapes = {event.key: event.input_shapes for event in seen.key_averages(group_by_input_shape=True)}
    stem = f"attngen::{generated.softmax.OP}"
    assert stem.startswith("attngen::softmax_")
    assert shapes[stem][:3] == [[2, 4, 20, 16], [2, 2, 18, 16], [2, 2, 18, 16]]
    assert f"{stem}_backward" in shapes


# ---------------------------------------------------------------------------------- fake and meta tensors


def test_fake_tensors() -> None:
    with FakeTensorMode() as mode:
        leaves = [mode.from_tensor(x, static_shapes=True).requires_grad_() for x in RIGHT_HERE]
        out, aux = generated.affine_scaled.affine_scaled_attention(*leaves, alpha=1.0, beta=0.0, return_aux=True)
        found = torch.autograd.grad(out.sum() + aux.lse.sum(), leaves)
    assert (out.shape, aux.lse.shape) == ((2, 4, 20, 16), (2, 4, 20))
    assert [x.shape for x in found] == [x.shape for x in RIGHT_HERE]


# -------------------------------------------------------------------------------------- double backward


def test_double_backward_of_kernels() -> None:
    """The second derivative is the portable path's, whichever computed the first."""
    leaves = [x.requires_grad_() for x in tensors()]

    def second() -> tuple[Tensor, ...]:
        out = generated.sigmoid.sigmoid_attention(*leaves, bias=-1.0, is_causal=True)
        first = torch.autograd.grad(out.sin().sum(), leaves, create_graph=True)
        return torch.autograd.grad(sum(x.square().sum() for x in first), leaves)

    with interpreting(generated.sigmoid):
        found = second()
    torch.testing.assert_close(found, second(), rtol=1e-4, atol=1e-5)


# --------------------------------------------------------------------------------------------- modules


class Layer(torch.nn.Module):
    """A layer that holds an op as an attribute."""

    def __init__(self, op: Op) -> None:
        super().__init__()
        self.op, self.mix = op, torch.nn.Linear(16, 16)

    def forward(self, query: Tensor, key: Tensor, value: Tensor) -> Any:
        return self.op(self.mix(query), self.mix(key), value, is_causal=True)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))], ids=["deepcopy", "pickle"])
def test_modules_that_hold_an_op_are_copied(copied: Callable[[Layer], Layer]) -> None:
    layer = Layer(generated.sigmoid.sigmoid_attention)
    other = copied(layer)
    assert other.op is layer.op
    assert torch.equal(other(*tensors()), layer(*tensors()))


def test_ops_of_ones_own_are_copied(load: Load) -> None:
    """Inside a process; another process finds an op by name only if it loaded the same spec."""
    layer = Layer(load(FORMULAS["relative"].spec))
    for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert torch.equal(other(*tensors()), layer(*tensors()))


def test_functional_call() -> None:
    layer = Layer(generated.sigmoid.sigmoid_attention)
    weights = {name: x.detach() + 1 for name, x in layer.named_parameters()}

    def loss(weights: dict[str, Tensor]) -> Tensor:
        return functional_call(layer, weights, tuple(tensors())).sin().sum()

    found = torch.func.grad(loss)(weights)
    with torch.no_grad():
        for name, x in layer.named_parameters():
            x.copy_(weights[name])
    layer(*tensors()).sin().sum().backward()
    torch.testing.assert_close(found, {name: x.grad for name, x in layer.named_parameters()})


# ------------------------------------------------------------------------------------------ recompilation


SHAPES = ((2, 20, 18), (3, 33, 21), (5, 12, 40), (2, 64, 64), (7, 5, 9))


@pytest.mark.parametrize("name", ["sigmoid", "softmax", "affine_scaled"])
def test_one_recompilation_for_all_lengths(name: str, load: Load) -> None:
    """Of batch, queries and keys at once; then never again. Automatic dynamic shapes, gradients included."""
    op, given = load(name), {"alpha": 1.5, "beta": 0.1} if name == "affine_scaled" else {}
    torch._dynamo.reset()
    graphs = torch._dynamo.testing.CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(lambda *x: op(*x, **given, is_causal=True), backend=graphs, fullgraph=True)
    for batch, n_q, n_k in SHAPES:
        leaves = [x.requires_grad_() for x in tensors(n_q, n_k, batch)]
        out, right = compiled(*leaves), op(*leaves, **given, is_causal=True)
        torch.testing.assert_close(out, right)
        found = torch.autograd.grad(out.sum(), leaves)
        torch.testing.assert_close(found, torch.autograd.grad(right.sum(), leaves))
    assert graphs.frame_count == 2
    torch._dynamo.reset()
