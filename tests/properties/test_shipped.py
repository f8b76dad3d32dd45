"""Every shipped op is held to its spec: on the portable path, and by its Triton kernels in the interpreter.

The ops are the modules in `generated/`. Runs are short and repeat exactly; `attngen verify` takes longer ones. The
kernels of the specs that aren't representative are held to oracles in `tests/normalizers`.
"""

import importlib
from pathlib import Path
from types import ModuleType

import pytest
import torch

from attngen import ir
from attngen.runtime.interpreter import interpreting
from attngen.spec.lower import read_spec
from attngen.verify.report import render
from attngen.verify.run import Settings, property_names, verify
from tests.representative import REPRESENTATIVE

# The interpreter computes with numpy, which warns of what kernels do on purpose in the lanes that they mask.
pytestmark = pytest.mark.filterwarnings("ignore:.*encountered in:RuntimeWarning")

SPECS = sorted((Path(__file__).parents[2] / "specs").glob("*.yaml"))
SHIPPED = [path.stem for path in SPECS]
IN_THE_INTERPRETER = ("forward_and_gradients", "invariant_to_blocks", "empty_rows", "extreme_scores")


def read(name: str) -> tuple[ModuleType, ir.Normalizer]:
    (path,) = (path for path in SPECS if path.stem == name)
    return importlib.import_module(f"generated.{name}"), read_spec(path.read_text("utf-8"), path.name)


# The adjoint of a staged formula's first sum is a sum over its square, which leaves float32 where all scores are low.
@pytest.mark.parametrize("name", SHIPPED)
def test_portable(name: str) -> None:
    module, normalizer = read(name)
    report = verify(module, normalizer, Settings(examples=20 if name in REPRESENTATIVE else 4))
    assert report.passed, render(report)


@pytest.mark.parametrize("name", REPRESENTATIVE)
def test_kernels_interpreted(name: str) -> None:
    module, normalizer = read(name)
    settings = Settings(examples=3, sizes="small", only=IN_THE_INTERPRETER)
    with interpreting(module):
        report = verify(module, normalizer, settings)
    assert report.passed, render(report)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("name", SHIPPED)
def test_kernels_on_the_gpu(name: str) -> None:
    module, normalizer = read(name)
    report = verify(module, normalizer, Settings(device="cuda", examples=30 if name in REPRESENTATIVE else 5))
    assert report.passed, render(report)


def test_every_property_decides_something() -> None:
    """A property that skips every op would hold none of them to anything."""
    module, normalizer = read("softmax")
    report = verify(module, normalizer, Settings(examples=3))
    assert {prop.verdict for prop in report.properties} == {"passed"}
    assert len(report.properties) == len(property_names(normalizer))
