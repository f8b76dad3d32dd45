"""Ops under PyTorch's transforms: right, or refused with a reason; never silently zero, never silently wrong."""

import inspect
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import pytest
import torch
import torch._dynamo.testing
import torch._inductor.config
from torch import Tensor
from torch.autograd import forward_ad, gradcheck, gradgradcheck
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

import attngen
import generated.affine_scaled
import generated.sigmoid
from tests.ops.formulas import FORMULAS
from tests.ops.oracle import Mask, Tensors, attention

Op = Callable[..., Tensor]
Load = Callable[..., Op]
CAUSAL = Mask(is_causal=True)


def affine(*args: Tensor) -> Tensor:
    """Affine-scaled attention as a function of five tensors."""
    query, key, value, alpha, beta = args
    return generated.affine_scaled.affine_scaled_attention(query, key, value, alpha=alpha, beta=beta, is_causal=True)


def written_out(*args: Tensor) -> Tensor:
    tensors = dict(zip(("query", "key", "value", "alpha", "beta"), args, strict=True))
    formula = FORMULAS["affine_scaled"]
    return attention(formula.weights, tensors, formula.axes, CAUSAL, args[0].shape[-1] ** -0.5)


def five(n_q: int = 5, n_k: int = 6, batch: int = 2, dtype: torch.dtype = torch.float64, seed: int = 0) -> list[Tensor]:
    random = torch.Generator().manual_seed(seed)
    shapes = [(batch, 4, n_q, 3), (batch, 2, n_k, 3), (batch, 2, n_k, 2), (batch, 4, n_q), (batch, 4, n_q)]
    return [torch.randn(shape, generator=random, dtype=torch.float64).to(dtype) for shape in shapes]


def close(found: Any, right: Any) -> None:
    torch.testing.assert_close(found, right, rtol=1e-9, atol=1e-9)


@pytest.fixture(autouse=True)
def fresh_compiler() -> Iterator[None]:
    """Inductor's caches don't know the fake implementations: after a change of one they would serve stale graphs."""
    torch._dynamo.reset()
    with torch._inductor.config.patch(force_disable_caches=True, cpp_cache_precompile_headers=False):
        yield
    torch._dynamo.reset()


# ------------------------------------------------------------------------------------------------ operators


@pytest.mark.parametrize("mask", [Mask(), Mask(is_causal=True, window=(3, 0), alignment="lower_right")], ids=str)
@pytest.mark.parametrize("name", ["sigmoid", "affine_scaled", "tile_gate"])
def test_opcheck(name: str, mask: Mask, load: Load) -> None:
    op = load(FORMULAS[name].spec)
    module = module_of(op)
    query, key, value, *_ = (x.float().requires_grad_() for x in five())
    sizes = {"batch": 2, "head": 4, "kv_head": 2, "query": 5, "key": 6}
    inputs = [torch.rand([sizes[axis] for axis in axes], requires_grad=True) for axes in module.INPUT_AXES]
    call = module._call(query, key, mask.is_causal, None, mask.window, mask.alignment)
    torch.library.opcheck(module.forward_op, (query, key, value, *inputs, *call, module.WITH_ALL))
    with torch.no_grad():
        results = module.forward_op(query, key, value, *inputs, *call, module.WITH_ALL)
        d_out = torch.randn_like(results[0])
        plain = [x.detach() for x in (d_out, query, key, value)]
        held = [x.detach() for x in inputs]
        wanted = [True] * (3 + len(module.GRADIENTS))
        torch.library.opcheck(
            module.backward_op, (plain[0], [], *plain[1:], held, results[module.NEEDED], *call, [], wanted)
        )


def test_the_raw_op_has_gradients() -> None:
    module = generated.affine_scaled
    leaves = [x.requires_grad_() for x in five()]
    call = module._call(leaves[0], leaves[1], True, None, None, "upper_left")
    out = module.forward_op(*leaves, *call, module.WITH_ALL)[0]
    close(torch.autograd.grad(out.sum(), leaves), gradients(written_out, leaves))


def module_of(op: Op) -> ModuleType:
    module = inspect.getmodule(op)
    assert module is not None
    return module


def gradients(function: Op, leaves: list[Tensor]) -> tuple[Tensor, ...]:
    return torch.autograd.grad(function(*leaves).sum(), leaves)


# ----------------------------------------------------------------------------------------------- derivatives


GRADIENT_CHECKED = ["sigmoid", "affine_scaled", "gated", "by_key_head", "standardized", "tile_gate", "biased", "mixed"]


@pytest.mark.parametrize("name", GRADIENT_CHECKED)
def test_gradients_and_their_gradients(name: str, load: Load) -> None:
    op = load(FORMULAS[name].spec)
    module, random = module_of(op), torch.Generator().manual_seed(1)
    sizes = {"batch": 1, "head": 2, "kv_head": 1, "query": 3, "key": 4}
    shapes = [(1, 2, 3, 2), (1, 1, 4, 2), (1, 1, 4, 2), *([sizes[a] for a in axes] for axes in module.INPUT_AXES)]
    leaves = [torch.rand(s, generator=random, dtype=torch.float64).add(0.5).requires_grad_() for s in shapes]
    names = [p.name for p in inspect.signature(op).parameters.values() if p.name in FORMULAS[name].axes]

    def function(query: Tensor, key: Tensor, value: Tensor, *inputs: Tensor) -> Tensor:
        return op(query, key, value, **dict(zip(names, inputs, strict=True)), is_causal=True, alignment="lower_right")

    module.OVERRIDES["portable"] = module.Tile(2, 3, 0, 0)
    try:
        assert gradcheck(function, leaves, check_forward_ad=True, check_batched_grad=False)
        assert gradgradcheck(function, leaves, fast_mode=True)
    finally:
        module.OVERRIDES.clear()


def test_forward_mode() -> None:
    primals, tangents = five(), five(seed=1)
    right = torch.func.jvp(written_out, tuple(primals), tuple(tangents))
    close(torch.func.jvp(affine, tuple(primals), tuple(tangents)), right)
    with forward_ad.dual_level():
        dual = affine(*(forward_ad.make_dual(x, t) for x, t in zip(primals, tangents, strict=True)))
        close(forward_ad.unpack_dual(dual).tangent, right[1])


def test_forward_mode_in_one_tensor() -> None:
    tensors, tangent = five(), torch.randn(2, 2, 6, 3, dtype=torch.float64)

    def of_key(function: Op) -> Any:
        return torch.func.jvp(lambda key: function(tensors[0], key, *tensors[2:]), (tensors[1],), (tangent,))

    close(of_key(affine), of_key(written_out))


def test_forward_mode_of_forward_mode() -> None:
    """PyTorch has forward mode switched off inside a function's own `jvp`: the outer tangent would be zero."""
    tensors, tangent = five(), torch.randn(2, 2, 6, 3, dtype=torch.float64)

    def twice(function: Op) -> Any:
        def once(key: Tensor) -> Tensor:
            inner = torch.func.jvp(lambda key: function(tensors[0], key, *tensors[2:]), (key,), (tangent,))
            return inner[1]  # type: ignore[no-any-return]

        return torch.func.jvp(once, (tensors[1],), (tangent,))

    close(twice(affine), twice(written_out))


@pytest.mark.parametrize(
    "transform",
    [
        lambda f: torch.func.grad(lambda *x: f(*x).sin().sum(), argnums=(0, 1, 2, 3, 4)),
        lambda f: lambda *x: torch.func.vjp(f, *x)[1](torch.ones(2, 4, 5, 2, dtype=torch.float64)),
        lambda f: torch.func.jacrev(f, argnums=(0, 3)),
        lambda f: torch.func.jacfwd(f, argnums=(1, 4)),
        lambda f: torch.func.hessian(lambda alpha, *x: f(*x, alpha, alpha).sum()),
    ],
    ids=["grad", "vjp", "jacrev", "jacfwd", "hessian"],
)
def test_function_transforms(transform: Any, request: pytest.FixtureRequest) -> None:
    tensors = five()
    if "hessian" in request.node.callspec.id:
        tensors = [tensors[3], *tensors[:3]]
    close(transform(affine)(*tensors), transform(written_out)(*tensors))


@pytest.mark.parametrize("in_dims", [(0, 0, 0, 0, 0), (0, None, None, 0, None), (None, 2, None, None, None)], ids=str)
def test_vmap(in_dims: tuple[int | None, ...]) -> None:
    stacked = [five(seed=seed) for seed in range(3)]
    tensors = [
        stacked[0][place] if dim is None else torch.stack([x[place] for x in stacked], dim)
        for place, dim in enumerate(in_dims)
    ]
    single = [[x[p] if dim is not None else stacked[0][p] for p, dim in enumerate(in_dims)] for x in stacked]
    close(torch.func.vmap(affine, in_dims)(*tensors), torch.stack([written_out(*x) for x in single]))
    grad = torch.func.grad(lambda *x: affine(*x).sin().sum(), argnums=(0, 1, 2, 3, 4))
    right = torch.func.grad(lambda *x: written_out(*x).sin().sum(), argnums=(0, 1, 2, 3, 4))
    found = torch.func.vmap(grad, in_dims)(*tensors)
    close(found, tuple(map(torch.stack, zip(*(right(*x) for x in single), strict=True))))


def test_vmap_over_an_input_without_a_batch_axis() -> None:
    """Each element of the mapped axis is a call of its own."""
    query, key, value, *_ = five()
    op, biases = generated.sigmoid.sigmoid_attention, torch.tensor([-1.0, 0.0, 2.0], dtype=torch.float64)
    right = torch.stack([op(query, key, value, bias=bias) for bias in biases])
    close(torch.func.vmap(lambda bias: op(query, key, value, bias=bias))(biases), right)
    grad = torch.func.grad(lambda bias, query: op(query, key, value, bias=bias).sum(), argnums=(0, 1))
    found = torch.func.vmap(grad, in_dims=(0, None))(biases, query)
    close(found, tuple(map(torch.stack, zip(*(grad(bias, query) for bias in biases), strict=True))))


def test_vmap_shares_an_input_without_a_batch_axis() -> None:
    """Per-sample gradients: the input's gradient is that of its own sample, not of all."""
    (query, key, value, *_), bias = five(batch=3), torch.tensor(-0.5, dtype=torch.float64)

    def loss(bias: Tensor, *tensors: Tensor) -> Tensor:
        query, key, value = (x[None] for x in tensors)
        return generated.sigmoid.sigmoid_attention(query, key, value, bias=bias).sin().sum()

    found = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0, 0, 0))(bias, query, key, value)
    close(found, torch.stack([torch.func.grad(loss)(bias, *x) for x in zip(query, key, value, strict=True)]))


@pytest.mark.parametrize("wanted", [(0,), (1,), (2,), (3,), (4,), (1, 4)], ids=str)
def test_gradients_of_some_tensors(wanted: tuple[int, ...]) -> None:
    leaves = [x.requires_grad_(place in wanted) for place, x in enumerate(five())]
    chosen = [leaves[place] for place in wanted]
    out = affine(*leaves)
    close(torch.autograd.grad(out.sum(), chosen), torch.autograd.grad(written_out(*leaves).sum(), chosen))


def test_gradient_twice_and_through_a_sum_of_calls() -> None:
    leaves = [x.requires_grad_() for x in five()]
    once = gradients(affine, leaves)
    close(gradients(lambda *x: affine(*x) + 2 * affine(*x), leaves), tuple(3 * x for x in once))


# --------------------------------------------------------------------------------------------- torch.compile


def compiled_gradients(function: Op, leaves: list[Tensor]) -> tuple[Tensor, ...]:
    out = function(*leaves)
    return (out, *torch.autograd.grad(out.sin().sum(), leaves))


@pytest.mark.parametrize("backend", ["eager", "aot_eager", "inductor"])
def test_compile(backend: str) -> None:
    leaves = [x.requires_grad_() for x in five(dtype=torch.float32)]
    compiled = torch.compile(lambda *x: affine(*(2 * y for y in x)).tanh(), backend=backend, fullgraph=True)
    right = compiled_gradients(lambda *x: affine(*(2 * y for y in x)).tanh(), leaves)
    torch.testing.assert_close(compiled_gradients(compiled, leaves), right)


@pytest.mark.parametrize("name", ["sigmoid", "softmax"])
def test_compile_takes_numbers_and_defaults(name: str) -> None:
    query, key, value, *_ = (x.requires_grad_() for x in five())
    op = attngen.load(name)
    given = {"bias": -0.5} if name == "sigmoid" else {}
    compiled = torch.compile(op, backend="aot_eager", fullgraph=True)
    close(compiled(query, key, value, window=(2, 1)), op(query, key, value, window=(2, 1)))
    close(compiled(query, key, value, **given, scale=0.3), op(query, key, value, **given, scale=0.3))


@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_compile_with_dynamic_lengths(backend: str) -> None:
    graphs = torch._dynamo.testing.CompileCounterWithBackend(backend)
    compiled = torch.compile(affine, backend=graphs, fullgraph=True, dynamic=True)
    for n_q, n_k in ((5, 6), (9, 7), (12, 31), (33, 20)):
        leaves = [x.requires_grad_() for x in five(n_q, n_k, dtype=torch.float32)]
        found, right = compiled_gradients(compiled, leaves), compiled_gradients(written_out, leaves)
        torch.testing.assert_close(found, right, rtol=1e-4, atol=1e-5)
    assert graphs.frame_count <= 2


def test_compile_of_a_gradient() -> None:
    def loss(*tensors: Tensor) -> Tensor:
        return affine(*tensors).sin().sum()

    grad = torch.func.grad(loss, argnums=(0, 1, 2, 3, 4))
    right = torch.func.grad(lambda *x: written_out(*x).sin().sum(), argnums=(0, 1, 2, 3, 4))(*five())
    close(torch.compile(grad, backend="aot_eager")(*five()), right)


@pytest.mark.parametrize("strict", [False, True], ids=["nonstrict", "strict"])
@pytest.mark.parametrize("name", ["sigmoid", "softmax"])
def test_export_with_dynamic_lengths(name: str, strict: bool) -> None:
    op = attngen.load(name)

    class Layer(torch.nn.Module):
        def forward(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
            return op(query, key, value, is_causal=True)

    n_q, n_k = torch.export.Dim("n_q", min=2, max=512), torch.export.Dim("n_k", min=2, max=512)
    query, key, value, *_ = five()
    lengths = ({2: n_q}, {2: n_k}, {2: n_k})
    program = torch.export.export(Layer(), (query, key, value), dynamic_shapes=lengths, strict=strict)
    query, key, value, *_ = five(11, 9)
    torch.testing.assert_close(program.module()(query, key, value), Layer()(query, key, value))


# ---------------------------------------------------------------------------------------------------- modes


def test_autocast() -> None:
    leaves = [x.requires_grad_() for x in five(dtype=torch.float32)]
    with torch.autocast("cpu", torch.bfloat16):
        out = affine(*leaves)
    assert out.dtype == torch.bfloat16
    low = [x.bfloat16() if place < 3 else x for place, x in enumerate(leaves)]
    assert torch.equal(out, affine(*low))
    found = torch.autograd.grad(out.float().sum(), leaves)
    assert all(x.dtype == torch.float32 for x in found)
    assert all(map(torch.equal, found, torch.autograd.grad(affine(*low).float().sum(), leaves)))


def test_backward_under_autocast() -> None:
    leaves = [x.requires_grad_() for x in five(dtype=torch.float32)]
    right = gradients(affine, leaves)
    out = affine(*leaves)
    with torch.autocast("cpu", torch.bfloat16):
        assert all(map(torch.equal, torch.autograd.grad(out.sum(), leaves), right))


def test_autocast_leaves_float64_alone() -> None:
    with torch.autocast("cpu", torch.bfloat16):
        found = affine(*five())
    close(found, written_out(*five()))


def test_autocast_of_mixed_types() -> None:
    query, key, value, alpha, beta = five(dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        out = affine(query.bfloat16(), key, value.bfloat16(), alpha, beta)
    assert torch.equal(out, affine(query.bfloat16(), key.bfloat16(), value.bfloat16(), alpha, beta))


def test_meta() -> None:
    leaves = [x.to("meta").requires_grad_() for x in five(dtype=torch.bfloat16)]
    out = affine(*leaves)
    assert (out.shape, out.dtype, out.device.type) == ((2, 4, 5, 2), torch.bfloat16, "meta")
    out.sum().backward()
    assert all(x.grad is not None and x.grad.shape == x.shape for x in leaves)


def test_flops_are_those_of_attention() -> None:
    leaves = [x.requires_grad_() for x in five()]
    with FlopCounterMode(display=False) as forward:
        out = affine(*leaves)
    with FlopCounterMode(display=False) as backward:
        out.sum().backward()
    pairs = 2 * 4 * 5 * 6
    assert forward.get_total_flops() == 2 * pairs * (3 + 2)
    assert backward.get_total_flops() == 2 * pairs * (3 * 3 + 2 * 2)


@pytest.mark.parametrize("reentrant", [False, True], ids=["nonreentrant", "reentrant"])
def test_checkpointing(reentrant: bool) -> None:
    leaves = [x.requires_grad_() for x in five()]
    right = gradients(affine, leaves)
    out: Tensor = checkpoint(affine, *leaves, use_reentrant=reentrant)
    out.sum().backward()
    close(tuple(x.grad for x in leaves), right)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_without_gradients(mode: Any) -> None:
    leaves = [x.requires_grad_() for x in five()]
    with mode():
        out = affine(*leaves)
        assert not out.requires_grad
        close(out, written_out(*leaves))


def test_inputs_that_are_changed_afterwards_are_refused() -> None:
    leaves = [x.requires_grad_() for x in five()]
    query = leaves[0] * 1
    out = affine(query, *leaves[1:])
    with torch.no_grad():
        query.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        out.sum().backward()


def test_tensor_subclass_parameters() -> None:
    leaves = [torch.nn.Parameter(x) for x in five()]
    close(gradients(affine, leaves), gradients(written_out, leaves))


def test_two_modules_of_one_spec(load: Load) -> None:
    """A spec's own text and the shipped module differ in their names alone, and both work in one process."""
    text = "name: sigmoid\n\ninputs:\n  bias: {shape: [], default: -log(n_k)}\nweights: sigmoid(bias + s)\n"
    mine, shipped = load(text), generated.sigmoid.sigmoid_attention
    assert mine is not shipped
    query, key, value, *_ = (x.requires_grad_() for x in five())
    right = torch.autograd.grad(shipped(query, key, value).sum(), (query, key, value))
    close(torch.autograd.grad(mine(query, key, value).sum(), (query, key, value)), right)
    both = torch.compile(lambda *x: mine(*x) - shipped(*x), backend="aot_eager", fullgraph=True)
    close(both(query, key, value), torch.zeros(2, 4, 5, 2, dtype=torch.float64))


def test_the_shipped_module_is_the_loaded_one() -> None:
    assert attngen.load("sigmoid") is generated.sigmoid.sigmoid_attention


def test_tensors_keep_what_they_hold() -> None:
    tensors: Tensors = dict(enumerate(five(), 1))  # type: ignore[arg-type]
    before = {name: x.clone() for name, x in tensors.items()}
    gradients(affine, [x.requires_grad_() for x in tensors.values()])
    assert all(torch.equal(x, before[name]) for name, x in tensors.items())
