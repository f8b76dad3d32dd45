"""Audits a generated module: every kernel and configuration, compiled for GPUs that need not be there.

The rows say what the code asks of the hardware, not how long it takes.
"""

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import ModuleType

import triton

from attngen.audit.compile import Case, CompiledKernel, compile_launches
from attngen.audit.launch import launch_kernels
from attngen.audit.machine_code import MachineCode, of_kind, read_machine_code
from attngen.audit.overlap import special_under_products
from attngen.audit.report import Audit, Resources, Row
from attngen.audit.targets import TARGETS, Target
from attngen.ir import Normalizer

TILE = 64 * 128  # scores; what four warps have in hand on Hopper, so that kernels with other tiles compare


@dataclass(frozen=True, slots=True)
class Request:
    """What to audit: every combination of these, causal and not; and the folder that gets the binaries, if any."""

    targets: tuple[str, ...] = tuple(TARGETS)
    head_dims: tuple[int, ...] = (64, 128)
    dtypes: tuple[str, ...] = ("bfloat16",)
    save_binary: Path | None = None

    def cases(self) -> tuple[Case, ...]:
        return tuple(
            Case(head_dim, dtype, is_causal)
            for dtype in self.dtypes
            for head_dim in self.head_dims
            for is_causal in (False, True)
        )


def audit_module(
    module: ModuleType,
    normalizer: Normalizer,
    request: Request,
    progress: Callable[[str], None] = lambda line: None,
) -> Audit:
    """Compile the op that `module` holds for `normalizer`, forward and backward, and read the machine code.

    About a second per row that isn't in Triton's cache yet. `progress` is told what comes next. Process-global.
    """
    rows: list[Row] = []
    for target in (TARGETS[name] for name in request.targets):
        for case in request.cases():
            progress(f"{target.name}, head dim {case.head_dim}, {case.dtype}, {case.mask}")
            launches = (partial(launch_kernels, module, normalizer, case, way) for way in _ways(module, normalizer))
            found = (kernel for launch in launches for kernel in compile_launches(target, case, launch))
            kernels = tuple({kernel.name: kernel for kernel in found}.values())
            rows += map(row_of, kernels)
            if request.save_binary is not None:
                save_binaries(request.save_binary, kernels)
    return Audit(normalizer.name, triton.__version__, tuple(rows))


def _ways(module: ModuleType, normalizer: Normalizer) -> tuple[bool, ...]:
    """With gradients of inputs; and without, where another kernel serves then."""
    others = hasattr(module, "launch_backward_hopper") and any(declared.grad for declared in normalizer.inputs)
    return (True, False) if others else (True,)


def row_of(kernel: CompiledKernel) -> Row:
    """What one compiled kernel needs; it is a row of the report."""
    resources = None if kernel.code is None else _resources(kernel, read_machine_code(kernel.code))
    return Row(
        target=kernel.target.name,
        kernel=kernel.name,
        head_dim=kernel.case.head_dim,
        dtype=kernel.case.dtype,
        mask=kernel.case.mask,
        block_m=kernel.constants.get("BLOCK_M", 0),
        block_n=kernel.constants.get("BLOCK_N", 0),
        num_warps=kernel.constants.get("num_warps", 0),
        num_stages=kernel.constants.get("num_stages", 0),
        resources=resources,
        error=kernel.error,
    )


def _resources(kernel: CompiledKernel, code: MachineCode) -> Resources:
    target, metadata = kernel.target, kernel.code.metadata
    every, loop = code.instructions, code.main_loop()
    special, scores = of_kind(loop, "special").total(), _scores_per_thread(kernel, target)
    tensor_memory = getattr(metadata, "tmem_size", None) or 0
    return Resources(
        registers=code.registers,
        stack=code.stack,
        spill_stores=of_kind(every, "spill store").total(),
        spill_loads=of_kind(every, "spill load").total(),
        shared=metadata.shared,
        shared_limit=target.shared_per_cta,
        ctas=target.ctas_that_fit(code.registers, metadata.num_warps, metadata.shared, tensor_memory),
        instructions=len(every),
        matrix=dict(of_kind(every, "matrix")),
        special=dict(of_kind(every, "special")),
        async_copies=of_kind(every, "async").total(),
        waits=of_kind(every, "wait").total(),
        main_loop_instructions=len(loop),
        main_loop_special=special,
        instructions_per_tile=len(loop) * TILE / (4 * target.warp_size) / scores,
        special_per_score=special / scores,
        special_under_products=special_under_products(loop) / special if special else 1.0,
    )


def _scores_per_thread(kernel: CompiledKernel, target: Target) -> float:
    """Of one tile; special function instructions are issued once per thread and value.

    The launch says how many warps share a tile. Where warps specialize, a kernel has more of them.
    """
    threads: int = kernel.constants.get("num_warps", kernel.code.metadata.num_warps) * target.warp_size
    scores: int = kernel.constants.get("BLOCK_M", 1) * kernel.constants.get("BLOCK_N", 1)
    return scores / threads


def save_binaries(folder: Path, kernels: Iterable[CompiledKernel]) -> None:
    """The binary of each kernel, and beside it the compiler's assembly: .cubin and .ptx, or .hsaco and .amdgcn."""
    folder.mkdir(parents=True, exist_ok=True)
    for kernel in kernels:
        for suffix, content in _binaries(kernel):
            (folder / f"{_stem(kernel)}.{suffix}").write_bytes(content)


def _binaries(kernel: CompiledKernel) -> Iterator[tuple[str, bytes]]:
    asm = {} if kernel.code is None else kernel.code.asm
    for suffix in ("cubin", "ptx", "hsaco", "amdgcn"):
        if suffix in asm:
            yield suffix, asm[suffix] if isinstance(asm[suffix], bytes) else asm[suffix].encode()


def _stem(kernel: CompiledKernel) -> str:
    case = kernel.case
    name = f"{kernel.name}.{kernel.target.name}.d{case.head_dim}.{case.dtype}.{case.mask}"
    return re.sub(r"[^\w.]", "_", name)
