"""Every shipped op at the sizes of the bench: against float64 forward and backward, and 200 times for races."""

import importlib

import pytest

from attngen import catalog
from attngen.spec.lower import read_spec
from attngen.verify.subject import Subject, subject_of
from tests.gpu.large import LARGE, Sizes, case_of, check_against_float64, check_nothing_moves

SHIPPED = tuple(path.stem for path in catalog.shipped())
# One long call for each loop that may go wrong only when it is long.
LONG = Sizes(batch=1, heads=2, length=16384, repeats=0, plain=1024)


def subject(name: str) -> Subject:
    spec = catalog.read(name)
    return subject_of(importlib.import_module(f"generated.{name}"), read_spec(spec.text, spec.path), "cuda")


@pytest.mark.parametrize("is_causal", [False, True])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
@pytest.mark.parametrize("d", [64, 128])
@pytest.mark.parametrize("name", SHIPPED)
def test_against_float64(name: str, d: int, dtype: str, is_causal: bool) -> None:
    check_against_float64(subject(name), case_of(LARGE, d, dtype, is_causal), LARGE)


@pytest.mark.parametrize("name", SHIPPED)
def test_against_float64_over_16k_keys(name: str) -> None:
    check_against_float64(subject(name), case_of(LONG, 128, "bfloat16", True), LONG)


@pytest.mark.parametrize("d", [64, 128, 256])
@pytest.mark.parametrize("name", SHIPPED)
def test_nothing_moves_in_200_runs(name: str, d: int) -> None:
    """A race between warps shows as a bit that differs: nothing is summed in an order that may change."""
    check_nothing_moves(subject(name), case_of(LARGE, d, "bfloat16", True), LARGE.repeats)
