"""Nothing wrong reaches a model: a formula or a call that isn't right is caught before it is used."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from attngen import notation
from attngen.dynamo import rewrite, rules
from attngen.dynamo.backend import compile_reporting
from attngen.dynamo.bands import Band, diagonals_of
from attngen.dynamo.formulas import op
from attngen.dynamo.positions import evaluated, formulas
from attngen.dynamo.report import CompileReport
from attngen.ir import number
from tests.dynamo.conftest import compiled_like_eager
from tests.dynamo.spellings import SOFTMAX, UNUSUAL, causal_mask, scores


def tensors() -> tuple[Tensor, ...]:
    return tuple(torch.randn(2, 4, 12, 8) for _ in range(3))


def test_a_wrong_rule_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(rules.POINTWISE, "silu", lambda x: op("relu", x))
    report = compiled_like_eager(UNUSUAL["silu over length"], *tensors())
    assert not report.replaced
    assert "differ" in report.skipped[0].why


def test_a_formula_wrong_for_large_scores_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(
        rules.POINTWISE, "tanh", lambda x: op("where", op("gt", x, number(1)), number(0), op("tanh", x))
    )
    assert not compiled_like_eager(UNUSUAL["softcap"], *tensors()).replaced


def test_a_call_that_the_op_refuses_is_not_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rewrite, "_mask", lambda version: {"window": "wide"})
    report = compiled_like_eager(SOFTMAX["at sign"], *tensors())
    assert not report.replaced, report


@pytest.mark.parametrize(
    ("rows", "keys", "band"),
    [
        (5, 5, Band(-1, 0)),
        (5, 8, Band(-1, 0)),
        (5, 8, Band(-1, 0, "lower_right")),
        (8, 5, Band(2, 1)),
        (6, 6, Band(0, 2)),
        (4, 4, Band()),
    ],
)
def test_bands_are_recognized(rows: int, keys: int, band: Band) -> None:
    found = [diagonals.band() for diagonals in diagonals_of(band.seen(rows, keys)) if diagonals.is_band]
    assert band in found
    assert all(torch.equal(one.seen(rows, keys), band.seen(rows, keys)) for one in found)


def test_what_is_beside_the_main_diagonal_needs_a_formula() -> None:
    strictly_causal = torch.ones(6, 6, dtype=torch.bool).tril(-1)
    (diagonals,) = diagonals_of(strictly_causal)
    assert not diagonals.is_band
    assert diagonals.band() == Band(-1, 0)
    assert torch.equal(
        evaluated(op("where", diagonals.condition("upper_left"), number(1), number(0)), (6, 6), "upper_left") > 0,
        strictly_causal,
    )


def test_what_is_no_band_is_none() -> None:
    assert diagonals_of(torch.arange(36).reshape(6, 6) % 2 == 0) == ()
    assert diagonals_of(torch.zeros(6, 6, dtype=torch.bool)) == ()


@pytest.mark.parametrize(
    ("values", "formula"),
    [
        (torch.arange(5)[:, None] - torch.arange(5)[None, :], "i - j"),
        ((torch.arange(5)[:, None] - torch.arange(7)[None, :]).abs() * 0.5 + 1, "abs(i - j) * 0.5 + 1"),
        (torch.arange(5)[:, None] + 2 - torch.arange(7)[None, :], "i - j + 2"),
        (torch.arange(7.0)[None, :] * 3, "j * 3"),
        (torch.arange(5.0)[:, None], "i"),
        (torch.arange(35).reshape(5, 7) ** 2, None),
    ],
)
def test_numbers_that_positions_say(values: Tensor, formula: str | None) -> None:
    lengths = (5, values.shape[1] if values.shape[1] > 1 else 7)
    found = list(formulas(values, lengths, "upper_left"))
    assert (notation.text(found[0]) if found else None) == formula
    for expr in found:
        assert torch.equal(evaluated(expr, lengths, "upper_left").expand(lengths), values.double().expand(lengths))


def test_what_a_mask_is_made_of_may_be_overwritten() -> None:
    """The mask is read as it was, though the padding that it was made of is gone when the op runs."""

    def model(q: Tensor, k: Tensor, v: Tensor, seen: Tensor) -> Tensor:
        mask = torch.where(causal_mask(12, 12) & seen[:, None, None, :], 0.0, torch.finfo(q.dtype).min)
        seen.zero_()
        return (scores(q, k) + mask).softmax(-1) @ v

    seen = torch.ones(2, 12, dtype=torch.bool)
    seen[0, :3] = False
    assert len(compiled_like_eager(model, *tensors(), seen).replaced) == 1


def test_a_gradient_that_is_held_back_stays_so() -> None:
    """What was made without gradients gets none when it is made in the op."""

    def model(q: Tensor, k: Tensor, v: Tensor, slope: Tensor) -> Tensor:
        with torch.no_grad():
            bias = (slope[:, None, None] * 2).expand(4, 12, 12)
        return (scores(q, k) + bias).softmax(-1) @ v

    assert len(compiled_like_eager(model, *tensors(), torch.randn(4)).replaced) == 1


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_inference(mode: Callable[[], AbstractContextManager[None]]) -> None:
    report = CompileReport()
    compiled = torch.compile(SOFTMAX["causal and padded"], backend=partial(compile_reporting, report, inner="eager"))
    given = tensors()
    with mode():
        torch.testing.assert_close(compiled(*given), SOFTMAX["causal and padded"](*given), rtol=1e-5, atol=1e-5)
    assert len(report.replaced) == 1


@pytest.mark.parametrize("name", ["method", "fused call, causal", "distance", "keys expanded", "causal and padded"])
def test_dynamic_sizes(name: str) -> None:
    report = compiled_like_eager(SOFTMAX[name], *tensors(), inner="eager", dynamic=True)
    assert len(report.replaced) == 1, report


def test_a_product_into_a_tensor_that_is_there_is_a_change_of_it() -> None:
    def model(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        out = torch.zeros_like(v)
        torch.matmul(scores(q, k).softmax(-1), v, out=out)
        return out

    with torch.no_grad():  # there are no gradients through `out`
        given = tensors()
        compiled = torch.compile(model, backend=partial(compile_reporting, CompileReport(), inner="eager"))
        torch.testing.assert_close(compiled(*given), model(*given))


@torch.library.custom_op("attngen_tests::triple", mutates_args=("x",))
def triple(x: Tensor) -> None:
    x.mul_(3)


def test_an_op_that_says_so_changes_its_argument() -> None:
    def model(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        k = k * 1
        s = scores(q, k)
        triple(k)
        return s.softmax(-1) @ v

    with torch.no_grad():
        given = tensors()
        compiled = torch.compile(model, backend=partial(compile_reporting, CompileReport(), inner="eager"))
        torch.testing.assert_close(compiled(*given), model(*given))


@pytest.mark.parametrize(
    "function",
    [
        lambda s: s.clamp(min=0),
        lambda s: F.hardtanh(s, 0.0, 1.0),
        lambda s: F.hardsigmoid(s - 3),
        lambda s: F.hardswish(s - 3),
        lambda s: F.hardswish(s + 3),
        lambda s: F.normalize(s, p=2.0, dim=-1),
        lambda s: (s - s.mean(-1, keepdim=True)) / (s.std(-1, keepdim=True) + 1e-5),
        lambda s: s - s.amax(-1, keepdim=True),
    ],
)
def test_slopes_on_bounds(function: Callable[[Tensor], Tensor]) -> None:
    """Random scores never lie on one; those of a query of zeros all do."""

    def model(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return function(scores(q, k)) @ v

    q, k, v = tensors()
    assert len(compiled_like_eager(model, torch.zeros_like(q), k, v).replaced) == 1


def test_an_output_that_is_changed_in_place() -> None:
    """The fused op keeps its output for the backward, which a plain product doesn't."""

    def model(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        out = scores(q, k).softmax(-1) @ v
        out.transpose(1, 2).mul_(2)
        return out

    assert len(compiled_like_eager(model, *tensors()).replaced) == 1


def test_a_bias_that_is_changed_before_the_backward() -> None:
    def model(q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
        bias = bias * 2
        out = (scores(q, k) + bias).softmax(-1) @ v
        bias.add_(1)
        return out + bias.sum()

    assert "before the backward" in compiled_like_eager(model, *tensors(), torch.randn(12, 12)).skipped[0].why
