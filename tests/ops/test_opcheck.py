"""`torch.library.opcheck` for every shipped op: schema, fake implementation, autograd registration, AOTAutograd."""

import inspect
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

import attngen
from attngen.catalog import shipped

SHIPPED = tuple(path.stem for path in shipped())
IN_FULL = ("test_schema", "test_autograd_registration", "test_faketensor", "test_aot_dispatch_dynamic")
TRACED = ("sigmoid", "softmax", "affine_scaled", "alibi", "sink")  # AOTAutograd takes a second or two for each


def module_of(op: Callable[..., Any]) -> ModuleType:
    module = inspect.getmodule(op)
    assert module is not None
    return module


def call(module: ModuleType, n_q: int, n_k: int, transposed: bool = False) -> tuple[list[Tensor], tuple[Any, ...]]:
    """Tensors of a call and its numbers. Inputs are between 1 and 2, where every formula has finite weights."""
    sizes = {"batch": 2, "head": 4, "kv_head": 2, "query": n_q, "key": n_k}
    drawn = [torch.rand([2, h, n, 8]) for h, n in ((4, n_q), (2, n_k), (2, n_k))]
    if transposed:
        drawn = [x.transpose(1, 2).contiguous().transpose(1, 2) for x in drawn]
    drawn += [torch.rand([sizes[axis] for axis in axes]) + 1 for axes in module.INPUT_AXES]
    return drawn, tuple(module._call(*drawn[:2], True, None, (5, 2), "lower_right"))


def forward_and_backward(module: ModuleType, tests: tuple[str, ...], n_q: int, n_k: int, transposed: bool) -> None:
    drawn, numbers = call(module, n_q, n_k, transposed)
    leaves = [x.requires_grad_() for x in drawn]
    torch.library.opcheck(module.forward_op, (*leaves, *numbers, module.WITH_ALL), test_utils=tests)
    plain = [x.detach() for x in drawn]
    results = module.forward_op(*plain, *numbers, module.WITH_ALL)
    wanted = [True] * (3 + len(module.GRADIENTS))
    arguments = ([], *plain[:3], plain[3:], results[module.NEEDED], *numbers, [], wanted)
    torch.library.opcheck(module.backward_op, (torch.rand_like(results[0]), *arguments), test_utils=tests)


@pytest.mark.parametrize("name", SHIPPED)
def test_every_shipped_op(name: str) -> None:
    tests = IN_FULL if name in TRACED else IN_FULL[:3]
    forward_and_backward(module_of(attngen.load(name)), tests, n_q=5, n_k=7, transposed=name in TRACED)


@pytest.mark.parametrize("name", TRACED)
@pytest.mark.parametrize(("n_q", "n_k"), [(1, 9), (6, 1), (0, 3), (3, 0)])
def test_other_lengths(name: str, n_q: int, n_k: int) -> None:
    forward_and_backward(module_of(attngen.load(name)), IN_FULL[:3], n_q, n_k, transposed=False)


@pytest.mark.parametrize("kept", ["OUTPUT_ALONE", "WITH_ROWS"])
def test_fewer_results(kept: str) -> None:
    module = module_of(attngen.load("affine_scaled"))
    drawn, numbers = call(module, 5, 7)
    torch.library.opcheck(module.forward_op, (*drawn, *numbers, getattr(module, kept)))


@pytest.mark.parametrize("places", [[1], [1, 2], [3]], ids=str)
def test_gradients_of_what_is_saved(places: list[int]) -> None:
    """Two checks look into the storage of every tensor inside the op; tensors of torch.func have none."""
    module = module_of(attngen.load("affine_scaled"))
    drawn, numbers = call(module, 5, 7)
    results = module.forward_op(*drawn, *numbers, module.WITH_ALL)
    given = [torch.rand_like(results[place]) for place in places]
    arguments = (
        given,
        *drawn[:3],
        drawn[3:],
        results[module.NEEDED],
        *numbers,
        places,
        [True, False, True, False, True],
    )
    torch.library.opcheck(module.backward_op, (torch.rand_like(results[0]), *arguments), test_utils=IN_FULL)
