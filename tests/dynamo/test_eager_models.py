"""Models of transformers with random weights and eager attention: fused, and what they were otherwise."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor
from torch._dynamo.utils import counters

from attngen.dynamo.backend import compile_reporting
from attngen.dynamo.fuse import fuse
from attngen.dynamo.report import CompileReport
from tests.dynamo.tiny import MODELS, llama

CAUSAL, WINDOW = "window (-1, 0), upper_left", "window (5, 0), upper_left"


@dataclass
class Pair:
    """A model and the same model compiled."""

    model: Any
    report: CompileReport = field(default_factory=CompileReport)

    def __post_init__(self) -> None:
        backend = partial(compile_reporting, self.report, inner="aot_eager")
        self.compiled = torch.compile(self.model, backend=backend)

    def fused(self, since: int = 0) -> list[tuple[str, str]]:
        """Formula and mask of all that was fused."""
        assert not self.report.skipped, self.report
        return [(entry.spec_text.split("weights: ")[1].strip(), entry.mask) for entry in self.report.replaced[since:]]


FORMULAS = {
    "llama": "exp(s) / sum(exp(s))",
    "gemma2": "exp(tanh(s / 2) * 2) / sum(exp(tanh(s / 2) * 2))",
    "gpt_oss": "exp(s) / (sum(exp(s)) + exp(x0))",
}


@pytest.fixture(autouse=True)
def fresh() -> None:
    """The compiled models of this file are kept from test to test."""
    torch.manual_seed(0)


@pytest.fixture(scope="module", params=MODELS)
def pair(request: pytest.FixtureRequest) -> Iterator[tuple[str, Pair]]:
    torch._dynamo.reset()
    torch.manual_seed(0)
    yield request.param, Pair(MODELS[request.param]())
    torch._dynamo.reset()


def results(model: Any, parameters: list[Tensor], **inputs: Tensor) -> list[Tensor]:
    logits = model(**inputs, use_cache=False).logits
    cotangent = torch.linspace(-1, 2, logits.numel()).reshape(logits.shape)
    gradients = torch.autograd.grad((logits * cotangent).sum(), parameters, allow_unused=True, materialize_grads=True)
    return [logits.detach(), *gradients]


def assert_same(pair: Pair, **inputs: Tensor) -> None:
    parameters = list(pair.model.parameters())
    got, wanted = (results(model, parameters, **inputs) for model in (pair.compiled, pair.model))
    for one, other in zip(got, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=2e-5 * max(float(other.abs().max()), 1e-3))


def test_outputs_and_gradients(pair: tuple[str, Pair]) -> None:
    name, both = pair
    assert_same(both, input_ids=torch.randint(32, (2, 11)))
    masks = [CAUSAL, CAUSAL] if name == "llama" else [WINDOW, CAUSAL]
    assert both.fused() == [(FORMULAS[name], mask) for mask in masks]


def test_padding(pair: tuple[str, Pair]) -> None:
    """Rows of padding on the left see only hidden keys; they are as in eager mode too, gradients included."""
    _, both = pair
    before = len(both.report.replaced)
    seen = torch.ones(2, 11, dtype=torch.long)
    seen[0, :4] = 0
    assert_same(both, input_ids=torch.randint(32, (2, 11)), attention_mask=seen)
    specs = [entry.spec_text for entry in both.report.replaced[before:]]
    assert len(specs) == 2
    assert all("x0: {shape: [batch, key], grad: false}" in spec for spec in specs), "not a mask of all pairs"


def decoded(model: Any, config: Any, prompt: Tensor, steps: int) -> Tensor:
    cache = transformers.DynamicCache(config=config)
    with torch.no_grad():
        logits = [model(prompt, past_key_values=cache, use_cache=True).logits[:, -1]]
        for step in range(steps):
            token = torch.full((2, 1), step + 3)
            logits.append(model(token, past_key_values=cache, use_cache=True).logits[:, -1])
    return torch.stack(logits)


def test_prefill_and_cached_decoding(pair: tuple[str, Pair]) -> None:
    name, both = pair
    counters.clear()
    before, prompt = len(both.report.replaced), torch.randint(32, (2, 9))
    got = decoded(both.compiled, both.model.config, prompt, 8)
    torch.testing.assert_close(got, decoded(both.model, both.model.config, prompt, 8), rtol=1e-5, atol=1e-5)
    assert {formula for formula, _ in both.fused(before)} == {FORMULAS[name]}, "decoding reads no mask"
    assert counters["stats"]["unique_graphs"] <= 4


def test_repeated_keys_are_not_made() -> None:
    """The op gets two key heads for four query heads, as the projections give them."""
    graphs = []

    def backend(module: torch.fx.GraphModule, _: Any) -> Any:
        fuse(module, CompileReport())
        graphs.append(module.graph)
        return module.forward

    torch._dynamo.reset()
    torch.compile(llama(), backend=backend)(torch.randint(32, (2, 7)), use_cache=False)
    calls = [node for node in graphs[0].nodes if "lifted" in str(node.target)]
    assert len(calls) == 2
    for call in calls:
        for operand in call.args[:3]:
            assert not any("expand" in str(n.target) or "repeat" in str(n.target) for n in _views_above(operand))


def _views_above(node: torch.fx.Node) -> Iterator[torch.fx.Node]:
    while node.op in ("call_method", "call_function") and "linear" not in str(node.target):
        yield node
        node = node.all_input_nodes[0]


def test_generate() -> None:
    torch._dynamo.reset()
    both = Pair(llama().eval())
    prompt = torch.randint(1, 32, (2, 6))
    seen = torch.ones_like(prompt)
    seen[0, :2] = 0
    options = {"attention_mask": seen, "max_new_tokens": 8, "do_sample": False}
    wanted = both.model.generate(prompt, **options)
    plain = both.model.forward
    both.model.forward = torch.compile(plain, backend=partial(compile_reporting, both.report, inner="aot_eager"))
    try:
        assert torch.equal(both.model.generate(prompt, **options), wanted)
    finally:
        both.model.forward = plain
    assert both.fused()
