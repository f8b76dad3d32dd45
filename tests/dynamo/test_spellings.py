"""Every spelling is found, lifted and fused, and gives what it gives in eager mode."""

import pytest
import torch
from torch import Tensor

from attngen.dynamo.report import CompileReport
from tests.dynamo import spellings
from tests.dynamo.conftest import compiled_like_eager

FAMILIES = {
    "softmax": spellings.SOFTMAX,
    "sigmoid": spellings.SIGMOID,
    "sums": spellings.SUMS,
    "unusual": spellings.UNUSUAL,
}
ALL = [(f"{family}: {name}", function) for family, named in FAMILIES.items() for name, function in named.items()]


def tensors(name: str) -> tuple[Tensor, ...]:
    shape = (spellings.BATCH, spellings.HEADS, spellings.ROWS, spellings.DIM)
    found = tuple(torch.randn(shape) for _ in range(3))
    if "sinks" in name:
        return (*found, torch.randn(spellings.HEADS))
    return (*found, torch.randn(1, spellings.HEADS, 1, spellings.KEYS)) if "learnt bias" in name else found


def compiled(name: str) -> CompileReport:
    return compiled_like_eager(dict(ALL)[name], *tensors(name))


@pytest.mark.parametrize("name", [name for name, _ in ALL])
def test_spelling_is_fused(name: str) -> None:
    report = compiled(name)
    assert len(report.replaced) == 1, report
    assert not report.skipped


def test_the_catalogue_is_large() -> None:
    assert len(ALL) >= 60


@pytest.mark.parametrize(
    ("name", "mask"),
    [
        ("softmax: additive triangle", "window (-1, 0), upper_left"),
        ("softmax: compared positions", "window (-1, 0), upper_left"),
        ("softmax: fused call, causal", "window (-1, 0), upper_left"),
        ("softmax: baddbmm", "window (-1, 0), upper_left"),
        ("softmax: sliding window", "window (3, 0), upper_left"),
        ("softmax: mask like the query", "window (-1, 0), upper_left"),
        ("softmax: two bands", "window (2, 0), upper_left"),
        ("softmax: causal and padded", "window (-1, 0), upper_left"),
        ("sigmoid: masked afterwards", "window (-1, 0), upper_left"),
        ("sums: softplus, causal", "window (-1, 0), upper_left"),
        ("sigmoid: strictly causal", "window (-1, 0), upper_left"),
        ("softmax: masked_fill", ""),  # a tensor that the graph doesn't make may change between calls
    ],
)
def test_bands_are_arguments_of_the_call(name: str, mask: str) -> None:
    assert compiled(name).replaced[0].mask == mask


@pytest.mark.parametrize(
    ("name", "weights"),
    [
        ("softmax: at sign", "exp(s) / sum(exp(s))"),
        ("softmax: matmul", "exp(s) / sum(exp(s))"),
        ("softmax: by hand", "exp(s) / sum(exp(s))"),
        ("softmax: distance", "exp(s - x0 * abs(i - j)) / sum(exp(s - x0 * abs(i - j)))"),
        ("unusual: softmax1", "exp(s) / (1 + sum(exp(s)))"),
        ("unusual: sinks before the keys", "exp(s) / (sum(exp(s)) + exp(x0))"),
        ("sigmoid: scalar bias", "sigmoid(s - 2.4849066497880004)"),
        ("unusual: silu over length", "silu(s) / 12"),
        ("unusual: squared relu", "relu(s / 12) ** 2"),
    ],
)
def test_formulas_read_well(name: str, weights: str) -> None:
    assert f"\nweights: {weights}\n" in compiled(name).replaced[0].spec_text
