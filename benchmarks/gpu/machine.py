"""What the machine is, into a JSON file: python -m benchmarks.gpu.machine FILE DEVICE

Versions, the GPU with what its multiprocessors hold, the tools that tests look for, and the identity of Triton's
compiler, on which the names in its cache depend. It measures nothing.
"""

import hashlib
import json
import os
import shutil
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import triton
from triton.runtime.cache import triton_key

from attngen.bench.machine import environment
from attngen.files import write_atomically

_TOOLS = ("gcc", "g++", "ptxas", "compute-sanitizer", "ncu", "nvidia-smi")
_PACKAGES = ("xdist", "rich", "platformdirs", "entmax", "transformers", "triton_sigmoid", "adasplash", "flash_attn",
             "flash_attn_interface")  # fmt: skip


def report(device: str) -> dict[str, Any]:
    return {
        "environment": asdict(environment(device)),
        "gpu": _gpu() if device == "cuda" else None,
        "cores": os.cpu_count(),
        "tools": {tool: shutil.which(tool) for tool in _TOOLS},
        "packages": {name: importable(name) for name in _PACKAGES},
        "triton": {"version": triton.__version__, "compiler": hashlib.sha256(triton_key().encode()).hexdigest()},
    }


def importable(name: str) -> bool:
    """Whether there is such a package; it is not imported."""
    import importlib.util

    return importlib.util.find_spec(name) is not None


def _gpu() -> dict[str, Any]:
    found = torch.cuda.get_device_properties()
    names = (
        "name", "major", "minor", "multi_processor_count", "total_memory", "L2_cache_size",
        "shared_memory_per_block_optin", "regs_per_multiprocessor",
    )  # fmt: skip
    return {name: getattr(found, name, None) for name in names} | {"free_memory": torch.cuda.mem_get_info()[0]}


def main() -> None:
    path, device = Path(sys.argv[1]), sys.argv[2]
    text = json.dumps(report(device), indent=1)
    write_atomically(path, text + "\n")
    print(text)


if __name__ == "__main__":
    main()
