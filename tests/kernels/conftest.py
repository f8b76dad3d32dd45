"""Kernels are interpreted on one thread: with more, small products take longer."""

from collections.abc import Iterator

import pytest
import torch
import triton


def pytest_report_header() -> str:
    return f"Triton {triton.__version__}, torch {torch.__version__}"


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
