"""The kernels for Hopper, run: against the float64 reference of each spec, against the plain kernels, and for races."""

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from types import ModuleType

import pytest
import torch
from torch import Tensor

from attngen import catalog
from attngen.build import Build
from attngen.pipeline import Compilation, compile_spec
from attngen.runtime.loader import load_module
from attngen.verify.case import Case
from attngen.verify.subject import Subject, subject_of
from attngen.verify.tolerance import check, expect
from tests.representative import REPRESENTATIVE

DEVICE = "cuda"
ONE = Case(batch=2, kv_heads=2, group=2, n_q=300, n_k=300, d=64, d_v=64, dtype="bfloat16", is_causal=True)
CASES = (
    replace(ONE, is_causal=False),
    replace(ONE, d=128, d_v=128),
    replace(ONE, d=128, d_v=128, dtype="float16", n_q=1, n_k=1000, alignment="lower_right"),
    replace(ONE, n_q=520, n_k=64, is_causal=False),
    replace(ONE, n_q=64, n_k=520, alignment="lower_right"),
    replace(ONE, n_q=520, n_k=130),  # rows that see no key
    replace(ONE, n_q=700, n_k=700, window=(200, 3), is_causal=False, layout="transposed"),
    replace(ONE, n_q=4096, n_k=4096, batch=1, d=128, d_v=128),
    replace(ONE, d=128),
    replace(ONE, d=80, d_v=112),  # tiles add zeros
    replace(ONE, d_v=256),
)


@pytest.fixture(scope="module", autouse=True)
def hopper() -> None:
    if torch.cuda.get_device_capability() != (9, 0):
        pytest.skip("needs a Hopper GPU")


@cache
def compilation(name: str) -> Compilation:
    spec = catalog.read(name)
    return compile_spec(spec.text, spec.path, build=Build("hopper"))


@cache
def subject(name: str) -> Subject:
    return subject_of(load_module(compilation(name)), compilation(name).normalizer, DEVICE)


def counted(module: ModuleType, monkeypatch: pytest.MonkeyPatch) -> list[None]:
    """Grows with every launch of the forward kernel for Hopper."""
    calls: list[None] = []
    launch: Callable[..., None] = module.launch_forward_hopper
    monkeypatch.setattr(module, "launch_forward_hopper", lambda *args: (calls.append(None), launch(*args))[1])
    return calls


@pytest.mark.parametrize("d", [64, 128])
@pytest.mark.parametrize("name", sorted(path.stem for path in catalog.shipped()))
def test_output_and_gradients(name: str, d: int, monkeypatch: pytest.MonkeyPatch) -> None:
    tested, case = subject(name), replace(ONE, d=d, d_v=d)
    launches = counted(load_module(compilation(name)), monkeypatch)
    drawn = tested.draw(case)
    check(tested.results(drawn, case.call), expect(tested.normalizer, drawn, case.call))
    assert launches


@pytest.mark.parametrize("case", CASES, ids=Case.to_json)
@pytest.mark.parametrize("name", REPRESENTATIVE)
def test_other_shapes(name: str, case: Case) -> None:
    tested = subject(name)
    drawn = tested.draw(case)
    check(tested.results(drawn, case.call), expect(tested.normalizer, drawn, case.call))


@pytest.mark.parametrize("d", [64, 128])
@pytest.mark.parametrize("name", ["sigmoid", "softmax"])
def test_200_runs_agree(name: str, d: int) -> None:
    """A tile that is overwritten while it is read shows sooner or later. Shares of dQ are added in any order."""
    tested, case = subject(name), replace(ONE, n_q=1000, n_k=1000, d=d, d_v=d)
    drawn = tested.draw(case)
    leaves = [x.detach().requires_grad_() for x in (drawn.operands.query, drawn.operands.key, drawn.operands.value)]
    operands = replace(drawn.operands, query=leaves[0], key=leaves[1], value=leaves[2])

    def results() -> tuple[Tensor, ...]:
        out = tested.run(operands, case.call)
        return out.detach(), *torch.autograd.grad(out, leaves, drawn.grad_out)

    out, dq, *others = results()
    for _ in range(200):
        again = results()
        assert all(torch.equal(x, y) for x, y in zip((out, *others), (again[0], *again[2:]), strict=True))
        torch.testing.assert_close(again[1], dq, rtol=1.6e-2, atol=1e-3 * float(dq.abs().max()))


@pytest.mark.parametrize("case", CASES, ids=Case.to_json)
@pytest.mark.parametrize("name", ["power", "relu_squared", "softcap", *REPRESENTATIVE])
def test_gradients_of_one_kernel(name: str, case: Case) -> None:
    """Nobody wants gradients of inputs, so that five products are enough."""
    tested = subject(name)
    drawn = tested.draw(case)
    expected = expect(tested.normalizer, drawn, case.call)
    leaves = [x.detach().requires_grad_() for x in (drawn.operands.query, drawn.operands.key, drawn.operands.value)]
    operands = replace(drawn.operands, query=leaves[0], key=leaves[1], value=leaves[2])
    found = torch.autograd.grad(tested.run(operands, case.call), leaves, drawn.grad_out)
    for gradient, which in zip(found, ("grad query", "grad key", "grad value"), strict=True):
        assert float((gradient.double().cpu() - expected.exact[which].cpu()).abs().amax()) <= expected.tolerance[which]
