"""Where a bench runs, and what its hardware can do at most: names, versions, clocks, matrix products, reading memory.

What the system doesn't tell is left empty. Nothing is changed: no clock is set, no limit is touched.
"""

import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path

import torch

from attngen.bench.measure import Clock, Run
from attngen.bench.peak import multiply_adds
from attngen.bench.record import Ceiling, Environment

_PACKAGES = (
    "attngen", "torch", "triton", "triton-sigmoid", "adasplash", "flash-attn", "flash-attn-3", "nvidia-cudnn-cu13",
)  # fmt: skip
_TRIES = 10


def environment(device: str) -> Environment:
    """The machine as it is now."""
    name = torch.cuda.get_device_name() if device == "cuda" else cpu_name()
    return Environment(
        device=name,
        kind=device,
        threads=torch.get_num_threads(),
        driver=_nvidia_smi("driver_version") if device == "cuda" else "",
        versions=_versions(),
        clocks=(clocks(device),),
        load=(round(os.getloadavg()[0], 2),) if hasattr(os, "getloadavg") else (),
    )


def clocks(device: str) -> str:
    """SM and memory clocks, power and temperature of a GPU; the frequencies of a CPU where Linux tells them."""
    if device == "cuda":
        return _nvidia_smi("clocks.sm,clocks.mem,power.draw,temperature.gpu")
    lines = _cpuinfo("cpu MHz")
    return ", ".join(f"{float(line):.0f} MHz" for line in lines)


def cpu_name() -> str:
    """The model as the system calls it, with what of vector instructions matters here."""
    model = next(iter(_cpuinfo("model name")), platform.processor() or platform.machine())
    return f"{model}, {os.cpu_count()} cores, {torch.backends.cpu.get_cpu_capability()}"


def _cpuinfo(field: str) -> list[str]:
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        return []
    return [line.partition(":")[2].strip() for line in lines if line.startswith(field)]


def _nvidia_smi(query: str) -> str:
    command = ["nvidia-smi", f"--query-gpu={query}", "--format=csv,noheader"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=20).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found | ({"cuda": torch.version.cuda} if torch.version.cuda else {})


def ceilings(device: str, dtypes: tuple[str, ...], clock: Clock) -> tuple[Ceiling, ...]:
    """A plain matrix product for each type; on a CPU its multiply-adds, too; and the bandwidth of reading memory."""
    side, megabytes = (8192, 4096) if device == "cuda" else (2048, 512)
    products = tuple(_product(device, dtype, side, clock) for dtype in dtypes)
    peaks = tuple(filter(None, (_multiply_adds(dtype, clock) for dtype in dtypes if device == "cpu")))
    return (*products, *peaks, _reading(device, megabytes, clock))


def _product(device: str, dtype: str, side: int, clock: Clock) -> Ceiling:
    a, b = (torch.randn(side, side, device=device).to(getattr(torch, dtype)) for _ in range(2))
    seconds = _best(clock, lambda: a @ b)
    return Ceiling("matrix product", dtype, 2 * side**3 / seconds, f"{side}^3, random normal, best of {_TRIES}")


def _multiply_adds(dtype: str, clock: Clock) -> Ceiling | None:
    rate = multiply_adds(dtype, lambda run: _best(clock, run))
    return None if rate is None else Ceiling("multiply-adds", dtype, rate, f"in registers, best of {_TRIES}")


def _reading(device: str, megabytes: int, clock: Clock) -> Ceiling:
    data = torch.ones(megabytes * 2**18, device=device)
    seconds = _best(clock, data.sum)
    return Ceiling("memory", "float32", data.nbytes / seconds, f"sum of {megabytes} MiB, best of {_TRIES}")


def _best(clock: Clock, run: Run) -> float:
    for _ in range(3):
        run()
    return min(clock.time(run) for _ in range(_TRIES))
