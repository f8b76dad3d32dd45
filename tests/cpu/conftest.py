"""Native kernels serve the ops of these tests. What is built is kept in pytest's cache: building takes seconds."""

import importlib
import shutil
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

import attngen

Load = Callable[..., Callable[..., object]]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if not any(map(shutil.which, ("c++", "g++", "clang++"))):
        for item in items:
            if Path(__file__).parent in item.path.parents:
                item.add_marker(pytest.mark.skip(reason="needs a C++ compiler"))


@pytest.fixture(autouse=True)
def native_cache(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Path:
    folder: Path = request.config.cache.mkdir("native")  # type: ignore[union-attr]
    folder.chmod(0o700)
    monkeypatch.setenv("ATTNGEN_CPU", "native")
    monkeypatch.setenv("ATTNGEN_CACHE_DIR", str(folder))
    return folder


@pytest.fixture
def load(tmp_path: Path) -> Load:
    """`load(spec, **statics)`: the op of a shipped name or of YAML text."""

    def loaded(spec: str, **statics: object) -> Callable[..., object]:
        path = tmp_path / "spec.yaml"
        path.write_text(spec, "utf-8")
        return attngen.load(path if "\n" in spec else spec, **statics)

    return loaded


@pytest.fixture
def softmax() -> ModuleType:
    return importlib.import_module("generated.softmax")
