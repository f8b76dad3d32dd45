"""Nothing is computed, stored or launched that nobody wants: kernels, products and tensors are counted."""

import inspect
import itertools
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd import graph
from torch.utils._python_dispatch import TorchDispatchMode

from attngen.runtime.interpreter import interpreting
from attngen.runtime.replaced import replaced
from tests.ops.formulas import FORMULAS

Op = Callable[..., Any]
Load = Callable[..., Op]
CASES = ["sigmoid", "softmax", "affine_scaled", "gated", "by_key_head", "biased", "standardized", "relu_squared"]


class Recorder:
    """Stands in a kernel's place: runs it, and keeps its name and the arguments it was launched with."""

    def __init__(self, kernel: Any, launches: dict[str, tuple[Any, ...]]) -> None:
        self.kernel, self.launches = kernel, launches

    def __getitem__(self, grid: Any) -> Callable[..., None]:
        def launch(*args: Any, **options: Any) -> None:
            self.launches[self.kernel.fn.__name__] = args
            self.kernel[grid](*args, **options)

        return launch


@contextmanager
def recording(module: ModuleType) -> Iterator[dict[str, tuple[Any, ...]]]:
    launches: dict[str, tuple[Any, ...]] = {}
    with interpreting(module):
        recorders = {name: Recorder(getattr(module, name), launches) for name in module.KERNELS}
        with replaced(module, recorders):
            yield launches


def module_of(op: Op) -> ModuleType:
    module = inspect.getmodule(op)
    assert module is not None
    return module


def case(name: str, load: Load, dtype: torch.dtype = torch.float32) -> tuple[Op, dict[str, Tensor]]:
    """An op, and tensors for a call of it."""
    formula = FORMULAS.get(name)
    axes = formula.axes if formula else {}
    sizes = {"batch": 1, "head": 2, "kv_head": 1, "query": 20, "key": 18}
    random = torch.Generator().manual_seed(0)
    shapes = {"query": (1, 2, 20, 16), "key": (1, 1, 18, 16), "value": (1, 1, 18, 16)}
    shapes |= {input_name: tuple(sizes[axis] for axis in own) for input_name, own in axes.items()}
    drawn = {key: torch.rand(shape, generator=random, dtype=torch.float64) + 0.5 for key, shape in shapes.items()}
    return load(formula.spec if formula else name), {key: x.to(dtype) for key, x in drawn.items()}


def gradients(op: Op, given: dict[str, Tensor], wanted: tuple[str, ...]) -> dict[str, Tensor]:
    """Gradients of the tensors named, the only ones that require any."""
    leaves = {name: x.clone().requires_grad_(name in wanted) for name, x in given.items()}
    out = op(**leaves, is_causal=True)
    found = torch.autograd.grad(out.sin().sum(), [leaves[name] for name in wanted])
    return dict(zip(wanted, found, strict=True))


def subsets(names: list[str]) -> Iterator[tuple[str, ...]]:
    for count in range(1, len(names) + 1):
        yield from itertools.combinations(names, count)


@pytest.mark.parametrize("name", CASES)
def test_every_subset_of_gradients_is_right(name: str, load: Load) -> None:
    op, given = case(name, load)
    full = gradients(op, given, tuple(given))
    for wanted in subsets(list(given)):
        same(gradients(op, given, wanted), full)


def same(found: dict[str, Tensor], full: dict[str, Tensor]) -> None:
    for name, gradient in found.items():
        assert torch.equal(gradient, full[name]), (tuple(found), name)


def level(module: ModuleType, position: int) -> str:
    found: str = dict(module.GRADIENTS)[position]
    return found


@pytest.mark.parametrize("name", CASES)
def test_kernels_that_nobody_needs_are_not_launched(name: str, load: Load) -> None:
    """The query kernel is needed for dQ, for gradients of row inputs and, if it hands anything over, for all but dV."""
    op, given = case(name, load)
    with interpreting(module_of(op)):
        full = gradients(op, given, tuple(given))
    module, inputs = module_of(op), list(given)[3:]
    handing_over = f"{name}_backward_query" if name not in ("sigmoid", "relu_squared") else ""
    stem = module.KERNELS[0].removesuffix("_forward")
    for wanted in subsets(list(given)):
        levels = {level(module, inputs.index(key)) for key in wanted if key in inputs}
        expected = {f"{stem}_forward"}
        if "query" in wanted or "row" in levels or (handing_over and set(wanted) != {"value"}):
            expected.add(f"{stem}_backward_query")
        if {"key", "value"} & set(wanted) or "key" in levels:
            expected.add(f"{stem}_backward_key")
        expected |= {f"{stem}_backward_pair_{key}" for key in wanted if f"{stem}_backward_pair_{key}" in module.KERNELS}
        with recording(module) as launches:
            same(gradients(op, given, wanted), full)
        assert set(launches) == expected, wanted


def left_out(args: tuple[Any, ...]) -> int:
    """How many tensors a kernel does without."""
    return sum(arg is None for arg in args)


def test_no_buffers_for_gradients_that_nobody_wants(load: Load) -> None:
    op, given = case("affine_scaled", load)
    for wanted, lacking in ((("query",), 2), (("query", "alpha"), 1), (("query", "alpha", "beta"), 0), (("beta",), 2)):
        with recording(module_of(op)) as launches:
            gradients(op, given, wanted)
        # the output, which this formula's backward doesn't read, is the further one
        assert left_out(launches["affine_scaled_backward_query"]) == lacking + 1
    with recording(module_of(op)) as launches:
        gradients(op, given, ("value",))
    assert set(launches) == {"affine_scaled_forward", "affine_scaled_backward_key"}
    assert left_out(launches["affine_scaled_backward_key"]) == 1


# ------------------------------------------------------------------------------------------ what is saved


@pytest.mark.parametrize("kernels", [False, True], ids=["portable", "kernels"])
@pytest.mark.parametrize(
    ("gradient", "return_aux", "count"), [(False, False, 1), (False, True, 3), (True, False, 4), (True, True, 4)]
)
def test_what_the_forward_stores(gradient: bool, return_aux: bool, count: int, kernels: bool, load: Load) -> None:
    """Affine-scaled attention has two row values, one of them a statistic, and an accumulator."""
    op, given = case("affine_scaled", load)
    module, counts = module_of(op), list[int]()
    given["value"].requires_grad_(gradient)
    with Counting(module.forward_op, counts), interpreting(*([module] if kernels else [])):
        result = op(**given, return_aux=return_aux)
    assert isinstance(result, tuple) is return_aux
    assert counts == [count]


class Counting(TorchDispatchMode):
    """Notes how many tensors an op returns."""

    def __init__(self, op: Any, counts: list[int]) -> None:
        super().__init__()
        self.op, self.counts = op, counts

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        if func.overloadpacket is self.op:
            self.counts.append(len(found))
        return found


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_nothing_is_stored_without_gradients(mode: Any, load: Load) -> None:
    op, given = case("affine_scaled", load)
    leaves = {name: x.requires_grad_() for name, x in given.items()}
    with mode(), recording(module_of(op)) as launches:
        out = op(**leaves)
    assert left_out(launches["affine_scaled_forward"]) == 3
    assert not out.requires_grad


@pytest.mark.parametrize(("name", "saves_output"), [("softmax", True), ("sigmoid", False), ("affine_scaled", False)])
def test_the_output_is_saved_only_if_the_backward_reads_it(name: str, saves_output: bool, load: Load) -> None:
    op, given = case(name, load)
    kept: list[tuple[int, ...]] = []

    def pack(tensor: Tensor) -> Tensor:
        kept.append(tuple(tensor.shape))
        return tensor

    given["value"] = given["value"][..., :7].requires_grad_()
    with graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        op(**given)
    assert ((1, 2, 20, 7) in kept) is (saves_output or name == "affine_scaled")  # there an accumulator has that shape
    assert Counter(kept)[1, 2, 20, 7] == (1 if saves_output or name == "affine_scaled" else 0)


# ----------------------------------------------------------------------------------------- portable path


PRODUCTS = {torch.ops.aten.mm.default, torch.ops.aten.bmm.default, torch.ops.aten.addmm.default}


class Products(TorchDispatchMode):
    """Counts matrix products."""

    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += func in PRODUCTS
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    ("wanted", "products"),
    [(("query",), 3), (("key",), 3), (("value",), 3), (("query", "key"), 4), (("query", "key", "value"), 5)],
)
def test_products_of_the_portable_backward(wanted: tuple[str, ...], products: int, load: Load) -> None:
    """One tile: s and dP, and one for each gradient."""
    op, given = case("softmax", load)
    module = module_of(op)
    query, key, value = (given[name] for name in ("query", "key", "value"))
    call = module._call(query, key, False, None, None, "upper_left")
    results = module.portable_forward(query, key, value, (), call, module.WITH_ALL)
    asked = tuple(name in wanted for name in ("query", "key", "value"))
    with Products() as counter:
        found = module.portable_backward(results[0], query, key, value, (), results, call, asked)
    assert counter.count == products
    assert tuple(x is not None for x in found) == asked
