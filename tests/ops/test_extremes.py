"""Scores far from zero: results stay finite and right, in fp16 also where weights leave its range before a division."""

import pytest
import torch

from tests.ops.formulas import FORMULAS, Formula
from tests.ops.oracle import Mask, Tensors, attention
from tests.ops.subject import Case, Load, Subject, compare, draw, largest

# Every row sees 17 keys or more: where all scores lie at -1000, softplus ratios are 0 / 0, in float64 too.
CASE = Case(n_q=17, n_k=33, group=2, mask=Mask(is_causal=True, alignment="lower_right"), scale=1.0)
PLAIN = Case(n_q=17, n_k=40, scale=1.0)
HIGH = {"sigmoid": 1000, "softplus_l1": 1000, "silu_ratio": 1000, "from_least": 1000}  # others take an exponential
POLYNOMIAL = """
name: polynomial
let:
  f: 1 + s + s ** 2 / 2
weights: f / sum(f)
"""
FP16 = {
    "softplus_l1": FORMULAS["softplus_l1"],
    "by_key_head": FORMULAS["by_key_head"],
    "polynomial": Formula(POLYNOMIAL, lambda r: (1 + r.s + r.s**2 / 2) / r.sum(1 + r.s + r.s**2 / 2)),
    "relu_power": FORMULAS["relu_power"],
}


@pytest.mark.parametrize("kernels", [False, True], ids=["portable", "kernels"])
@pytest.mark.parametrize("name", [name for name in FORMULAS if name not in ("tile_gate", "lssar_like", "cosine")])
def test_large_scores(name: str, kernels: bool, load: Load) -> None:
    tensors, d_out = draw(FORMULAS[name], CASE, torch.float32)
    bound = float(HIGH.get(name, 200))
    compare(Subject(load, FORMULAS[name], kernels), CASE, with_scores(tensors, bound), d_out, magnitude=bound / 4)


@pytest.mark.parametrize("score", [-16.0, -12.0, 400.0])
@pytest.mark.parametrize("name", FP16)
def test_fp16_weights_out_of_range_before_the_division(name: str, score: float, load: Load) -> None:
    """The written-out float16 formula is no measure here: the output itself is well inside of the range."""
    tensors, _ = draw(FP16[name], PLAIN, torch.float16)
    tensors |= {"query": torch.full_like(tensors["query"], 1.0), "key": around(score, tensors["key"])}
    right, found = both(Subject(load, FP16[name], kernels=True), tensors)
    assert largest(found - right) <= 2 * torch.finfo(torch.float16).eps * largest(right)


def around(score: float, key: torch.Tensor) -> torch.Tensor:
    """Keys whose products with a query of ones lie around `score`."""
    return (score / key.shape[-1] * (1 + key / 50)).to(key.dtype)


def with_scores(tensors: Tensors, bound: float) -> Tensors:
    """The query is scaled so that the largest score is `bound`."""
    scores = tensors["query"] @ tensors["key"].repeat_interleave(2, dim=1).mT
    return tensors | {"query": tensors["query"] * (bound / largest(scores))}


def both(subject: Subject, tensors: Tensors) -> tuple[torch.Tensor, torch.Tensor]:
    formula = subject.formula
    inputs = {name: tensors[name] for name in formula.axes}
    exact = {name: tensor.double() for name, tensor in tensors.items()}
    right = attention(formula.weights, exact, formula.axes, PLAIN.mask, 1.0)
    with subject.running(PLAIN) as op:
        return right, op(tensors["query"], tensors["key"], tensors["value"], **inputs, scale=1.0)
