"""The checks that tests/gpu makes of large calls, at tiny sizes: interpreted kernels pass them, broken ops don't."""

import importlib

import pytest
import torch

from attngen import catalog
from attngen.runtime.interpreter import interpreting
from attngen.spec.lower import read_spec
from attngen.verify.subject import Subject, subject_of
from tests.gpu import sanitized_call
from tests.gpu.large import TINY, case_of, check_against_float64, check_nothing_moves

pytestmark = pytest.mark.filterwarnings("ignore:.*encountered in:RuntimeWarning")
NAMES = ("sigmoid", "softplus_l1", "affine_scaled")


def subject(name: str) -> Subject:
    spec = catalog.read(name)
    return subject_of(importlib.import_module(f"generated.{name}"), read_spec(spec.text, spec.path))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
@pytest.mark.parametrize("name", NAMES)
def test_interpreted_kernels_pass(name: str, dtype: str) -> None:
    tested = subject(name)
    assert tested.module is not None
    with interpreting(tested.module):
        check_against_float64(tested, case_of(TINY, 16, dtype, True), TINY)
        check_nothing_moves(tested, case_of(TINY, 16, dtype, False), TINY.repeats)


def test_one_wrong_element_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    tested = subject("softmax")
    case = case_of(TINY, 16, "float32", True)

    def slightly_wrong(*args: torch.Tensor, **keywords: object) -> torch.Tensor:
        out = tested.op(*args, **keywords).clone()
        out[0, 0, 40, 3] += 1e-4
        return out

    wrong = Subject(slightly_wrong, tested.normalizer)
    with pytest.raises(AssertionError, match="out errs by"):
        check_against_float64(wrong, case, TINY)


def test_a_gradient_that_is_slightly_wrong_is_found() -> None:
    tested = subject("softmax")
    wrong = Subject(lambda q, k, v, **kw: tested.op(q, k * 1.0, v * 1.0, **kw) + 0 * q.sum(), tested.normalizer)
    check_against_float64(wrong, case_of(TINY, 16, "float32", True), TINY)  # the same numbers by another way
    worse = Subject(lambda q, k, v, **kw: tested.op(q, _leaky(k), v, **kw), tested.normalizer)
    with pytest.raises(AssertionError, match="grad key errs by"):
        check_against_float64(worse, case_of(TINY, 16, "float32", True), TINY)


def _leaky(key: torch.Tensor) -> torch.Tensor:
    """The same values, with a gradient that is a thousandth too large."""
    return key + (key - key.detach()) * 1e-3


def test_a_result_that_moves_is_found() -> None:
    tested, calls = subject("softmax"), []

    def moving(*args: torch.Tensor, **keywords: object) -> torch.Tensor:
        calls.append(1)
        out = tested.op(*args, **keywords).clone()
        if len(calls) == 3:
            out[0, 0, 0, 0] = torch.nextafter(out[0, 0, 0, 0].detach(), torch.tensor(9.0))
        return out

    with pytest.raises(AssertionError, match="out moved at repeat 1"):
        check_nothing_moves(Subject(moving, tested.normalizer), case_of(TINY, 16, "float32", False), TINY.repeats)


def test_the_sanitized_program_runs(capsys: pytest.CaptureFixture[str]) -> None:
    sanitized_call.main(["sigmoid", "sink"], "cpu")
    assert capsys.readouterr().out == "sigmoid\nsink\n"
