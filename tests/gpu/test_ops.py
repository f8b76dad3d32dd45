"""The shipped ops, compiled for the GPU at hand: output and gradients against the float64 reference of their spec."""

import importlib
import itertools
from collections.abc import Callable
from dataclasses import replace
from types import ModuleType

import pytest
import torch
from torch import Tensor

from attngen import catalog
from attngen.ir import Normalizer
from attngen.spec.lower import read_spec
from attngen.verify.case import Case, DType
from attngen.verify.draw import Drawn
from attngen.verify.subject import Subject, subject_of
from attngen.verify.tolerance import Results, check, expect
from tests.representative import REPRESENTATIVE

DEVICE = "cuda"
SHIPPED = tuple(path.stem for path in catalog.shipped())
DTYPES: tuple[DType, ...] = ("float16", "bfloat16", "float32")
MAIN = tuple(
    Case(batch=2, kv_heads=2, group=2, n_q=257, n_k=257, d=d, d_v=d, dtype=dtype, is_causal=is_causal)
    for dtype, d, is_causal in itertools.product(DTYPES, (64, 128), (False, True))
)
OTHERS = tuple(
    case
    for dtype in DTYPES
    for case in (
        Case(kv_heads=1, group=4, n_q=128, n_k=300, d=80, d_v=80, dtype=dtype, is_causal=True, alignment="lower_right"),
        Case(kv_heads=2, n_q=200, n_k=100, d=256, d_v=256, dtype=dtype),
        Case(kv_heads=2, n_q=130, n_k=130, d=256, d_v=64, dtype=dtype, is_causal=True),
        Case(batch=2, kv_heads=2, n_q=190, n_k=190, d=64, d_v=128, dtype=dtype, window=(40, 3), layout="transposed"),
        Case(kv_heads=1, n_q=1, n_k=1000, d=128, d_v=128, dtype=dtype, is_causal=True, alignment="lower_right"),
    )
)
ONE = Case(batch=2, kv_heads=2, group=2, n_q=300, n_k=300, d=64, d_v=64, dtype="bfloat16", is_causal=True)


def subject(name: str) -> Subject:
    spec = catalog.read(name)
    normalizer: Normalizer = read_spec(spec.text, spec.path)
    module: ModuleType = importlib.import_module(f"generated.{name}")
    return subject_of(module, normalizer, DEVICE)


@pytest.mark.parametrize("case", MAIN, ids=Case.to_json)
@pytest.mark.parametrize("name", REPRESENTATIVE)
def test_forward_and_backward(name: str, case: Case) -> None:
    run_and_check(name, case)


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
@pytest.mark.parametrize("name", sorted(set(SHIPPED) - set(REPRESENTATIVE)))
def test_the_others(name: str, dtype: DType) -> None:
    run_and_check(name, replace(ONE, dtype=dtype))


@pytest.mark.parametrize("case", OTHERS, ids=Case.to_json)
@pytest.mark.parametrize("name", REPRESENTATIVE)
def test_other_shapes(name: str, case: Case) -> None:
    run_and_check(name, case)


def run_and_check(name: str, case: Case) -> None:
    tested = subject(name)
    drawn = tested.draw(case)
    check(tested.results(drawn, case.call), expect(tested.normalizer, drawn, case.call))


@pytest.mark.parametrize("name", SHIPPED)
def test_two_runs_are_equal_to_the_bit(name: str) -> None:
    tested = subject(name)
    drawn = tested.draw(ONE)
    first, second = tested.results(drawn, ONE.call), tested.results(drawn, ONE.call)
    assert first.keys() == second.keys()
    assert all(torch.equal(first[key], second[key]) for key in first)


@pytest.mark.parametrize("name", SHIPPED)
def test_kernels_agree_with_the_portable_path(name: str) -> None:
    """Both paths of a module, on the same float32 tensors."""
    case = Case(batch=2, kv_heads=2, group=2, n_q=150, n_k=170, d=64, d_v=64, is_causal=True)
    tested = subject(name)
    drawn = tested.draw(case)
    portable = subject_of(tested.op, tested.normalizer)
    expected = portable.results(portable.draw(case), case.call)
    for key, found in tested.results(drawn, case.call).items():
        torch.testing.assert_close(found.cpu(), expected[key], rtol=1e-4, atol=1e-4 * float(expected[key].abs().max()))


@pytest.mark.parametrize("name", ["sigmoid", "softplus_l1", "softmax"])
def test_compiled_by_torch(name: str) -> None:
    """torch.compile of the op itself gives what the op gives."""
    tested = subject(name)
    drawn = tested.draw(ONE)
    compiled: Callable[..., Tensor] = torch.compile(tested.op, fullgraph=True)
    equal(Subject(compiled, tested.normalizer, None, DEVICE).results(drawn, ONE.call), tested, drawn)


def equal(found: Results, tested: Subject, drawn: Drawn) -> None:
    expected = tested.results(drawn, ONE.call)
    assert all(torch.equal(found[key], expected[key]) for key in expected)


def test_tensors_of_more_than_2_to_the_31_elements() -> None:
    """Offsets are 64 bits wide: the last head's output is that of a call of its own."""
    batch, heads, length, width = 2, 70, 128 * 1024, 128
    if torch.cuda.mem_get_info()[0] < 24 * 2**30:
        pytest.skip("needs 24 GiB of GPU memory")
    key = torch.randn(batch, heads, length, width, device=DEVICE, dtype=torch.bfloat16)
    query = key[:, :, :64]
    op = subject("sigmoid").op
    out = op(query, key, key, bias=-4.0)
    last = (query[-1:, -1:].contiguous(), key[-1:, -1:].contiguous())
    torch.testing.assert_close(out[-1:, -1:], op(last[0], last[1], last[1], bias=-4.0), rtol=0, atol=0)
