"""NVIDIA's compute-sanitizer over one call of each shipped op, where it is installed: memory, races, uninitialized."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from attngen import catalog

ROOT = Path(__file__).parents[2]
SANITIZER = shutil.which("compute-sanitizer") or shutil.which("compute-sanitizer", path="/usr/local/cuda/bin")
NAMES = ("sigmoid", "softmax", "softplus_l1", "affine_scaled", "sink")


@pytest.mark.skipif(SANITIZER is None, reason="compute-sanitizer is not installed")
@pytest.mark.parametrize("tool", ["memcheck", "racecheck", "synccheck", "initcheck"])
def test_sanitizer(tool: str) -> None:
    assert SANITIZER is not None
    assert set(NAMES) <= {path.stem for path in catalog.shipped()}
    program = [sys.executable, str(Path(__file__).with_name("sanitized_call.py")), "cuda", *NAMES]
    # PyTorch's allocator hands out parts of large blocks, in which nothing is out of bounds
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
    command = [SANITIZER, "--tool", tool, "--error-exitcode", "9", *program]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False, timeout=1800)
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
    assert done.stdout.count("\n") >= len(NAMES)
