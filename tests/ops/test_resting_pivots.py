"""Forward kernels in bf16 whose pivots rest while whole tiles are walked over, against the oracles."""

import inspect
from typing import Any

import pytest
import torch

from tests.ops.formulas import FORMULAS, Formula
from tests.ops.oracle import Mask, Rows
from tests.ops.subject import Case, Load, Subject, check, compare, draw

# Tiles that are wholly visible alone, before, behind and between those at edges; empty rows; rows that see whole tiles
# and nothing of those at edges.
CASES = (
    Case(n_q=17, n_k=64, kv_heads=2, group=2),
    Case(n_q=65, n_k=65, mask=Mask(window=(40, 20))),
    Case(n_q=33, n_k=17, mask=Mask(is_causal=True, alignment="lower_right")),
    Case(n_q=33, n_k=80, mask=Mask(window=(-1, 15))),
)


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("name", ["affine_scaled", "biased"])
def test_forward(name: str, case: Case, load: Load) -> None:
    check(Subject(load, FORMULAS[name], kernels=True), case, torch.bfloat16)


@pytest.mark.parametrize(("factor", "behind"), [(300.0, True), (-300.0, False)])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_scores_far_above_or_below_those_at_the_edges(
    case: Case, factor: float, behind: bool, load: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sums of whole tiles overflow, or of rows that see these alone underflow: all tiles are walked over again."""
    module: Any = inspect.getmodule(load("softmax"))
    monkeypatch.setattr(module, "BEHIND", {("sm_90", 64, 2)} if behind else set())
    subject = Subject(load, FORMULAS["softmax"], kernels=True)
    tensors, d_out = draw(subject.formula, case, torch.bfloat16)
    tensors["query"][..., 0] = 4.0
    tensors["key"][..., 0] = 0.0
    tensors["key"][..., :32, 0] = factor
    compare(subject, case, tensors, d_out)


CUBES = """
name: cubes
weights: exp(3 * s) / sum(exp(s)) ** 3
"""


def _over_a_power(r: Rows) -> torch.Tensor:
    return torch.exp(r.s) / r.sum(torch.exp(r.s)) ** r.p


def _cubes(r: Rows) -> torch.Tensor:
    return r.softmax(r.s) ** 3


POWERS = {
    "over a power": Formula("softmax_power", _over_a_power, axes={"p": ("head",)}, between={"p": (3.0, 3.0)}),
    "of a power": Formula(CUBES, _cubes),
}


@pytest.mark.parametrize("name", POWERS)
def test_sums_in_range_whose_powers_are_not(name: str, load: Load) -> None:
    """Pivots don't rest there: of the 16 keys at the edge all scores are 38 below the others."""
    case, subject = Case(n_q=17, n_k=64), Subject(load, POWERS[name], kernels=True)
    tensors, d_out = draw(subject.formula, case, torch.bfloat16)
    tensors["query"][..., 0] = 4.0
    tensors["key"][..., 0] = 0.0
    tensors["key"][..., 48:, 0] = -38.0
    compare(subject, case, tensors, d_out)
