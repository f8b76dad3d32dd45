"""Every vector width of the source: those of this machine run, NEON compiles where a cross compiler is found."""

import importlib
import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[2]
# A pivot, and a root with its search: between them most of what is written for one width or another.
PROGRAM = """
import torch
from generated import entmax15, softmax
for module in (softmax, entmax15):
    name = module.__name__.removeprefix("generated.")
    op, random = getattr(module, f"{name}_attention"), torch.Generator().manual_seed(0)
    leaves = [torch.randn(1, 2, 45, 19, generator=random, dtype=torch.float64).requires_grad_() for _ in range(3)]
    narrow = [x.detach().float().requires_grad_() for x in leaves]
    weights = torch.randn(1, 2, 45, 19, generator=random, dtype=torch.float64)
    wide_out, out = op(*leaves, is_causal=True), op(*narrow, is_causal=True)
    wide = torch.autograd.grad(wide_out, leaves, weights)
    found = torch.autograd.grad(out, narrow, weights.float())
    assert module._on_native(narrow[0]), name
    for got, wanted in zip((out, *found), (wide_out, *wide), strict=True):
        torch.testing.assert_close(got.double(), wanted, rtol=1e-4, atol=1e-4, msg=lambda text: f"{name}: {text}")
print(torch.backends.cpu.get_cpu_capability())
"""


@pytest.mark.parametrize("capability", ["default", "avx2"])
def test_narrower_vectors_give_the_same(capability: str, native_cache: Path) -> None:
    if capability == "avx2" and torch.backends.cpu.get_cpu_capability() not in ("AVX2", "AVX512"):
        pytest.skip("this CPU has no AVX2")
    environment = os.environ | {"ATEN_CPU_CAPABILITY": capability, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-W", "error::UserWarning:generated", "-c", PROGRAM]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [capability.upper()]


def cross_compiler() -> list[str] | None:
    if shutil.which("aarch64-linux-gnu-g++"):
        return ["aarch64-linux-gnu-g++"]
    if importlib.util.find_spec("ziglang"):
        return [sys.executable, "-m", "ziglang", "c++", "-target", "aarch64-linux-gnu"]
    return None


@pytest.mark.parametrize("name", ["softmax", "sigmoid", "entmax15", "lssar"])
def test_neon_compiles(name: str, tmp_path: Path) -> None:
    compiler = cross_compiler()
    if compiler is None:
        pytest.skip("needs aarch64-linux-gnu-g++ or ziglang")
    source = tmp_path / "source.cpp"
    source.write_text(importlib.import_module(f"generated.{name}").CPP_SOURCE, "utf-8")
    flags = ["-O1", "-std=c++20", "-fPIC", "-DCPU_CAPABILITY=DEFAULT", "-DCPU_CAPABILITY_DEFAULT"]
    headers = f"-I{Path(torch.__file__).parent / 'include'}"
    command = [*compiler, *flags, headers, "-c", str(source), "-o", str(tmp_path / "source.o")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "source.o").read_bytes()[18:20] == b"\xb7\x00"  # the ELF number of AArch64
