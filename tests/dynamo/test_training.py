"""Training curves: 50 steps of a compiled model go where those of the eager one go."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attngen.dynamo.backend import compile_reporting
from attngen.dynamo.report import CompileReport
from tests.dynamo.models import GPT, ViT
from tests.dynamo.tiny import llama

STEPS, TASK = 50, 20


class Encoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, batch_first=True)
        self.tokens, self.encoder, self.head = (
            nn.Embedding(TASK, 16),
            nn.TransformerEncoder(layer, 2),
            nn.Linear(16, 10),
        )

    def forward(self, tokens: Tensor) -> Tensor:
        output: Tensor = self.head(self.encoder(self.tokens(tokens)).mean(1))
        return output


class Llama(nn.Module):
    """Logits alone, of padded sequences."""

    def __init__(self) -> None:
        super().__init__()
        self.model = llama()

    def forward(self, tokens: Tensor) -> Tensor:
        logits: Tensor = self.model(tokens, attention_mask=(tokens > 0).long(), use_cache=False).logits
        return logits


def sequences(random: torch.Generator) -> tuple[Tensor, Tensor]:
    """Every token is the one before it plus a step that the first two give."""
    start, step = (torch.randint(1, 4, (8, 1), generator=random) for _ in range(2))
    tokens = (start + step * torch.arange(10)) % (TASK - 1) + 1
    return tokens[:, :-1], tokens[:, 1:]


def labels(random: torch.Generator) -> tuple[Tensor, Tensor]:
    tokens, _ = sequences(random)
    return tokens, tokens[:, 0]


def images(random: torch.Generator) -> tuple[Tensor, Tensor]:
    wanted = torch.randint(10, (8,), generator=random)
    pictures = torch.randn(8, 3, 16, 16, generator=random)
    return pictures + wanted[:, None, None, None] - 5.0, wanted


def curve(run: Any, parameters: Any, draw: Callable[[torch.Generator], tuple[Tensor, Tensor]]) -> Tensor:
    optimizer, random, losses = torch.optim.SGD(parameters, 0.03, momentum=0.9), torch.Generator().manual_seed(7), []
    for _ in range(STEPS):
        given, wanted = draw(random)
        loss = F.cross_entropy(run(given).flatten(0, -2), wanted.flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
    return torch.stack(losses)


@pytest.mark.parametrize(
    ("make", "draw", "fused"),
    [(GPT, sequences, 2), (ViT, images, 1), (Encoder, labels, 2), (Llama, sequences, 2)],
)
def test_training(make: Callable[[], nn.Module], draw: Any, fused: int) -> None:
    curves, report = [], CompileReport()
    for compiled in (False, True):
        torch.manual_seed(0)
        model = make()
        run = torch.compile(model, backend=partial(compile_reporting, report, inner="aot_eager")) if compiled else model
        curves.append(curve(run, model.parameters(), draw))
    assert len(report.replaced) == fused, report
    eager, ours = curves
    torch.testing.assert_close(ours, eager, rtol=1e-3, atol=1e-3)
    assert eager[-5:].mean() < 0.95 * eager[:5].mean(), "it learns something"
