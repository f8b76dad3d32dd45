"""Tests of kernels run them in Triton's interpreter, on one thread: with more, small products take longer."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager

import pytest
import torch
import triton

from attngen.runtime.interpreter import interpreting
from attngen.runtime.sanitizer import Sanitizer


def pytest_report_header() -> str:
    return f"Triton {triton.__version__}, torch {torch.__version__}"


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def interpret() -> Callable[..., AbstractContextManager[None]]:
    """`with interpret(module):` runs the module's kernels on the CPU."""
    return interpreting


@pytest.fixture
def sanitizer() -> Iterator[Sanitizer]:
    """The test's kernels are checked for bounds, undefined lanes, races and elements that nobody wrote."""
    with Sanitizer() as active:
        yield active
