"""`return_aux=True`: the statistics of the rows, their names, values and gradients, on both paths and compiled."""

import copy
import importlib
import inspect
import pickle
import re
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck
from torch.utils.flop_counter import FlopCounterMode

import generated.affine_scaled
import generated.elu_l1
import generated.sigmoid
import generated.sink
import generated.softmax
import generated.softplus_l1
from attngen.catalog import read, shipped
from attngen.runtime.interpreter import interpreting
from attngen.spec.lower import read_spec

Op = Callable[..., Any]
Load = Callable[..., Op]
CAUSAL = torch.ones(5, 6, dtype=torch.bool).tril()

NAMED = """
name: named
inputs:
  gain: {shape: [head]}
let:
  mass: sum(softplus(gain * s))
  share: softplus(gain * s) / mass
  energy: sum(share ** 2)
weights: share / sqrt(energy + 0.1)
"""
LOGARITHMIC = """
name: logarithmic
let:
  total: sum(exp(s))
weights: exp(s) / total
"""
BY_ITS_LOGARITHM = """
name: by_its_logarithm
let:
  level: log(sum(exp(s)))
weights: exp(s - level)
"""
EXTREMA = """
name: extrema
let:
  top: amax(s)
  low: amin(s)
weights: (s - low) / (top - low + 1)
"""


def tensors(dtype: torch.dtype = torch.float64, n_q: int = 5, n_k: int = 6) -> list[Tensor]:
    random = torch.Generator().manual_seed(3)
    shapes = [(2, 4, n_q, 16), (2, 2, n_k, 16), (2, 2, n_k, 16)]
    return [torch.randn(shape, generator=random, dtype=torch.float64).to(dtype) for shape in shapes]


def scores(query: Tensor, key: Tensor) -> Tensor:
    return query @ key.repeat_interleave(2, dim=1).mT / 4


def module_of(op: Op) -> ModuleType:
    module = inspect.getmodule(op)
    assert module is not None
    return module


def close(found: Any, right: Any) -> None:
    torch.testing.assert_close(found, right, rtol=1e-9, atol=1e-9)


def test_softmax_returns_its_lse() -> None:
    query, key, value = tensors()
    op = generated.softmax.softmax_attention
    out, aux = op(query, key, value, is_causal=True, return_aux=True)
    assert torch.equal(out, op(query, key, value, is_causal=True))
    assert aux._fields == ("lse",)
    close(aux.lse, scores(query, key).masked_fill(~CAUSAL, -torch.inf).logsumexp(-1))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_kernels_return_float32(dtype: torch.dtype) -> None:
    query, key, value = tensors(dtype)
    with interpreting(generated.softplus_l1):
        out, aux = generated.softplus_l1.softplus_l1_attention(query, key, value, is_causal=True, return_aux=True)
    assert (out.dtype, aux.z.dtype, aux.z.shape) == (dtype, torch.float32, (2, 4, 5))
    right = (torch.nn.functional.softplus(scores(query.double(), key.double())) * CAUSAL).sum(-1)
    torch.testing.assert_close(aux.z.double(), right, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_maximum_that_comes_with_its_sum(dtype: torch.dtype) -> None:
    """It is that of all keys, by which gradients are taken, and not of some: those in front have the largest scores."""
    module = generated.elu_l1
    query, key, value = (x[:1] for x in tensors(dtype, n_q=16, n_k=256))
    query[..., 0], key[..., 0], key[:, :, :128, 0] = 4.0, -12.0, -8.0
    leaves = [x.requires_grad_() for x in (query, key)]
    with interpreting(module):
        _, aux = module.elu_l1_attention(*leaves, value, return_aux=True)
        found = torch.autograd.grad((aux.row_sum.log() + aux.row_max).sum(), leaves)
    s = scores(query.double(), key.double())
    torch.testing.assert_close(aux.row_max.double(), s.amax(-1), rtol=1e-5, atol=1e-5)
    right = torch.autograd.grad(torch.nn.functional.elu(s).add(1).sum(-1).log().sum(), leaves)
    torch.testing.assert_close(found, right, rtol=2e-2, atol=2e-2)


def test_a_formula_without_statistics() -> None:
    out, aux = generated.sigmoid.sigmoid_attention(*tensors(), return_aux=True)
    assert tuple(aux) == ()
    assert torch.equal(out, generated.sigmoid.sigmoid_attention(*tensors()))


def named(r: Tensor, gain: Tensor) -> tuple[Tensor, Tensor]:
    """Mass and the sum of squared shares, of scores that are -inf where a row sees nothing."""
    p = torch.where(r == -torch.inf, 0, torch.nn.functional.softplus(gain[:, None, None] * r))
    mass = p.sum(-1)
    return mass, ((p / mass[..., None]) ** 2).sum(-1)


def test_lets_name_what_they_are(load: Load) -> None:
    (query, key, value), gain = tensors(), torch.tensor([0.5, 1.0, 1.5, 2.0], dtype=torch.float64)
    op = load(NAMED)
    _, aux = op(query, key, value, gain=gain, is_causal=True, return_aux=True)
    mass, energy = named(scores(query, key).masked_fill(~CAUSAL, -torch.inf), gain)
    assert aux._fields[0] == "mass"  # energy is one over the squared mass times a sum that no let names
    close(aux.mass, mass)
    assert len(aux) == 2
    close(aux[1], energy * mass**2)


def test_logarithms_of_lets(load: Load) -> None:
    query, key, value = tensors()
    right = scores(query, key).logsumexp(-1)
    close(load(LOGARITHMIC)(query, key, value, return_aux=True)[1]._asdict(), {"log_total": right})
    close(load(BY_ITS_LOGARITHM)(query, key, value, return_aux=True)[1]._asdict(), {"level": right})


def test_extrema(load: Load) -> None:
    query, key, value = tensors()
    aux = load(EXTREMA)(query, key, value, return_aux=True)[1]
    assert set(aux._fields) == {"top", "low"}
    close((aux.top, aux.low), (scores(query, key).amax(-1) * 1, scores(query, key).amin(-1)))


@pytest.mark.parametrize("kernels", [False, True], ids=["portable", "kernels"])
def test_rows_that_see_no_key(kernels: bool, load: Load) -> None:
    """The first two of five queries see nothing: they stand before the first of three keys."""
    query, key, value = tensors(torch.float32, n_k=3)
    natural = {"z": 2.0**-100, "lse": -torch.inf, "top": -torch.inf, "low": torch.inf}
    for op in (generated.softmax.softmax_attention, generated.softplus_l1.softplus_l1_attention, load(EXTREMA)):
        with interpreting(*([module_of(op)] if kernels else [])):
            _, aux = op(query, key, value, is_causal=True, alignment="lower_right", return_aux=True)
        for name, rows in aux._asdict().items():
            assert (rows[:, :, :2] == natural[name]).all(), name
            assert rows[:, :, 2:].isfinite().all(), name
        assert all(f"{name}: " in type(aux).__doc__ for name in aux._fields)


# ---------------------------------------------------------------------------------------------- gradients


@pytest.mark.parametrize("blocks", [(2, 3), (128, 512)], ids=str)
def test_gradients_of_statistics(blocks: tuple[int, int], load: Load) -> None:
    op = load(NAMED)
    module = module_of(op)
    leaves = [x[:, :, :, :2].clone().requires_grad_() for x in tensors()]
    gain = torch.tensor([0.5, 1.0, 1.5, 2.0], dtype=torch.float64, requires_grad=True)

    def function(query: Tensor, key: Tensor, value: Tensor, gain: Tensor) -> tuple[Tensor, ...]:
        out, aux = op(query, key, value, gain=gain, is_causal=True, return_aux=True)
        return out, *aux

    module.OVERRIDES["portable"] = module.Tile(*blocks, 0, 0)
    try:
        assert gradcheck(function, (*leaves, gain), check_forward_ad=True, check_batched_grad=False)
        assert gradgradcheck(function, (*leaves, gain), fast_mode=True)
    finally:
        module.OVERRIDES.clear()


@pytest.mark.parametrize("kernels", [False, True], ids=["portable", "kernels"])
@pytest.mark.parametrize("of_output", [False, True])
def test_a_loss_of_statistics(of_output: bool, kernels: bool) -> None:
    """Rows that see nothing take no part, and hand back no NaN."""
    leaves = [x.requires_grad_() for x in tensors(torch.float32, n_k=3)]
    sink = torch.tensor([0.0, 1.0, -1.0, 0.5], requires_grad=True)
    seen = torch.ones(5, 3, dtype=torch.bool).tril(-2)

    def loss(out: Tensor, lse: Tensor) -> Tensor:
        total = torch.where(lse == -torch.inf, 0.0, lse).square().sum()
        return total + (out.sin().sum() if of_output else 0.0)

    with interpreting(*([generated.sink] if kernels else [])):
        out, aux = generated.sink.sink_attention(
            *leaves, sink=sink, is_causal=True, alignment="lower_right", return_aux=True
        )
        found = torch.autograd.grad(loss(out, aux.lse), [*leaves, sink], materialize_grads=True)

    s = scores(leaves[0], leaves[1]).masked_fill(~seen, -1e4)
    lse = torch.where(seen.any(-1), s.logsumexp(-1), -torch.inf)
    p = torch.where(seen, s.exp() / (s.exp().sum(-1, keepdim=True) + sink.exp()[:, None, None]), 0)
    right = torch.autograd.grad(
        loss(p @ leaves[2].repeat_interleave(2, dim=1), lse), [*leaves, sink], materialize_grads=True
    )
    torch.testing.assert_close(found, right, rtol=1e-4, atol=1e-5)


def test_merging_two_halves_of_the_keys_is_differentiable() -> None:
    """What lse is for: partial results over parts of the keys become the whole."""
    op = generated.softmax.softmax_attention
    leaves = [x.requires_grad_() for x in tensors()]

    def merged(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        parts = [op(query, *(x[:, :, half] for x in (key, value)), return_aux=True) for half in (slice(4), slice(4, 6))]
        lse = torch.stack([aux.lse for _, aux in parts])
        return (lse.softmax(0)[..., None] * torch.stack([out for out, _ in parts])).sum(0)

    close(merged(*leaves), op(*leaves))
    found = torch.autograd.grad(merged(*leaves).sin().sum(), leaves)
    close(found, torch.autograd.grad(op(*leaves).sin().sum(), leaves))


def test_transforms_of_statistics() -> None:
    query, key, value = tensors()
    tangents = (query.cos(), key.cos())

    def statistic(query: Tensor, key: Tensor) -> Tensor:
        lse: Tensor = generated.softmax.softmax_attention(query, key, value, return_aux=True)[1].lse
        return lse

    def written_out(query: Tensor, key: Tensor) -> Tensor:
        return scores(query, key).logsumexp(-1)

    def grad(function: Op) -> Op:
        return torch.func.grad(lambda *x: function(*x).sin().sum(), argnums=(0, 1))

    found, right = (torch.func.jvp(f, (query, key), tangents) for f in (statistic, written_out))
    close(found, right)
    close(grad(statistic)(query, key), grad(written_out)(query, key))
    batched = torch.stack([query, 2 * query])
    found, right = (torch.func.vmap(grad(f), (0, None))(batched, key) for f in (statistic, written_out))
    close(found, right)


def test_under_a_dispatch_mode() -> None:
    """Where such a mode watches, PyTorch switches autograd and torch.func off inside ops."""
    leaves = [x.requires_grad_() for x in tensors()[:2]]

    def gradients() -> tuple[Tensor, ...]:
        _, aux = generated.softmax.softmax_attention(*leaves, tensors()[2], return_aux=True)
        return torch.autograd.grad(aux.lse.square().sum(), leaves)

    with FlopCounterMode(display=False):
        found = gradients()
    close(found, gradients())


# ------------------------------------------------------------------------------------------------ compiled


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_compiled(backend: str) -> None:
    def function(query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        out, aux = generated.affine_scaled.affine_scaled_attention(
            query, key, value, alpha=1.5, beta=0.1, is_causal=True, return_aux=True
        )
        return out.sin(), aux.lse.square()

    compiled = torch.compile(function, backend=backend, fullgraph=True, dynamic=True)
    for n_q, n_k in ((5, 6), (9, 7), (12, 31)):
        leaves = [x.requires_grad_() for x in tensors(n_q=n_q, n_k=n_k)]
        found, right = compiled(*leaves), function(*leaves)
        close(found, right)
        close(*(torch.autograd.grad(x[0].sum() + x[1].sum(), leaves) for x in (found, right)))


def test_compiled_function_returns_aux() -> None:
    compiled = torch.compile(generated.softmax.softmax_attention, backend="aot_eager", fullgraph=True)
    out, aux = compiled(*tensors(), return_aux=True)
    assert isinstance(aux, generated.softmax.Aux)
    right, statistics = generated.softmax.softmax_attention(*tensors(), return_aux=True)
    close((out, aux.lse), (right, statistics.lse))


def test_aux_is_a_plain_tuple_to_others() -> None:
    _, aux = generated.softmax.softmax_attention(*tensors(), return_aux=True)
    for other in (copy.deepcopy(aux), pickle.loads(pickle.dumps(aux))):
        assert type(other) is generated.softmax.Aux
        assert torch.equal(other.lse, aux.lse)


def test_return_aux_is_a_truth_value() -> None:
    with pytest.raises(TypeError, match="softmax_attention: return_aux is 1; it should be True or False"):
        generated.softmax.softmax_attention(*tensors(), return_aux=1)


OF_DIVISORS = {"2**-100": 2.0**-100, "log(2**-100)": float(torch.tensor(2.0**-100).log())}


@pytest.mark.parametrize("name", [path.stem for path in shipped()])
def test_what_the_docstring_says_of_rows_that_see_no_key(name: str) -> None:
    module = importlib.import_module(f"generated.{name}")
    op = getattr(module, f"{name}_attention")
    sizes = {"batch": 2, "head": 4, "kv_head": 2, "query": 5, "key": 3}
    named = [p.name for p in inspect.signature(op).parameters.values() if p.name in declared(name)]
    inputs = {n: torch.rand([sizes[a] for a in axes]) + 1 for n, axes in zip(named, module.INPUT_AXES, strict=True)}
    _, aux = op(*tensors(torch.float32, n_k=3), **inputs, is_causal=True, alignment="lower_right", return_aux=True)
    text = " ".join((module.Aux.__doc__ or "").split())
    for field, rows in aux._asdict().items():
        found = re.search(rf" {field}: .*?; (\S+) for rows that see no key", text)
        assert found is not None, text
        natural = OF_DIVISORS.get(found[1]) or float(found[1])
        assert (rows[:, :, :2] == natural).all(), found[0]
        assert rows[:, :, 2:].isfinite().all(), found[0]


def declared(name: str) -> set[str]:
    spec = read(name)
    return {declared_input.name for declared_input in read_spec(spec.text, spec.path).inputs}
