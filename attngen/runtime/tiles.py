"""Tiles that `attngen tune` found, kept on disk and put into a module when it is loaded through attngen.

One JSON file per op in the cache folder. An entry serves where everything that it depends on is the same: the module's
text, and with it the formula and attngen's version; the device, and the versions of torch and Triton; the kernel, the
type, the head dims and whether a mask cuts rows short. Nothing is searched here, and no entry means the shipped tables.
"""

import functools
import json
import platform
import warnings
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from attngen.files import write_atomically
from attngen.runtime.cache import cache_dir, sha256

SCHEMA = 1
# Queries, keys, warps, stages. Of a kernel for Hopper: queries of a warpgroup, keys, slots, elements per reciprocal,
# warpgroups that compute.
Tile = tuple[int, ...]
HOPPER_KERNELS = ("forward_hopper", "backward_hopper")
PLAIN: Tile = (0, 0, 0, 0, 0)  # of a kernel for Hopper: the plain kernels serve


@dataclass(frozen=True, slots=True)
class Machine:
    """What a time depends on beside the op. `device` names the hardware; `kind` is cpu or cuda."""

    kind: str
    device: str
    torch: str
    triton: str


@dataclass(frozen=True, slots=True)
class Tuned:
    """A tile for calls of one kind; the times that chose it, in seconds, and the length that they were taken at."""

    machine: Machine
    op: str  # SHA-256 of the module's text
    kernel: str
    dtype: str
    head_dim: int
    value_dim: int
    masked: bool
    tile: Tile
    seconds: float
    shipped_seconds: float
    length: int

    @property
    def place(self) -> tuple[str, str, int, int, bool]:
        """The key in the module's table."""
        return self.kernel, self.dtype, self.head_dim, self.value_dim, self.masked


@functools.cache
def this_machine(kind: str) -> Machine:
    """The machine that the process runs on. Asking for cuda initializes it."""
    import torch
    import triton

    return Machine(kind, _device_name(kind), torch.__version__, triton.__version__)


def _device_name(kind: str) -> str:
    import torch

    if kind == "cuda":
        major, minor = torch.cuda.get_device_capability()
        return f"{torch.cuda.get_device_name()}, {major}.{minor}"
    return f"{_cpu_model()}, {torch.backends.cpu.get_cpu_capability()}, {torch.get_num_threads()} threads"


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        lines = []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.processor() or platform.machine())


def digest_of(module: ModuleType) -> str:
    """The SHA-256 of a module's text."""
    assert module.__file__ is not None, "generated modules are files"
    return sha256(Path(module.__file__).read_text("utf-8"))


def use_tuned(name: str, module: ModuleType) -> None:
    """Put what was tuned for this module on this machine into its table, and nothing else."""
    module.TUNED.clear()
    entries = read(name)
    if not entries:
        return
    digest = digest_of(module)
    for entry in entries:
        if entry.op == digest and entry.machine == _machine_if_there(entry.machine.kind):
            module.TUNED[entry.place] = tile_in(module, entry.kernel, entry.tile)


def tile_in(module: ModuleType, kernel: str, tile: Tile) -> Any:
    """The tile as a module's tables have it."""
    return module.HopperTile(*tile) if kernel in HOPPER_KERNELS else module.Tile(*tile)


def numbers_of(kernel: str) -> int:
    """How many numbers a tile of the kernel has."""
    return len(PLAIN) if kernel in HOPPER_KERNELS else 4


def overrides_of(module: ModuleType, kernel: str, tile: Tile) -> dict[str, Any]:
    """What a module's OVERRIDES say for the kernel to have this tile, and for a plain one not to be passed over."""
    rival = f"{kernel.partition('_')[0]}_hopper"
    is_passed_over = kernel not in HOPPER_KERNELS and rival in getattr(module, "HOPPER_TILES", ())
    others = {rival: tile_in(module, rival, PLAIN)} if is_passed_over else {}
    return {kernel: tile_in(module, kernel, tile), **others}


def _machine_if_there(kind: str) -> Machine | None:
    import torch

    return this_machine(kind) if kind == "cpu" or torch.cuda.is_available() else None


def file_of(name: str) -> Path:
    return cache_dir() / f"{name}.tiles.json"


def read(name: str) -> tuple[Tuned, ...]:
    """All entries of the op's file; none where there is no file. A file that can't be read is told of, and unused."""
    path = file_of(name)
    try:
        given = json.loads(path.read_text("utf-8"))
        return tuple(map(_tuned, given["entries"])) if given["schema"] == SCHEMA else ()
    except FileNotFoundError:
        return ()
    except (OSError, ValueError, KeyError, TypeError) as error:
        warnings.warn(f"{path} is not used: {error!r}; `attngen tune` writes it anew", stacklevel=2)
        return ()


def keep(name: str, found: Iterable[Tuned]) -> Path:
    """Add entries to the op's file, in place of those for the same calls of the same module on the same machine."""
    entries = {(entry.machine, entry.op, entry.place): entry for entry in (*read(name), *found)}
    return _write(name, entries.values())


def forget(name: str) -> int:
    """Remove this machine's entries of the op; how many there were."""
    entries = read(name)
    kept = [entry for entry in entries if entry.machine != _machine_if_there(entry.machine.kind)]
    if len(kept) < len(entries):
        _write(name, kept)
    return len(entries) - len(kept)


def _write(name: str, entries: Iterable[Tuned]) -> Path:
    path = file_of(name)
    text = json.dumps({"schema": SCHEMA, "entries": [asdict(entry) for entry in entries]}, indent=1)
    write_atomically(path, text + "\n", mode=0o600)
    return path


def _tuned(given: Any) -> Tuned:
    tile = tuple(given["tile"])
    if len(tile) != numbers_of(given["kernel"]) or not all(
        type(number) is int and 0 <= number <= 4096 for number in tile
    ):
        raise ValueError(f"{given['tile']!r} is no tile")
    return Tuned(**{**given, "machine": Machine(**given["machine"]), "tile": tile})
