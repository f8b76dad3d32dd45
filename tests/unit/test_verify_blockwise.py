"""The reference in blocks is the reference: same numbers, wherever the cuts are."""

from dataclasses import replace

import pytest
import torch

from attngen import catalog, ir
from attngen.spec.lower import read_spec
from attngen.verify.blockwise import all_heads, one_head
from attngen.verify.case import Case
from attngen.verify.draw import Drawn, draw
from attngen.verify.tolerance import reference_results

SHIPPED = tuple(path.stem for path in catalog.shipped())
# Positions, both lengths, the number of seen keys, and inputs with every kind of axis.
EVERYTHING = """
name: everything
inputs:
  gate: {shape: [batch, query], default: 1 / n_k}
  slope: {shape: [kv_head]}
  bias: {shape: [head, key]}
  pair: {shape: [query, key]}
weights: sigmoid(s + bias * slope + pair - gate - (i - j) / n_q) / (n + n_k + mean(s) + sum(exp(s)))
"""


def normalizer(name: str) -> ir.Normalizer:
    return read_spec(EVERYTHING if name == "everything" else catalog.read(name).text, name)


def widened(drawn: Drawn) -> Drawn:
    old = drawn.operands
    return replace(
        drawn.with_(old.query.double(), old.key.double(), old.value.double()), grad_out=drawn.grad_out.double()
    )


@pytest.mark.parametrize("is_causal", [False, True])
@pytest.mark.parametrize("name", [*SHIPPED, "everything"])
def test_blocks_add_up_to_the_whole(name: str, is_causal: bool) -> None:
    case = Case(batch=2, kv_heads=2, group=2, n_q=23, n_k=23, d=16, d_v=8, is_causal=is_causal)
    drawn = draw(case, normalizer(name), "cpu")
    exact = reference_results(normalizer(name), widened(drawn), case.call, torch.float64)
    for scores in (23 * 2 * 5, 10**6):  # rows of 5, and all at once
        whole = all_heads(normalizer(name), drawn, is_causal, scores)
        head = one_head(normalizer(name), drawn, is_causal, scores)
        for key, found in whole.items():
            torch.testing.assert_close(found, exact[key], rtol=1e-11, atol=1e-13)
            torch.testing.assert_close(head[key], exact[key][:1, : head[key].shape[1]], rtol=1e-11, atol=1e-13)


def test_one_query_over_many_keys() -> None:
    case = Case(kv_heads=1, group=8, n_q=1, n_k=200)
    drawn = draw(case, normalizer("sigmoid"), "cpu")
    exact = reference_results(normalizer("sigmoid"), widened(drawn), case.call, torch.float64)
    torch.testing.assert_close(all_heads(normalizer("sigmoid"), drawn, False)["out"], exact["out"])


def test_a_causal_mask_needs_equal_lengths() -> None:
    drawn = draw(Case(n_q=3, n_k=5), normalizer("softmax"), "cpu")
    with pytest.raises(ValueError, match="3 queries and 5 keys"):
        all_heads(normalizer("softmax"), drawn, is_causal=True)
