"""Nothing wrong reaches a model: a formula or a call that isn't right is caught before it is used."""

import pytest
import torch
from torch import Tensor

from attngen import notation
from attngen.dynamo import rewrite, rules
from attngen.dynamo.bands import Band, diagonals_of
from attngen.dynamo.formulas import op
from attngen.dynamo.positions import evaluated, formulas
from attngen.ir import number
from tests.dynamo.conftest import compiled_like_eager
from tests.dynamo.spellings import SOFTMAX, UNUSUAL


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
