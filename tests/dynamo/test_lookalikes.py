"""What only looks like attention is left alone, and stays right."""

import pytest
import torch
from torch import Tensor

from attngen.dynamo.backend import explain_compile
from tests.dynamo.conftest import compiled_like_eager
from tests.dynamo.lookalikes import LOOKALIKES, keys_overwritten
from tests.dynamo.spellings import BATCH, DIM, HEADS, KEYS, ROWS

MORE = {
    "bias overwritten": ((ROWS, KEYS),),
    "change of the bias": ((ROWS, KEYS),),
    "talking heads": ((HEADS, HEADS),),
    "talking heads by layers": ((HEADS, HEADS),),
    "layer": ((DIM, 16), (16, DIM)),
}


def tensors(name: str) -> tuple[Tensor, ...]:
    shapes = [(BATCH, HEADS, ROWS, DIM)] * 3 + list(MORE.get(name, ()))
    return tuple(torch.randn(shape) for shape in shapes)


@pytest.mark.parametrize("name", LOOKALIKES)
def test_lookalike_is_left_alone(name: str) -> None:
    report = compiled_like_eager(LOOKALIKES[name], *tensors(name))
    assert not report.replaced, report


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("weights used elsewhere", "is used elsewhere"),
        ("dropout", "dropout in training"),
        ("dropout of the fused call", "dropout in training"),
        ("change behind autograd", "is used elsewhere"),
        ("change of some keys", "changes a tensor in place that has several names"),
        ("change of the bias", "changes a tensor in place"),
        ("talking heads", "a mix of heads"),
        ("talking heads by layers", "(linear)"),
        ("softmax over queries by einsum", "a reduction over the queries"),
        ("values overwritten", "changes a tensor in place"),
        ("softmax over the heads", "another axis than the keys"),
        ("symmetric", "lines up different axes"),
        ("strongest keys", "topk"),
        ("wide heads", "head dim of query above 256"),
        ("maximum of one key", "where scores are equal"),
        ("half of the keys", "only a part of the scores"),
        ("gradient switched off", "mode changes"),
    ],
)
def test_the_reason_is_told(name: str, why: str) -> None:
    report = explain_compile(LOOKALIKES[name], *tensors(name))
    assert [entry for entry in report.skipped if why in entry.why and "lookalikes.py:" in entry.where], report
    assert why in str(report)


def test_what_was_overwritten_before_isnt_read() -> None:
    """Keys are fused as they were when the scores were made, not as their source is later."""
    assert compiled_like_eager(keys_overwritten, *tensors("keys overwritten")).replaced
