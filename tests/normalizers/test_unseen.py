"""Formulas that nobody prepared for: output and gradients against the same formula written by hand."""

import pytest
import torch

from tests.normalizers.unseen import SPECS, UNSEEN
from tests.ops.oracle import Mask
from tests.ops.subject import Case, Load, Subject, check

CASES = (
    Case(n_q=19, n_k=35, d=12, d_v=20, batch=2, kv_heads=2, blocks=(16, 32)),
    Case(n_q=21, n_k=37, group=2, mask=Mask(is_causal=True, window=(15, 0), alignment="lower_right")),
)
HEATED = {"two_heats": 3.0}  # the scores are multiplied by up to three
STAGED = ("gated_twice", "relu_of_excess", "standardized_gain", "three_stages", "two_heats")


def test_every_spec_is_tested() -> None:
    assert SPECS.keys() == UNSEEN.keys()


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("name", UNSEEN)
def test_portable(name: str, case: Case, load: Load) -> None:
    check(Subject(load, UNSEEN[name]), case, torch.float64)


@pytest.mark.parametrize("name", UNSEEN)
def test_kernels_in_fp32(name: str, load: Load) -> None:
    check(Subject(load, UNSEEN[name], kernels=True), CASES[1], torch.float32, HEATED.get(name, 1.0))


@pytest.mark.parametrize("name", STAGED)
def test_staged_kernels_in_bf16(name: str, load: Load) -> None:
    check(Subject(load, UNSEEN[name], kernels=True), CASES[1], torch.bfloat16)
