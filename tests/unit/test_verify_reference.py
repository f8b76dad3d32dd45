"""The oracle against torch's own attention, against formulas written by hand, and against finite differences."""

import itertools
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from attngen.verify.reference import Call, Manner, Operands, attention, visible, weights
from tests.unit.verify_ops import SIGMOID, SOFTMAX, normalizer

F64 = torch.float64


def tensors(n_q: int = 5, n_k: int = 7, heads: int = 4, kv_heads: int = 2) -> Operands:
    generator = torch.Generator().manual_seed(3)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=F64)

    return Operands(normal(2, heads, n_q, 16), normal(2, kv_heads, n_k, 16), normal(2, kv_heads, n_k, 8))


def scores(operands: Operands) -> Tensor:
    group = operands.query.shape[1] // operands.key.shape[1]
    return operands.query @ operands.key.repeat_interleave(group, 1).mT / 4


def spec(weights_formula: str, rest: str = "") -> str:
    return f"name: tried\n{rest}weights: {weights_formula}"


@pytest.mark.parametrize("is_causal", [False, True])
@pytest.mark.parametrize("scale", [None, 0.3])
def test_softmax_is_torchs_attention(is_causal: bool, scale: float | None) -> None:
    operands = tensors()
    ours = attention(normalizer(SOFTMAX), operands, Call(is_causal, scale), F64)
    query, key, value = operands.query, operands.key, operands.value
    torchs = torch.nn.functional.scaled_dot_product_attention(
        query, key, value, is_causal=is_causal, scale=scale, enable_gqa=True
    )
    torch.testing.assert_close(ours, torchs)


@pytest.mark.parametrize(
    ("formula", "written"),
    [
        ("softplus(s) / sum(softplus(s))", lambda s: (s.exp() + 1).log() / (s.exp() + 1).log().sum(-1, keepdim=True)),
        ("relu(s) ** 2 / n", lambda s: s.clamp(min=0) ** 2 / s.shape[-1]),
        ("where(s > 0 and i < 2, s * j, -1)", lambda s: torch.where((s > 0) & (ROWS < 2), s * KEYS, -1.0)),
        ("(s - mean(s)) / amax(abs(s))", lambda s: (s - s.mean(-1, keepdim=True)) / s.abs().amax(-1, keepdim=True)),
        ("clip(s, -0.5, 0.5) + amin(s) * count()", lambda s: s.clamp(-0.5, 0.5) + s.amin(-1, keepdim=True) * 7),
        ("silu(s) / n_k + erf(s) * d + n_q * pi", lambda s: s * s.sigmoid() / 7 + s.erf() * 16 + 5 * torch.pi),
        ("sigmoid(s) * rsqrt(sum(sigmoid(s) ** 2))", lambda s: torch.nn.functional.normalize(s.sigmoid(), dim=-1)),
    ],
)
def test_formulas_written_by_hand(formula: str, written: "object") -> None:
    operands = tensors()
    expected = written(scores(operands))  # type: ignore[operator]
    torch.testing.assert_close(weights(normalizer(spec(formula)), operands, Call(), F64), expected)


ROWS = torch.arange(5)[:, None]
KEYS = torch.arange(7)


def test_score_modification() -> None:
    text = spec("exp(s) / sum(exp(s))", "score: 5 * tanh(scale * qk / 5) - abs(i - j)\n")
    operands = tensors()
    expected = (5 * torch.tanh(scores(operands) / 5) - (ROWS - KEYS).abs()).softmax(-1)
    torch.testing.assert_close(weights(normalizer(text), operands, Call(), F64), expected)


@pytest.mark.parametrize(
    ("axes", "shape", "broadcast"),
    [
        ("[]", (), (1, 1, 1, 1)),
        ("[head]", (4,), (1, 4, 1, 1)),
        ("[batch, query]", (2, 5), (2, 1, 5, 1)),
        ("[head, query, key]", (4, 5, 7), (1, 4, 5, 7)),
        ("[batch, head, key]", (1, 4, 7), (1, 4, 1, 7)),
    ],
)
def test_inputs_stand_on_their_axes(axes: str, shape: tuple[int, ...], broadcast: tuple[int, ...]) -> None:
    x = torch.randn(shape, dtype=F64, generator=torch.Generator().manual_seed(1))
    operands = replace(tensors(), inputs={"x": x})
    found = weights(normalizer(spec("s * x", f"inputs: {{x: {{shape: {axes}}}}}\n")), operands, Call(True), F64)
    expected = scores(operands) * x.reshape(broadcast) * (KEYS <= ROWS)
    torch.testing.assert_close(found, expected)


def test_kv_head_inputs_serve_the_group() -> None:
    operands = replace(tensors(), inputs={"x": torch.tensor([2.0, 3.0], dtype=F64)})
    found = weights(normalizer(spec("s * x", "inputs: {x: {shape: [kv_head]}}\n")), operands, Call(), F64)
    torch.testing.assert_close(found, scores(operands) * torch.tensor([2.0, 2, 3, 3]).reshape(4, 1, 1))


def test_defaults_are_formulas_of_the_sizes() -> None:
    operands = tensors()
    given = replace(operands, inputs={"bias": -torch.tensor(7.0, dtype=F64).log()})
    both = [weights(normalizer(SIGMOID), x, Call(), F64) for x in (operands, given)]
    torch.testing.assert_close(*both)


@pytest.mark.parametrize("alignment", ["upper_left", "lower_right"])
@pytest.mark.parametrize("window", [None, 0, 2, (1, -1), (-1, 0), (0, 3), (-1, -1)])
def test_visible_by_its_definition(alignment: "object", window: "object") -> None:
    for n_q, n_k, is_causal in itertools.product((1, 3, 6), (1, 4, 6), (False, True)):
        found = visible(Call(is_causal, None, window, alignment), n_q, n_k)  # type: ignore[arg-type]
        left, right = (-1, -1) if window is None else (window, window) if isinstance(window, int) else window  # type: ignore[misc]
        for row, key in itertools.product(range(n_q), range(n_k)):
            at = row + (n_k - n_q if alignment == "lower_right" else 0)
            in_band = (left < 0 or key >= at - left) and (right < 0 or key <= at + right)
            assert bool(found[row, key]) == (in_band and not (is_causal and key > at))


def test_reductions_and_n_are_over_visible_keys() -> None:
    operands, call = tensors(), Call(window=(1, 0))
    seen = (KEYS <= ROWS) & (KEYS >= ROWS - 1)
    s = scores(operands)
    total = (s * seen).sum(-1, keepdim=True)
    top = s.masked_fill(~seen, -torch.inf).amax(-1, keepdim=True)
    count = seen.sum(-1, keepdim=True)
    expected = (s - total / count + top) * count * seen
    torch.testing.assert_close(weights(normalizer(spec("(s - mean(s) + amax(s)) * n")), operands, call, F64), expected)


def test_position_follows_the_alignment() -> None:
    found = weights(normalizer(spec("i + 10 * j")), tensors(), Call(alignment="lower_right"), F64)
    torch.testing.assert_close(found[0, 0], (ROWS + 2 + 10 * KEYS).to(F64))


def with_gradients(text: str, operands: Operands, call: Call) -> tuple[Tensor, tuple[Tensor, ...]]:
    leaves = tuple(x.clone().requires_grad_() for x in (operands.query, operands.key, operands.value))
    out = attention(normalizer(text), replace(operands, query=leaves[0], key=leaves[1], value=leaves[2]), call, F64)
    return out, torch.autograd.grad(out.sum(), leaves, allow_unused=True)


def test_rows_without_keys_are_zero_with_zero_gradients() -> None:
    out, (grad_query, grad_key, _) = with_gradients(SOFTMAX, tensors(7, 5), Call(True, alignment="lower_right"))
    assert torch.equal(out[:, :, :2], torch.zeros(2, 4, 2, 8, dtype=F64))
    assert torch.equal(grad_query[:, :, :2], torch.zeros(2, 4, 2, 16, dtype=F64))
    assert bool(out.isfinite().all() and grad_query.isfinite().all() and grad_key.isfinite().all())
    alone, _ = with_gradients(SOFTMAX, tensors(7, 5), Call(True))
    assert bool((alone != 0).any(-1).all())


def test_inputs_of_rows_that_see_a_key_stay_with_their_rows() -> None:
    x = torch.arange(7, dtype=F64)
    operands = replace(tensors(7, 5), inputs={"x": x})
    call = Call(True, alignment="lower_right")
    found = weights(normalizer(spec("x", "inputs: {x: {shape: [query]}}\n")), operands, call, F64)
    seen = torch.arange(5) <= torch.arange(7)[:, None] - 2
    torch.testing.assert_close(found[0, 0], x[:, None] * seen)


def test_formulas_without_a_value_at_hidden_keys() -> None:
    """log(i - j + 1) is not finite for later keys, nor is its derivative; a causal row sees neither."""
    out, gradients = with_gradients(spec("s * sqrt(log(i - j + 2)) / (i - j + 1)"), tensors(), Call(True))
    assert bool(out.isfinite().all())
    assert all(bool(x.isfinite().all()) for x in gradients if x is not None)


def test_gradcheck() -> None:
    text = spec(
        "x * softplus(s) / sum(softplus(s) ** p) + amax(s) / n", "inputs: {x: {shape: [head, query]}, p: {shape: []}}\n"
    )
    formula = normalizer(text)
    old = tensors(3, 4)
    x, p = torch.rand(4, 3, dtype=F64), torch.tensor(1.5, dtype=F64)

    def run(query: Tensor, key: Tensor, value: Tensor, x: Tensor, p: Tensor) -> Tensor:
        return attention(formula, Operands(query, key, value, {"x": x, "p": p}), Call(True), F64)

    leaves = [t.requires_grad_() for t in (old.query, old.key, old.value, x, p)]
    assert torch.autograd.gradcheck(run, leaves)


@pytest.mark.parametrize(
    ("formula", "slope"),
    [("relu(s)", 0.0), ("abs(s)", 0.0), ("max(s, 0)", 0.5), ("clip(s, 0, 1)", 1.0), ("detach(s)", None)],
)
def test_conventions_at_kinks_are_torchs(formula: str, slope: float | None) -> None:
    operands = tensors()
    _, (grad_query, *_) = with_gradients(spec(formula), replace(operands, query=operands.query * 0), Call())
    if slope is None:
        assert grad_query is None
        return
    _, (identity, *_) = with_gradients(spec("s"), replace(operands, query=operands.query * 0), Call())
    torch.testing.assert_close(grad_query, slope * identity)


def test_held_statistics_leave_the_direct_gradient() -> None:
    query, key, value = tensors().query, tensors().key, tensors().value
    query.requires_grad_()
    formula = normalizer(spec("s / sum(s ** 2)"))
    held = attention(formula, Operands(query, key, value), Call(), F64, Manner(hold_statistics=True))
    s = scores(Operands(query, key, value))
    direct = (s / (s**2).sum(-1, keepdim=True).detach()) @ value.repeat_interleave(2, 1)
    torch.testing.assert_close(*(torch.autograd.grad(x.sum(), query)[0] for x in (held, direct)))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_low_precision_stays_in_its_dtype(dtype: torch.dtype) -> None:
    text = spec("where(i < 3, 0.1, 2) * exp(s) / sum(exp(s)) + log(n_k)")
    old = tensors()
    low = Operands(old.query.to(dtype), old.key.to(dtype), old.value.to(dtype))
    found = weights(normalizer(text), low, Call(), dtype)
    assert found.dtype == dtype
    exact = weights(normalizer(text), low, Call(), F64)
    assert float((found.double() - exact).abs().max()) > 0
