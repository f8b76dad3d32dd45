"""The way of a call to its kernels, forward and backward, reads nothing back from the GPU and copies nothing to it.

Tensors are fake ones of a GPU, launches are counted, and every operation of torch's on the way is looked at: what stays
on the device can be captured in a CUDA graph, and no host waits.
"""

import importlib
from collections.abc import Iterator
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
import triton
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from triton.backends.compiler import GPUTarget
from triton.runtime.jit import JITFunction

from attngen import catalog, ir
from attngen.build import Build
from attngen.pipeline import compile_spec
from attngen.runtime.loader import load_module
from attngen.spec.lower import read_spec
from tests.representative import REPRESENTATIVE

SIZES = {"batch": 2, "head": 4, "kv_head": 2, "query": 48, "key": 64}


class OnDevice(TorchDispatchMode):
    """Runs the body of the module's op, whose arguments it keeps, and refuses what makes the host wait."""

    def __init__(self, module: ModuleType) -> None:
        super().__init__()
        self._module = module
        self.arguments: tuple[Any, ...] = ()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func._opname == self._module.OP:
            self.arguments = args
            with self:
                return self._module._forward(*args)
        out = func(*args, **(kwargs or {}))
        given = {x.device.type for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)}
        made = {x.device.type for x in tree_leaves(out) if isinstance(x, Tensor)}
        crosses = (given and not made <= given) or (func._opname == "copy_" and len(given) > 1)
        assert not crosses, f"{func} copies from {given} to {made}"
        return out


@pytest.fixture
def launches(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """What is launched, on a driver that merely names an H100."""
    seen: list[str] = []
    driver = SimpleNamespace(get_current_target=lambda: GPUTarget("cuda", 90, 32))
    monkeypatch.setattr(JITFunction, "run", lambda kernel, *args, **options: seen.append(kernel.fn.__name__))
    active = triton.runtime.driver._active
    triton.runtime.driver.set_active(driver)
    yield seen
    triton.runtime.driver.set_active(active)


def called(module: ModuleType, normalizer: ir.Normalizer) -> None:
    """The public function, with inputs and without those that have defaults; the bodies of its op and its backward."""
    op = getattr(module, f"{normalizer.name}_attention")
    with FakeTensorMode(), OnDevice(module) as seen:
        query, key, value = (
            torch.empty(2, heads, n, 64, device="cuda", dtype=torch.bfloat16)
            for heads, n in ((4, 48), (2, 64), (2, 64))
        )
        inputs = {i.name: torch.empty([SIZES[a] for a in i.axes], device="cuda") for i in normalizer.inputs}
        needed = {i.name: inputs[i.name] for i in normalizer.inputs if i.default is None}
        numbers = {i.name: 0.5 for i in normalizer.inputs} | needed
        for given in (needed, numbers, inputs):
            out = op(query, key, value, **given, is_causal=True)
        *tensors, scale, left, right, offset, deterministic, _ = seen.arguments
        call = scale, left, right, offset, deterministic
        results = module._forward(*tensors, *call, module.WITH_ALL)[module.NEEDED]
        wanted = [True] * (3 + len(module.GRADIENTS))
        module._backward(out, [], *tensors[:3], tensors[3:], results, *call, [], wanted)


@pytest.mark.parametrize("name", [path.stem for path in catalog.shipped()])
def test_shipped_ops(name: str, launches: list[str]) -> None:
    spec, module = catalog.read(name), importlib.import_module(f"generated.{name}")
    if hasattr(module, "through_output") and torch.version.cuda is None:
        pytest.skip("a step behind the weighted sum is differentiated by torch, which takes a torch with CUDA")
    called(module, read_spec(spec.text, spec.path))
    assert {f"{name}_forward", f"{name}_backward_query", f"{name}_backward_key"} <= set(launches)


@pytest.mark.parametrize("name", REPRESENTATIVE)
def test_ops_for_hopper(name: str, launches: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    spec = catalog.read(name)
    compilation = compile_spec(spec.text, spec.path, build=Build("hopper"))
    module = load_module(compilation)
    monkeypatch.setattr(module, "_describable", lambda tensor: True)  # fake tensors have no address
    monkeypatch.setattr(module, "_descriptor", lambda tensor, *tile: None)
    called(module, compilation.normalizer)
    assert {f"{name}_forward_hopper", f"{name}_forward_hopper_solo"} & set(launches)


def test_what_waits_is_refused(launches: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    module = importlib.import_module("generated.softmax")
    spec = catalog.read("softmax")
    launch = module.launch_forward
    for wait in (lambda x: x.cpu(), lambda x: x.sum().item(), lambda x: x.nonzero()):
        monkeypatch.setattr(module, "launch_forward", lambda *a, wait=wait: (wait(a[0]), launch(*a))[1])
        # a build of torch without CUDA aborts some of these by itself
        with pytest.raises(
            Exception, match=r"copies from|_local_scalar_dense|nonzero|not linked with support for cuda"
        ):
            called(module, read_spec(spec.text, spec.path))
