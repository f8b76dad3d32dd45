"""Whole models: every attention in them is fused, and outputs and all gradients stay what they were."""

import torch
from torch import Tensor, nn
from torch._dynamo.utils import counters
from torch.utils.checkpoint import checkpoint

import attngen
from tests.dynamo.conftest import compiled_like_eager
from tests.dynamo.models import GPT, GPTBlock, LlamaAttention, ViT


def test_gpt() -> None:
    report = compiled_like_eager(GPT(), torch.randint(20, (2, 17)))
    assert len(report.replaced) == 2
    assert {entry.mask for entry in report.replaced} == {"window (-1, 0), upper_left"}


def test_gpt_recompiles_once_for_all_lengths() -> None:
    counters.clear()
    model = GPT()
    compiled = torch.compile(model, backend="attngen", options={"inner": "eager"})
    for length in (17, 20, 33, 41, 9):
        tokens = torch.randint(20, (2, length))
        torch.testing.assert_close(compiled(tokens), model(tokens), rtol=1e-5, atol=1e-5)
    assert counters["stats"]["unique_graphs"] <= 2


def test_gpt_of_dynamic_lengths() -> None:
    report = compiled_like_eager(GPT(), torch.randint(20, (2, 17)), inner="eager", dynamic=True)
    assert len(report.replaced) >= 2, report
    assert not report.skipped


def test_vit() -> None:
    assert len(compiled_like_eager(ViT(), torch.randn(2, 3, 16, 16)).replaced) == 1


def test_llama_attention() -> None:
    padding = torch.ones(2, 11, dtype=torch.long)
    padding[1, 8:] = 0
    report = compiled_like_eager(LlamaAttention(), torch.randn(2, 11, 32), padding)
    assert len(report.replaced) == 1, report


def test_transformer_encoder_in_training() -> None:
    layer = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, batch_first=True)
    report = compiled_like_eager(nn.TransformerEncoder(layer, 2), torch.randn(2, 6, 16))
    assert len(report.replaced) == 2, report


def test_transformer_encoder_in_eval_is_right() -> None:
    model = nn.TransformerEncoder(nn.TransformerEncoderLayer(16, 2, 32, batch_first=True), 1).eval()
    x = torch.randn(2, 6, 16)
    with torch.no_grad():
        compiled = torch.compile(model, backend="attngen", options={"inner": "eager"})
        torch.testing.assert_close(compiled(x), model(x), rtol=1e-5, atol=1e-5)


class Cross(nn.Module):
    def __init__(self, **options: bool) -> None:
        super().__init__()
        self.options = options
        self.attention = nn.MultiheadAttention(16, 2, batch_first=True, dropout=0.0)

    def forward(self, x: Tensor, y: Tensor, padding: Tensor) -> Tensor:
        return self.attention(x, y, y, key_padding_mask=padding, **self.options)[0]


def test_multihead_attention_with_padding() -> None:
    padding = torch.zeros(2, 6, dtype=torch.bool)
    padding[1, 4:] = True
    for options in ({}, {"need_weights": False}):
        report = compiled_like_eager(Cross(**options), torch.randn(2, 5, 16), torch.randn(2, 6, 16), padding)
        assert len(report.replaced) == 1, report


def test_multihead_attention_of_dynamic_sizes() -> None:
    """Its p = 0 is an input of torch.compile's first attempt, which is given up; the report is that of the last one."""
    padding = torch.zeros(2, 6, dtype=torch.bool)
    report = compiled_like_eager(
        Cross(), torch.randn(2, 5, 16), torch.randn(2, 6, 16), padding, inner="eager", dynamic=True
    )
    assert [len(report.replaced), len(report.skipped)] == [1, 0], report


def test_a_graph_break_is_told() -> None:
    def model(x: Tensor) -> Tensor:
        torch._dynamo.graph_break()
        return x

    (entry,) = attngen.explain_compile(model, torch.randn(2)).skipped
    assert "graph break" in entry.why


def test_multihead_attention_whose_weights_are_used() -> None:
    module = nn.MultiheadAttention(16, 2, batch_first=True, dropout=0.0)

    def both(x: Tensor) -> Tensor:
        output, weights = module(x, x, x)
        return output + weights.sum()

    assert not compiled_like_eager(both, torch.randn(2, 6, 16)).replaced


def test_inside_a_checkpoint() -> None:
    block = GPTBlock()

    def checkpointed(x: Tensor) -> Tensor:
        output: Tensor = checkpoint(block, x, use_reentrant=False)
        return output

    assert len(compiled_like_eager(checkpointed, torch.randn(2, 10, 32)).replaced) == 1
