"""Nothing wrong reaches a model: a formula or a call that isn't right is caught before it is used."""

import pytest
import torch
from torch import Tensor

from attngen.dynamo import bands, rewrite, rules
from attngen.dynamo.bands import Band
from attngen.dynamo.formulas import op
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
    found = bands.band_of(band.seen(rows, keys))
    assert found is not None
    assert torch.equal(found.seen(rows, keys), band.seen(rows, keys))


def test_what_is_no_band_is_none() -> None:
    checkered = torch.arange(36).reshape(6, 6) % 2 == 0
    strictly_causal = torch.ones(6, 6, dtype=torch.bool).tril(-1)
    assert bands.band_of(checkered) is None
    assert bands.band_of(strictly_causal) is None
