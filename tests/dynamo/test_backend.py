"""The ways into torch.compile, and what is told of a compilation."""

import inspect
import logging
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import attngen
import attngen.transformers as models
from attngen.dynamo import fuse
from attngen.dynamo.backend import AttngenPass
from attngen.pipeline import compile_spec
from tests.dynamo.conftest import compiled_like_eager, results
from tests.dynamo.spellings import SIGMOID, SOFTMAX, scores


def tensors(*shape: int) -> tuple[Tensor, ...]:
    return tuple(torch.randn(shape or (2, 4, 12, 8)) for _ in range(3))


def test_torch_knows_the_backend_by_name() -> None:
    assert "attngen" in torch._dynamo.list_backends()


def test_inductor_compiles_the_rest() -> None:
    report = compiled_like_eager(lambda q, k, v: SOFTMAX["by hand"](q * 2, k, v) + 1, *tensors(), inner="inductor")
    assert len(report.replaced) == 1


def test_as_a_pass_of_inductor() -> None:
    fusing = AttngenPass()
    compiled = torch.compile(SIGMOID["by exp"], options={"pre_grad_custom_pass": fusing})
    given = tensors()
    for one, other in zip(results(compiled, given), results(SIGMOID["by exp"], given), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)
    assert len(fusing.report.replaced) == 1
    assert fusing.uuid() is None, "a cached graph would name ops that nobody has registered"


def test_explain_compile() -> None:
    def model(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        once = F.relu(scores(q, k)).square() @ v
        return once + scores(q, k).softmax(1) @ v

    report = attngen.explain_compile(model, *tensors())
    assert [len(report.replaced), len(report.skipped)] == [1, 1]
    assert report.replaced[0].where.startswith(f"{__file__}:")
    assert "weights: relu(s) ** 2" in str(report)
    assert str(report).startswith("1 fused, 1 left as they were")


@pytest.mark.parametrize("name", ["learnt bias", "causal and padded", "times reciprocal, late"])
def test_the_spec_of_a_replacement_can_be_built(name: str) -> None:
    more = (torch.randn(1, 4, 1, 12, requires_grad=True),) if name == "learnt bias" else ()
    entry = attngen.explain_compile(SOFTMAX[name], *tensors(), *more).replaced[0]
    compilation = compile_spec(entry.spec_text, "lifted.yaml")
    assert compilation.normalizer.name in entry.spec_text
    assert [source.grad for source in compilation.normalizer.inputs] == {
        "learnt bias": [True],
        "causal and padded": [False],
    }.get(name, [])


def test_what_happens_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="attngen"):
        attngen.explain_compile(SOFTMAX["at sign"], *tensors())
        attngen.explain_compile(lambda q, k, v: scores(q, k).softmax(1) @ v, *tensors())
    told = [record.getMessage() for record in caplog.records if record.name == "attngen"]
    assert any(line.startswith("fused ") for line in told)
    assert any(line.startswith("not fused ") for line in told)


def test_autocast() -> None:
    given = tensors()

    def model(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return scores(q, k).softmax(-1) @ v

    compiled = torch.compile(model, backend="attngen", options={"inner": "aot_eager"})
    assert compiled(*given).dtype == model(*given).dtype
    torch.testing.assert_close(compiled(*given), model(*given), rtol=0.02, atol=0.02)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_types(dtype: torch.dtype) -> None:
    given = tuple(x.to(dtype) for x in tensors())
    compiled = torch.compile(SOFTMAX["float32 and back"], backend="attngen", options={"inner": "aot_eager"})
    with torch.no_grad():
        got, wanted = compiled(*given), SOFTMAX["at sign"](*given)
    assert got.dtype == dtype
    torch.testing.assert_close(got, wanted, rtol=0.02, atol=0.02)


def test_masked_rows_are_zero_where_the_model_says_nan() -> None:
    seen = torch.ones(12, 12, dtype=torch.bool)
    seen[3] = False

    def model(q: Tensor, k: Tensor, v: Tensor, seen: Tensor) -> Tensor:
        return scores(q, k).masked_fill(~seen, float("-inf")).softmax(-1) @ v

    given = tensors()
    compiled = torch.compile(model, backend="attngen", options={"inner": "eager"})
    got, wanted = compiled(*given, seen), model(*given, seen)
    assert bool(wanted[:, :, 3].isnan().all())
    assert not bool(got[:, :, 3].any())
    torch.testing.assert_close(got[:, :, 4:], wanted[:, :, 4:], rtol=1e-5, atol=1e-5)


def test_rows_masked_by_a_finite_number_keep_their_weights() -> None:
    def model(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        places = torch.arange(12)
        return torch.where(places[:, None] > places[None, :], scores(q, k), -1e9).softmax(-1) @ v

    assert len(compiled_like_eager(model, *tensors()).replaced) == 1


def test_importing_attngen_leaves_the_compiler_alone() -> None:
    program = "import attngen, sys; print('torch' in sys.modules, 'explain_compile' in attngen.__all__)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "True"]


def test_lifted_ops_and_those_of_models_are_built_as_the_environment_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ATTNGEN_PRECISION", "fast")
    for op in (
        fuse._built("name: lifted\nweights: sigmoid(s)\n"),
        getattr(models._OPS, models._built("sigmoid", (), None)),
    ):
        assert hasattr(inspect.getmodule(op), "_takes_fast_forms")
