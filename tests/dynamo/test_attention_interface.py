"""`attn_implementation="attngen:..."`: models of transformers with generated ops in the place of their attention."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import sdpa_mask

import attngen.transformers
from tests.dynamo.tiny import MODELS, gemma2, gpt_oss, llama

TOKENS = torch.randint(1, 32, (2, 11), generator=torch.Generator().manual_seed(0))
LEFT = torch.ones(2, 11, dtype=torch.long)
LEFT[0, :4] = 0
RIGHT = LEFT.flip(1)


def sigmoid_by_hand(module: Any, query: Tensor, key: Tensor, value: Tensor, mask: Any, **given: Any) -> Any:
    key, value = (x.repeat_interleave(module.num_key_value_groups, dim=1) for x in (key, value))
    weights = torch.sigmoid(query @ key.mT * given["scaling"] - torch.log(torch.tensor(float(key.shape[2]))))
    return (torch.where(mask, weights, 0) @ value).transpose(1, 2).contiguous(), None


def sdpa_mask_always(**asked: Any) -> Any:
    return sdpa_mask(**{**asked, "allow_is_causal_skip": False})


@pytest.fixture(autouse=True, scope="module")
def by_hand() -> Iterator[None]:
    AttentionInterface.register("sigmoid_by_hand", sigmoid_by_hand)
    AttentionMaskInterface.register("sigmoid_by_hand", sdpa_mask_always)
    yield
    for interface in (AttentionInterface, AttentionMaskInterface):
        del interface._global_mapping["sigmoid_by_hand"]


def pair(one: str, other: str, model: str = "llama") -> tuple[Any, Any]:
    torch.manual_seed(0)
    first, second = MODELS[model](one), MODELS[model](other)
    second.load_state_dict(first.state_dict())
    return first, second


def assert_same(first: Any, second: Any, rows: Tensor | None = None, **inputs: Tensor) -> None:
    """Logits of the rows, and all gradients of a loss on them."""
    found = []
    for model in (first, second):
        logits = model(TOKENS, use_cache=False, **inputs).logits
        logits = logits if rows is None else logits[rows.bool()]
        loss = (logits * torch.linspace(-1, 2, logits.numel()).reshape(logits.shape)).sum()
        gradients = torch.autograd.grad(loss, list(model.parameters()), allow_unused=True, materialize_grads=True)
        found.append([logits, *gradients])
    for got, wanted in zip(*found, strict=True):
        torch.testing.assert_close(got, wanted, rtol=0, atol=2e-5 * max(float(wanted.abs().max()), 1e-3))


@pytest.mark.parametrize(("model", "spec"), [("llama", "softmax"), ("gemma2", "softcap"), ("gpt_oss", "sink")])
def test_as_the_model_itself(model: str, spec: str) -> None:
    """Grouped queries, windows, the model's own cap and sinks; rows of padding see nothing, and are left out."""
    ours, eager = pair(f"attngen:{spec}", "eager", model)
    assert_same(ours, eager)
    assert_same(ours, eager, LEFT, attention_mask=LEFT)


@pytest.mark.parametrize("padding", [None, LEFT, RIGHT])
def test_as_a_function_by_hand(padding: Tensor | None) -> None:
    ours, by_hand = pair("attngen:sigmoid", "sigmoid_by_hand")
    assert_same(ours, by_hand, **({} if padding is None else {"attention_mask": padding}))


@pytest.mark.parametrize("spec", ["entmax15", "exp_norm"])
def test_padding_as_without_it(spec: str) -> None:
    """A root and a step behind the weighted sum, on keys that are seen alone."""
    torch.manual_seed(0)
    model = llama(f"attngen:{spec}")
    places = (LEFT[:1].cumsum(-1) - 1).clamp(min=0)
    padded = model(TOKENS[:1], attention_mask=LEFT[:1], position_ids=places).logits[:, 4:]
    torch.testing.assert_close(padded, model(TOKENS[:1, 4:]).logits, rtol=1e-4, atol=1e-5)


def test_a_mask_of_all_pairs() -> None:
    ours, by_hand = pair("attngen:sigmoid", "sigmoid_by_hand")
    mask = torch.rand(2, 1, 11, 11, generator=torch.Generator().manual_seed(1)) > 0.4
    assert_same(ours, by_hand, attention_mask=mask)


@pytest.mark.parametrize("name", ["softplus_l1", "softpick", "exp_norm", "entmax15"])
def test_rows_of_padding_are_finite(name: str) -> None:
    torch.manual_seed(0)
    model = llama(f"attngen:{name}")
    loss = model(TOKENS, attention_mask=LEFT, labels=TOKENS).loss
    loss.backward()
    assert all(bool(p.grad.isfinite().all()) for p in model.parameters() if p.grad is not None)


@pytest.mark.parametrize("padding", [None, LEFT[:, 4:9]])
def test_generate(padding: Tensor | None) -> None:
    ours, eager = pair("attngen:softmax", "eager")
    options = {"max_new_tokens": 8, "do_sample": False, "attention_mask": padding}
    assert torch.equal(ours.eval().generate(TOKENS[:, :5], **options), eager.eval().generate(TOKENS[:, :5], **options))


def test_training_and_compiling() -> None:
    """A few steps, compiled and not, take the same course."""
    losses = []
    for compiled in (False, True):
        torch.manual_seed(0)
        model = llama("attngen:sigmoid")
        run = torch.compile(model, backend="aot_eager", fullgraph=True) if compiled else model
        optimizer = torch.optim.AdamW(model.parameters(), 1e-2)
        for _ in range(5):
            loss = run(TOKENS, attention_mask=RIGHT, labels=TOKENS, use_cache=False).loss
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(float(loss))
    assert losses[4] < losses[0] - 0.1
    torch.testing.assert_close(losses[:5], losses[5:], rtol=1e-4, atol=1e-5)


def test_a_spec_of_ones_own(tmp_path: Path) -> None:
    """Inputs of the spec are looked for among the attributes of the attention module."""
    path = tmp_path / "gated.yaml"
    path.write_text("name: gated\ninputs:\n  gate: {shape: [head]}\nweights: sigmoid(s + gate)\n")
    name = attngen.transformers.register(path)
    assert name == "attngen:gated"
    torch.manual_seed(0)
    model = llama(name)
    with pytest.raises(ValueError, match=r"'gated' needs gate \(head\), .*LlamaAttention.gate = nn.Parameter"):
        model(TOKENS)
    for layer in model.model.layers:
        layer.self_attn.gate = nn.Parameter(torch.zeros(4))
    model(TOKENS, labels=TOKENS).loss.backward()
    assert all(bool(layer.self_attn.gate.grad.any()) for layer in model.model.layers)


def test_what_the_op_does_not_know_is_refused() -> None:
    for model in (gemma2, gpt_oss):
        with pytest.raises(ValueError, match="has no input for"):
            model("attngen:softmax")(TOKENS)
    with pytest.raises(ValueError, match="dropout"):
        llama("attngen:softmax", attention_dropout=0.1).train()(TOKENS)
    with pytest.raises(ValueError, match="true and false"):
        llama("attngen:softmax")(TOKENS, attention_mask=torch.zeros(2, 1, 11, 11))
