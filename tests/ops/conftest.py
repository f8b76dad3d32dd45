"""Ops are built into a cache of the session's own; products run on one thread: small ones take longer on two."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import attngen

Op = Callable[..., torch.Tensor]
Load = Callable[..., Op]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def load(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Load]:
    """`load(spec, **statics)`: the op of a shipped name or of YAML text."""
    folder = tmp_path_factory.mktemp("specs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ATTNGEN_CACHE_DIR", str(folder / "cache"))
        yield lambda spec, **statics: attngen.load(_on_disk(spec, folder), **statics)


def _on_disk(spec: str, folder: Path) -> Any:
    if "\n" not in spec:
        return spec
    name = next(line for line in spec.splitlines() if line.startswith("name:")).split(":")[1].strip()
    path = folder / f"{name}.yaml"
    path.write_text(spec, "utf-8")
    return path
