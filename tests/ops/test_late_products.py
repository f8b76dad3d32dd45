"""Forward kernels whose weights meet their values a tile later, in Triton's interpreter, against the oracles."""

import inspect
from typing import Any

import pytest
import torch

from attngen.pipeline import compile_spec
from attngen.runtime.interpreter import interpreting
from tests.ops.formulas import FORMULAS
from tests.ops.oracle import Mask
from tests.ops.subject import Case, Load, Subject, check, draw

# No tile, one, some; tiles that are wholly visible alone, before, behind and between those at edges; empty rows.
CASES = (
    Case(n_q=17, n_k=64, kv_heads=2, group=2),
    Case(n_q=33, n_k=33, d_v=40, mask=Mask(is_causal=True), layout="sliced", batch=2),
    Case(n_q=65, n_k=65, mask=Mask(window=(40, 20))),
    Case(n_q=33, n_k=17, mask=Mask(is_causal=True, alignment="lower_right"), scale=-0.4),
    Case(n_q=17, n_k=80, mask=Mask(window=(0, -1)), blocks=(16, 32)),
)


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("name", ["softmax", "sigmoid"])
def test_forward_a_tile_behind(name: str, case: Case, load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    module: Any = inspect.getmodule(load(name))
    monkeypatch.setattr(module, "BEHIND", {("sm_90", 64, 4)})
    check(Subject(load, FORMULAS[name], kernels=True), case, torch.float32)


def test_weights_of_16_bits(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their largest of a row, by which they are divided, changes between a tile's weights and its product."""
    module: Any = inspect.getmodule(load("softplus_l1"))
    monkeypatch.setattr(module, "BEHIND", {("sm_90", 64, 2)})
    check(Subject(load, FORMULAS["softplus_l1"], kernels=True), CASES[1], torch.float16, 30.0)


@pytest.mark.parametrize("width", [3, 20])  # no tile is wholly visible; some are
def test_values_that_are_not_finite_reach_the_same_rows(
    width: int, load: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The zeros that meet values first are no exception: what they meet, all rows see."""
    module: Any = inspect.getmodule(load("softmax"))
    subject, case = (
        Subject(load, FORMULAS["softmax"], kernels=True),
        Case(n_q=65, n_k=65, mask=Mask(window=(width, width))),
    )
    tensors, _ = draw(subject.formula, case, torch.float32)
    query, key, value = (tensors[name] for name in ("query", "key", "value"))
    reached = []
    value[0, 0, 4 * torch.arange(16), torch.arange(16)] = float("inf")
    for rows in (set(), {("sm_90", 64, 4)}):
        monkeypatch.setattr(module, "BEHIND", rows)
        with subject.running(case) as op:
            reached.append(op(query, key, value, **case.mask.arguments()).isfinite())
    assert torch.equal(*reached)
    assert reached[0].any()


def test_weights_that_are_the_same_for_all_rows_wait_for_nothing() -> None:
    """They are summed up by columns: the kernel has no such order, and the launcher must not ask for it."""
    text = "name: gate\ninputs: {g: {shape: [batch, head, key]}}\nweights: sigmoid(g) / sum(exp(s))"
    assert "BEHIND" not in compile_spec(text, "gate.yaml").source


@pytest.mark.parametrize("behind", [False, True])
def test_a_tile_that_adds_nothing_raises_the_maximum(behind: bool, load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was summed up before it is rescaled, and is not multiplied with its values."""
    op = load("name: gap\nclaims: {sparse: true}\nweights: relu(1 - s) * exp(s) / sum(relu(1 - s) * exp(s))")
    module: Any = inspect.getmodule(op)
    monkeypatch.setattr(module, "BEHIND", {("sm_90", 64, 4)} if behind else set())
    monkeypatch.setattr(module, "OVERRIDES", {"forward": module.Tile(16, 16, 4, 1)})
    scores = torch.tensor([0.5, -1.5, 5.0, -2.0]).repeat_interleave(16)
    value = torch.randn(1, 1, 64, 16, generator=torch.Generator().manual_seed(0))
    query, key = torch.zeros(1, 1, 16, 16), torch.zeros(1, 1, 64, 16)
    query[..., 0], key[..., 0] = 4.0, scores
    with interpreting(module):
        out = op(query, key, value)
    weights = (1 - scores).relu() * scores.exp()
    right = (weights / weights.sum()) @ value
    torch.testing.assert_close(out, right.expand_as(out), rtol=1e-5, atol=1e-5)
