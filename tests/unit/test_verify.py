"""Verification passes an op that is right, and names the property that a broken one breaks."""

import json
import re
from collections.abc import Callable
from dataclasses import replace
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from attngen.verify.case import Case, case_of
from attngen.verify.report import PropertyReport, Report, render
from attngen.verify.run import Settings, property_names, replay, verify
from attngen.verify.subject import Op
from tests.unit.verify_ops import (
    SIGMOID,
    SOFTMAX,
    SoftmaxOp,
    module,
    normalizer,
    scores,
    seen,
    sigmoid,
    softmax_weights,
    weighted,
)

FORMULA = normalizer(SOFTMAX)


def examined(op: Op | ModuleType, name: str, text: str = SOFTMAX, examples: int = 60) -> PropertyReport:
    (report,) = verify(op, normalizer(text), Settings(examples=examples, only=(name,))).properties
    return report


def test_a_right_op_passes_everything() -> None:
    report = verify(module(SoftmaxOp()), FORMULA, Settings(examples=25))
    assert [prop.name for prop in report.properties if prop.verdict != "passed"] == []
    assert report.passed
    assert {prop.examples for prop in report.properties} == {25}
    assert "14 passed, 0 failed, 0 skipped" in render(report)


def test_a_right_op_with_an_input_passes_everything() -> None:
    report = verify(sigmoid, normalizer(SIGMOID), Settings(examples=25))
    assert {prop.name: prop.verdict for prop in report.properties if prop.verdict != "passed"} == {
        "invariant_to_blocks": "skipped"
    }


def inclusive_window(n_q: int, n_k: int, is_causal: bool, window: Any, alignment: str) -> Tensor:
    """Off by one on the right of a window."""
    wider = window if window is None or isinstance(window, int) or window[1] < 0 else (window[0], window[1] + 1)
    return seen(n_q, n_k, is_causal, wider, alignment)


def late_diagonal(n_q: int, n_k: int, is_causal: bool, window: Any, alignment: str) -> Tensor:
    """A causal row sees the key behind it."""
    return seen(n_q, n_k, False, (-1, 1), alignment) if is_causal else seen(n_q, n_k, is_causal, window, alignment)


def first_512_keys(n_q: int, n_k: int, *arguments: Any) -> Tensor:
    return seen(n_q, n_k, *arguments) & (torch.arange(n_k) < 512)


def unstable(s: Tensor, mask: Tensor) -> Tensor:
    """Right for scores below 88, and not only for small ones."""
    e = torch.exp(s) * mask
    total = e.sum(-1, keepdim=True)
    return e / torch.where(total == 0, 1.0, total)


def nan_in_empty_rows(s: Tensor, mask: Tensor) -> Tensor:
    return torch.softmax(s.masked_fill(~mask, -torch.inf), -1)


def uniform_in_empty_rows(s: Tensor, mask: Tensor) -> Tensor:
    return torch.softmax(s.masked_fill(~mask, -1e30), -1)


def leaky(s: Tensor, mask: Tensor) -> Tensor:
    """A finite mask value that is too near."""
    return torch.softmax(s.masked_fill(~mask, 0.0) + torch.where(mask, 0.0, -15.0) + 1e-3 * s * ~mask, -1)


def slightly_more(s: Tensor, mask: Tensor) -> Tensor:
    return softmax_weights(s, mask) * (1 + 1e-5)


def mixed_heads(s: Tensor, mask: Tensor) -> Tensor:
    """A maximum that is shared by all heads and batches, of which a small part is left over."""
    return softmax_weights(s, mask) * (1 + 1e-7 * s.amax().abs())


def later_keys_count_less(s: Tensor, mask: Tensor) -> Tensor:
    return softmax_weights(s - 1e-3 * torch.arange(s.shape[-1]), mask)


def noisy(out: Tensor) -> Tensor:
    return out + 1e-6 * torch.rand_like(out)


class WrongGradient(torch.autograd.Function):
    """The identity with a gradient that is 1 % too large."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return grad * 1.01


class NoisyGradient(WrongGradient):
    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return grad * (1 + 1e-6 * torch.rand_like(grad))


class LooksContiguous(torch.autograd.Function):
    """What a kernel does that forgets the strides: it reads the memory in order."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return (
            torch.as_strided(x, x.shape, x.new_empty(x.shape).stride(), x.storage_offset()) if enough(x) else x.clone()
        )

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return grad


def enough(x: Tensor) -> bool:
    return x.untyped_storage().nbytes() // x.element_size() - x.storage_offset() >= x.numel()


BROKEN: dict[str, tuple[str, Op]] = {
    "weights": ("forward_and_gradients", SoftmaxOp(weights=slightly_more)),
    "scale": ("forward_and_gradients", lambda q, k, v, scale=None, **rest: SoftmaxOp()(q, k, v, scale=0.25, **rest)),
    "window": ("forward_and_gradients", SoftmaxOp(mask=inclusive_window)),
    "alignment": ("forward_and_gradients", lambda q, k, v, alignment="", **rest: SoftmaxOp()(q, k, v, **rest)),
    "gradient": ("forward_and_gradients", SoftmaxOp(start=WrongGradient.apply)),
    "no gradient": ("forward_and_gradients", SoftmaxOp(start=torch.detach)),
    "group order": ("forward_and_gradients", lambda q, k, v, **rest: SoftmaxOp()(q, k.flip(1), v.flip(1), **rest)),
    "dtype": ("forward_and_gradients", SoftmaxOp(finish=torch.Tensor.float)),
    "shape": ("forward_and_gradients", SoftmaxOp(finish=lambda out: out.mT)),
    "leaky mask": ("hidden_keys", SoftmaxOp(weights=leaky)),
    "late diagonal": ("causality", SoftmaxOp(mask=late_diagonal)),
    "end of a long row": ("many_keys", SoftmaxOp(mask=first_512_keys)),
    "key order": ("key_order", SoftmaxOp(weights=later_keys_count_less)),
    "NaN in empty rows": ("empty_rows", SoftmaxOp(weights=nan_in_empty_rows)),
    "values in empty rows": ("empty_rows", SoftmaxOp(weights=uniform_in_empty_rows)),
    "overflow": ("extreme_scores", SoftmaxOp(weights=unstable)),
    "noise": ("determinism", SoftmaxOp(finish=noisy)),
    "noise in the gradient": ("determinism", SoftmaxOp(start=NoisyGradient.apply)),
    "heads that mix": ("independence", SoftmaxOp(weights=mixed_heads)),
    "strides": ("strides", SoftmaxOp(start=LooksContiguous.apply)),
    "sum": ("rows_sum_to", SoftmaxOp(weights=slightly_more)),
    "shift": ("shift_invariant", SoftmaxOp(weights=lambda s, mask: softmax_weights(s * (1 - 1e-4 * s), mask))),
    "sign": ("nonnegative", SoftmaxOp(weights=lambda s, mask: softmax_weights(s, mask) * torch.where(s < -1, -1, 1))),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_op_breaks_its_property(name: str) -> None:
    prop, op = BROKEN[name]
    report = examined(op, prop)
    assert report.verdict == "failed"
    assert report.failure is not None
    assert report.failure.message


def test_strides_alone_are_blamed_for_strides() -> None:
    assert examined(BROKEN["strides"][1], "forward_and_gradients").verdict == "passed"


def test_an_op_that_depends_on_its_blocks() -> None:
    def op(*args: Any, **kwargs: Any) -> Tensor:
        out = SoftmaxOp()(*args, **kwargs)
        return out * 1.01 if "forward" in made.OVERRIDES and out.shape[2] > made.OVERRIDES["forward"].block_m else out

    made = module(op)
    assert examined(made, "forward_and_gradients").verdict == "passed"
    report = examined(made, "invariant_to_blocks")
    assert report.failure is not None
    assert "with tiles of 16 rows" in report.failure.message
    assert report.failure.case.n_q == 17
    assert made.OVERRIDES == {}


def test_an_op_without_a_module_has_no_blocks() -> None:
    assert examined(SoftmaxOp(), "invariant_to_blocks").reason == "the op is not a generated module's"


def test_key_order_is_not_asked_of_formulas_that_use_it() -> None:
    text = "name: alibi\nscore: scale * qk - abs(i - j)\nweights: exp(s) / sum(exp(s))"
    assert examined(SoftmaxOp(), "key_order", text).reason == "the formula depends on the key's position j"


@pytest.mark.parametrize(
    ("claim", "weights", "said"),
    [
        ("rows_sum_to: 1", "exp(s) / (1 + sum(exp(s)))", "breaks the claim rows_sum_to: 1"),
        ("shift_invariant: true", "exp(s) / (1 + sum(exp(s)))", "breaks the claim shift_invariant"),
        ("nonnegative: true", "s / n", "breaks the claim nonnegative"),
        ("sparse: true", "exp(s)", "breaks the claim sparse"),
    ],
)
def test_a_claim_that_the_formula_breaks(claim: str, weights: str, said: str) -> None:
    text = f"name: softmax\nweights: {weights}\nclaims: {{{claim}}}"
    (report,) = verify(SoftmaxOp(), normalizer(text), Settings(only=(claim.split(":")[0],))).properties
    assert report.failure is not None
    assert said in report.failure.message


def relu_op(floor: float) -> Callable[..., Tensor]:
    def op(q: Tensor, k: Tensor, v: Tensor, **call: Any) -> Tensor:
        weights = (torch.relu(scores(q, k, call.pop("scale", None))) + floor) * seen(
            q.shape[2], k.shape[2], **{"is_causal": False, "window": None, "alignment": "upper_left"} | call
        )
        return weighted(weights, v, q.dtype)

    return op


@pytest.mark.parametrize(("floor", "verdict"), [(0.0, "passed"), (1e-9, "failed")])
def test_sparse_weights_are_exactly_zero(floor: float, verdict: str) -> None:
    text = "name: relu\nweights: relu(s)\nclaims: {sparse: true, nonnegative: true}"
    assert examined(relu_op(floor), "sparse", text).verdict == verdict


def test_an_op_that_raises_is_reported() -> None:
    report = examined(lambda q, k, v: SoftmaxOp()(q, k, v), "forward_and_gradients")
    assert report.failure is not None
    assert "the op raised TypeError" in report.failure.message


def test_a_mistake_in_the_backward_is_reported() -> None:
    class Raises(WrongGradient):
        @staticmethod
        def backward(ctx: Any, grad: Tensor) -> Tensor:
            raise NotImplementedError("later")

    report = examined(SoftmaxOp(start=Raises.apply), "forward_and_gradients")
    assert report.failure is not None
    assert "backward raised NotImplementedError: later" in report.failure.message


def test_cases_without_a_finite_meaning_are_counted() -> None:
    report = examined(relu_op(0.0), "forward_and_gradients", "name: odd\nweights: log(-1 - s ** 2)")
    assert (report.verdict, report.examples) == ("skipped", 0)
    assert "has a finite float64 result" in report.reason


def test_the_smallest_case_is_small() -> None:
    report = examined(SoftmaxOp(mask=late_diagonal), "causality")
    assert report.failure is not None
    case = report.failure.case
    assert (case.batch, case.heads, case.n_q, case.n_k, case.d, case.dtype) == (1, 1, 1, 2, 16, "float32")


@pytest.mark.parametrize("name", ["weights", "window", "overflow", "values in empty rows"])
def test_a_failure_replays(name: str) -> None:
    prop, op = BROKEN[name]
    report = verify(op, FORMULA, Settings(examples=60, only=(prop,)))
    text = re.search(r"attngen verify specs/softmax.yaml --replay '(.*)'", render(report, "specs/softmax.yaml"))
    assert text is not None
    again = replay(op, FORMULA, text[1])
    assert again.failure == report.properties[0].failure
    assert replay(SoftmaxOp(), FORMULA, text[1]).verdict == "passed"


def test_equal_settings_give_equal_reports() -> None:
    def without_time(report: Report) -> Report:
        return replace(report, properties=tuple(replace(prop, seconds=0.0) for prop in report.properties))

    settings = Settings(examples=10, seed=7, only=("forward_and_gradients", "causality"))
    first, second = (without_time(verify(SoftmaxOp(weights=slightly_more), FORMULA, settings)) for _ in range(2))
    assert first == second
    assert not first.passed


def test_progress_is_told() -> None:
    told: list[tuple[str, int]] = []
    verify(SoftmaxOp(), FORMULA, Settings(examples=5, only=("determinism",)), lambda *step: told.append(step))
    assert told == [("determinism", done) for done in range(1, 6)]


def test_small_sizes_are_small() -> None:
    shapes: list[tuple[int, ...]] = []

    def op(q: Tensor, k: Tensor, v: Tensor, **call: Any) -> Tensor:
        shapes.append((q.shape[0] * q.shape[1], q.shape[2], k.shape[2], q.shape[3], v.shape[3]))
        return SoftmaxOp()(q, k, v, **call)

    verify(op, FORMULA, Settings(examples=60, sizes="small", only=("forward_and_gradients",)))
    largest = [max(sizes) for sizes in zip(*shapes, strict=True)]
    assert largest[0] <= 2
    assert max(largest[1:3]) <= 40
    assert max(largest[3:]) <= 32


def test_a_failure_reads_well() -> None:
    report = render(verify(BROKEN["gradient"][1], FORMULA, Settings(only=("forward_and_gradients",))), "mine.yaml")
    assert "  failed   forward_and_gradients" in report
    assert "FAILED forward_and_gradients: output and gradients agree with the float64 formula" in report
    assert re.search(r"grad query\[\d+, \d+, \d+, \d+\] is \S+, should be \S+: the error is \S+, \S+ times", report)
    assert re.search(r"    query +\(1, 1, \d+, 16\)\n    key +\(1, 1, \d+, 16\)\n    value +\(1, 1, \d+, 16\)", report)
    assert "0 passed, 1 failed, 0 skipped" in report


CASE = Case(
    batch=2, group=4, n_q=17, n_k=33, dtype="bfloat16", window=(3, -1), scale=0.5, forms=(("bias", "single"),), seed=9
)


def test_a_case_survives_json() -> None:
    assert case_of(json.loads(CASE.to_json())) == CASE
    assert Case().to_json() == "{}"
    assert CASE.to_json().startswith('{"batch":2,"group":4,"n_q":17')


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[1]", "a case is a JSON object"),
        ('{"rows": 3}', "a case has no field 'rows'"),
        ('{"n_q": 0}', "field 'n_q' can't be 0"),
        ('{"n_q": true}', "field 'n_q' can't be True"),
        ('{"dtype": "float8"}', "field 'dtype' can't be 'float8'"),
        ('{"window": [1]}', "field 'window' can't be"),
        ('{"window": 0.5}', "field 'window' can't be"),
        ('{"forms": {"bias": "huge"}}', "field 'forms' can't be"),
        ('{"scale": "x"}', "field 'scale' can't be 'x'"),
        ('{"seed": -1}', "field 'seed' can't be -1"),
    ],
)
def test_a_wrong_case_is_refused(text: str, said: str) -> None:
    with pytest.raises(ValueError, match=re.escape(said)):
        case_of(json.loads(text))


@pytest.mark.parametrize(("text", "said"), [("{}", '"property"'), ('{"property": "speed"}', "no property 'speed'")])
def test_a_wrong_replay_is_refused(text: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        replay(SoftmaxOp(), FORMULA, text)


def test_unknown_properties_are_refused() -> None:
    with pytest.raises(ValueError, match="its properties are forward_and_gradients, many_keys, invariant"):
        verify(SoftmaxOp(), FORMULA, Settings(only=("speed",)))


def test_the_names_of_the_properties() -> None:
    assert property_names(normalizer(SIGMOID))[-1] == "independence"
    assert property_names(FORMULA)[-3:] == ("rows_sum_to", "shift_invariant", "nonnegative")
    assert json.loads(json.dumps(property_names(FORMULA)))


UNIT = "name: softmax\nweights: exp(s)\noutput: o / sqrt(csum(o ** 2))\nclaims: {shift_invariant: true}"
SUMMED = "name: softmax\nweights: exp(s) / sum(exp(s))\noutput: csum(o) / 100 - o / 1000"


def unit_rows(out: Tensor) -> Tensor:
    norm = out.float().norm(dim=-1, keepdim=True)
    return (out.float() / torch.where(norm == 0, 1.0, norm)).to(out.dtype)


def summed_rows(out: Tensor) -> Tensor:
    return (out.float().sum(-1, keepdim=True) / 100 - out.float() / 1000).to(out.dtype)


@pytest.mark.parametrize(("text", "finish"), [(UNIT, unit_rows), (SUMMED, summed_rows)], ids=["unit", "summed"])
def test_a_right_op_with_an_output_passes_everything(text: str, finish: Callable[[Tensor], Tensor]) -> None:
    report = verify(module(SoftmaxOp(finish=finish)), normalizer(text), Settings(examples=10))
    assert [(p.name, p.verdict) for p in report.properties if p.verdict != "passed"] == []


def without_a_gradient(out: Tensor) -> Tensor:
    """The norm counts as a constant."""
    norm = out.detach().float().norm(dim=-1, keepdim=True)
    return (out.float() / torch.where(norm == 0, 1.0, norm)).to(out.dtype)


@pytest.mark.parametrize(
    "finish", [lambda out: out, lambda out: unit_rows(out) * 1.02, lambda out: unit_rows(out).abs(), without_a_gradient]
)
def test_a_wrong_output_is_seen(finish: Callable[[Tensor], Tensor]) -> None:
    assert examined(SoftmaxOp(finish=finish), "forward_and_gradients", UNIT).verdict == "failed"
