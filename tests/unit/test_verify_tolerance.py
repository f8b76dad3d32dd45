"""What an op may err where everything cancels."""

import json
from typing import Any

import pytest
import torch
from torch import Tensor

from attngen.verify.run import replay
from tests.unit.verify_ops import normalizer, scores, weighted

CANCELS = "name: cancels\ninputs: {a: {shape: []}}\nweights: a * exp(s) / sum(exp(s)) - a / n"
TIES = {"property": "forward_and_gradients", "n_q": 3, "n_k": 23, "gain": 0.0}


@pytest.mark.parametrize(("factor", "verdict"), [(1.0, "passed"), (0.999, "failed")])
def test_a_gradient_that_cancels_is_excused_its_rounding_alone(factor: float, verdict: str) -> None:
    """Where all scores tie it is zero, and plain torch is exact. The op has weights by their logarithm, and rounds."""

    def op(q: Tensor, k: Tensor, v: Tensor, a: Tensor | float = 0.0, **call: Any) -> Tensor:
        s = scores(q, k, call.get("scale"))
        return weighted(a * torch.exp(s - s.logsumexp(-1, keepdim=True)) - factor * a / k.shape[2], v, q.dtype)

    assert replay(op, normalizer(CANCELS), json.dumps(TIES)).verdict == verdict
