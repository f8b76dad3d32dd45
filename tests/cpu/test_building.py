"""How native kernels come to be: built once, kept by content, refused where nobody else's files may be trusted."""

import importlib.util
import subprocess
import sys
import warnings
from pathlib import Path
from types import ModuleType

import pytest
import torch

ROOT = Path(__file__).parents[2]
PROGRAM = "import generated.softmax as m; print(m.build_native())"


def fresh(name: str) -> ModuleType:
    """A copy of a generated module that has loaded nothing yet."""
    spec = importlib.util.spec_from_file_location(f"fresh_{name}", ROOT / "generated" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_processes_that_ask_at_once_share_one_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tmp_path.chmod(0o700)
    monkeypatch.setenv("ATTNGEN_CACHE_DIR", str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    command = [sys.executable, "-c", PROGRAM]
    processes = [subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    paths = {process.communicate()[0].strip() for process in processes}
    assert len(paths) == 1
    assert [path.name for path in tmp_path.glob("*.so")] == [Path(paths.pop()).name]
    assert not [path for path in tmp_path.iterdir() if path.is_dir()]  # what it was compiled in


def test_a_built_library_is_loaded_not_built(softmax: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    softmax.build_native()
    monkeypatch.setattr(subprocess, "run", lambda *a, **k: pytest.fail("it was built again"))
    assert fresh("softmax")._native() is not None


def test_without_a_compiler_plain_torch_serves_and_says_once_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ATTNGEN_CACHE_DIR", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    module = fresh("softmax")
    q, k, v = (torch.randn(1, 1, 5, 8) for _ in range(3))
    with pytest.warns(UserWarning, match=r"install g\+\+"):
        out = module.softmax_attention(q, k, v)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        module.softmax_attention(q, k, v)
    torch.testing.assert_close(out, torch.softmax(q @ k.mT * 8**-0.5, -1) @ v)


def test_a_folder_that_others_may_write_to_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o777)
    monkeypatch.setenv("ATTNGEN_CACHE_DIR", str(shared))
    module = fresh("softmax")
    folder = Path(module._cache_folder())
    assert folder != shared
    assert folder.is_dir()
    assert Path(module._cache_folder()) == folder
    module._private_folder.cache_clear()  # as at the end of the process
    assert not folder.exists()


def test_what_a_compiler_says_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tmp_path.chmod(0o700)
    monkeypatch.setenv("ATTNGEN_CACHE_DIR", str(tmp_path))
    module = fresh("softmax")
    monkeypatch.setattr(module, "CPP_SOURCE", "#error deliberately wrong")
    with pytest.raises(RuntimeError, match="deliberately wrong"):
        module.build_native()
