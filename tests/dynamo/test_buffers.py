"""Masks among a model's buffers are the call's causal mask or window, for as long as they are what they were."""

from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attngen.dynamo.backend import compile_reporting
from attngen.dynamo.report import CompileReport
from tests.dynamo.conftest import compiled_like_eager
from tests.dynamo.spellings import scores

CAUSAL = "window (-1, 0), upper_left"


class Buffered(nn.Module):
    """Attention with a mask of the greatest length, cut to size in every call."""

    seen: Tensor

    def __init__(self, seen: Tensor | None = None) -> None:
        super().__init__()
        self.register_buffer("seen", torch.tril(torch.ones(1, 1, 32, 32)) if seen is None else seen)

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        rows, keys = q.shape[2], k.shape[2]
        hidden = self.seen[:, :, keys - rows : keys, :keys] == 0
        return F.softmax(scores(q, k).masked_fill(hidden, float("-inf")), dim=-1) @ v


class Packed(Buffered):
    """Query, key and value of one length, as from one projection."""

    def forward(self, *given: Tensor) -> Tensor:
        q, k, v = given[0].unbind(0)
        return super().forward(q, k, v)


def tensors(rows: int = 12, keys: int = 12) -> tuple[Tensor, ...]:
    return torch.randn(2, 4, rows, 8), torch.randn(2, 4, keys, 8), torch.randn(2, 4, keys, 8)


def compiled(model: nn.Module, report: CompileReport) -> Any:
    return torch.compile(model, backend=partial(compile_reporting, report, inner="eager"))


def masks(report: CompileReport) -> list[str]:
    return [entry.mask for entry in report.replaced]


@pytest.mark.parametrize(
    ("rows", "band", "mask"),
    [
        (12, (None, 0), CAUSAL),
        (3, (None, 0), "window (-1, 0), lower_right"),
        (12, (-2, 0), "window (2, 0), upper_left"),
    ],
)
def test_bands(rows: int, band: tuple[int | None, int], mask: str) -> None:
    seen = torch.ones(1, 1, 32, 32, dtype=torch.bool).tril(band[1])
    seen = seen if band[0] is None else seen.triu(band[0])
    assert masks(compiled_like_eager(Buffered(seen), *tensors(rows))) == [mask]


def test_one_graph_for_all_lengths() -> None:
    model, report = Packed(), CompileReport()
    run = compiled(model, report)
    for length in (12, 17, 30, 5):
        given = torch.randn(3, 2, 4, length, 8)
        torch.testing.assert_close(run(given), model(given), rtol=1e-5, atol=1e-5)
    assert masks(report) == [CAUSAL] * 2


def test_models_of_the_same_code_share_the_graph() -> None:
    report = CompileReport()
    for model in (Buffered(), Buffered(), Buffered()):
        given = tensors()
        torch.testing.assert_close(compiled(model, report)(*given), model(*given), rtol=1e-5, atol=1e-5)
    assert len(report.replaced) <= 3
    assert set(masks(report)) == {CAUSAL}


def test_contents_that_change() -> None:
    """In place: the mask is an input from then on. What is equal after a change compiles nothing."""
    model, report = Buffered(), CompileReport()
    run, given = compiled(model, report), tensors()

    def same() -> None:
        torch.testing.assert_close(run(*given), model(*given), rtol=1e-5, atol=1e-5)

    same()
    model.seen.mul_(2).div_(2)
    same()
    assert masks(report) == [CAUSAL]
    model.seen[..., 3:] = 1
    same()
    model.seen.copy_(torch.ones_like(model.seen).tril(2))
    same()
    assert masks(report) == [CAUSAL, ""]


def test_another_buffer() -> None:
    model, report = Buffered(), CompileReport()
    run, given = compiled(model, report), tensors()
    for seen in (
        model.seen,
        torch.ones_like(model.seen).tril(2),
        torch.rand(1, 1, 32, 32).round().tril() + torch.eye(32),
    ):
        model.seen = seen
        torch.testing.assert_close(run(*given), model(*given), rtol=1e-5, atol=1e-5)
    assert masks(report) == [CAUSAL, "window (-1, 2), upper_left", ""]


def test_a_buffer_that_the_graph_changes_is_read() -> None:
    class Changing(Buffered):
        def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            self.seen.view(-1)[:200] = 1
            return super().forward(q, k, v)

    torch.manual_seed(0)
    report, given = CompileReport(), tensors()
    got = compiled(Changing(), report)(*given)
    torch.testing.assert_close(got, Changing()(*given), rtol=1e-5, atol=1e-5)
