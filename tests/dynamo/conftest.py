"""What the tests of the torch.compile backend share: a function compiled and run beside itself in eager mode."""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from attngen.dynamo.backend import compile_reporting
from attngen.dynamo.report import CompileReport


@pytest.fixture(autouse=True, scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Ops are built once per session, and not into the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("cache")
        patch.setenv("ATTNGEN_CACHE_DIR", str(folder))
        yield folder


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    torch._dynamo.reset()
    torch.manual_seed(0)
    yield
    torch._dynamo.reset()


def results(function: Callable[..., Any], tensors: tuple[Tensor, ...]) -> list[Tensor]:
    """Output and gradients with respect to all floating-point tensors and parameters."""
    torch.manual_seed(1)
    given = [x.detach().clone().requires_grad_(x.is_floating_point()) for x in tensors]
    output = function(*given)
    wanted = [x for x in given if x.requires_grad]
    wanted += list(function.parameters()) if isinstance(function, nn.Module) else []
    cotangent = torch.linspace(-1, 2, output.numel()).reshape(output.shape)
    gradients = torch.autograd.grad((output * cotangent).sum(), wanted, materialize_grads=True, allow_unused=True)
    return [output.detach(), *gradients]


def compiled_like_eager(
    function: Callable[..., Any], *tensors: Tensor, inner: str = "aot_eager", **options: Any
) -> CompileReport:
    """Compile, compare output and gradients with eager's, and tell what was fused."""
    report = CompileReport()
    backend = partial(compile_reporting, report, inner=inner)
    compiled = torch.compile(function, backend=backend, fullgraph=True, **options)
    for one, other in zip(results(compiled, tensors), results(function, tensors), strict=True):
        size = max(float(other.abs().max()), 1e-3)
        torch.testing.assert_close(one, other, rtol=0, atol=1e-5 * size)
    return report
