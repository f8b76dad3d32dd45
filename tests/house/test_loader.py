"""A generated module is imported once per process, whichever way it came, and only whole."""

import importlib.util
import inspect
import sys
from pathlib import Path
from types import ModuleType

import pytest

from attngen.runtime import cache
from attngen.runtime.loader import import_file

TEXT = "KERNELS = ()\nrun = []\n"


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(cache.VARIABLE, str(tmp_path / "cache"))


def imported_from(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return module


def test_the_same_text_is_the_same_module() -> None:
    first = import_file(cache.store("once", TEXT))
    assert import_file(cache.store("once", TEXT)) is first
    assert sys.modules[first.__name__] is first


def test_another_text_is_another_module() -> None:
    assert import_file(cache.store("once", TEXT)) is not import_file(cache.store("once", TEXT + "# v2\n"))


def test_a_text_that_was_imported_from_elsewhere_is_not_run_again(tmp_path: Path) -> None:
    copy = tmp_path / "copied_into_training_code.py"
    copy.write_text(TEXT + "# elsewhere\n")
    module = imported_from(copy)
    assert import_file(cache.store("copied", TEXT + "# elsewhere\n")) is module


def test_a_module_that_fails_leaves_nothing_behind() -> None:
    before = set(sys.modules)
    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            import_file(cache.store("broken", "1 / 0\n"))
    assert not [name for name in set(sys.modules) - before if "broken" in name]


def test_the_source_can_be_inspected() -> None:
    """@triton.jit reads the source of its function."""
    module = import_file(cache.store("inspected", "def kernel():\n    return 1\n"))
    assert inspect.getsource(module.kernel) == "def kernel():\n    return 1\n"
