"""Tests of this folder run the compiled kernels. Where there is no GPU they are skipped.

Ops that are like another's are left out unless `--all-specs` is given: a first run should end within minutes.
"""

import pytest
import torch

from tests.representative import REPRESENTATIVE


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    lacking = pytest.mark.skip(reason="needs a GPU: torch.cuda.is_available() is False")
    left_out = [] if config.getoption("--all-specs") else [item for item in items if _is_like_another(item)]
    items[:] = [item for item in items if item not in set(left_out)]
    config.hook.pytest_deselected(items=left_out)
    for item in filter(_is_here, items):
        item.add_marker(pytest.mark.gpu)
        if not torch.cuda.is_available():
            item.add_marker(lacking)


def _is_here(item: pytest.Item) -> bool:
    return "tests/gpu" in item.path.as_posix()


def _is_like_another(item: pytest.Item) -> bool:
    if not _is_here(item) or not isinstance(item, pytest.Function) or not hasattr(item, "callspec"):
        return False
    return item.callspec.params.get("name", REPRESENTATIVE[0]) not in REPRESENTATIVE
