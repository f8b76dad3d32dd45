"""Fills Triton's cache for `benchmarks.gpu.cells kernels`.

    python -m benchmarks.gpu.compiled DEVICE PROCESSES SPEC...

The bench's own calls run on small CPU tensors, in several processes, and a launch compiles, so that what the bench asks
for later is there. It takes no GPU: `cpu` compiles for sm_90, and the cache then serves a machine with the same Triton
and Python on which TRITON_CACHE_DIR is the same path.
"""

import sys
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from itertools import product
from multiprocessing import get_context

import torch

from attngen import api, catalog
from attngen.audit import compile as audit
from attngen.audit.launch import launching_on_cpu
from attngen.audit.targets import TARGETS
from attngen.bench.contend import task_of, timed_part
from attngen.bench.grid import Cell, gpu_cells
from attngen.bench.peer import Attention
from attngen.bench.subject import subject
from attngen.build import Build, Precision, Target, precision_of
from attngen.tune.cost import target_of
from attngen.verify.case import Case

_LENGTH = 64  # of the queries and keys: all that a kernel is compiled for is that 16 divides it


def calls(specs: tuple[str, ...]) -> Iterator[Cell]:
    """The grid's cells, each kind once."""
    kinds = dict.fromkeys(replace(cell, case=_small(cell)) for cell in gpu_cells(specs, quick=True))
    yield from kinds


def _small(cell: Cell) -> Case:
    case = cell.case
    return replace(case, batch=1, n_q=min(case.n_q, _LENGTH), n_k=_LENGTH, is_causal=False)


def compile_cell(target: str, build: Build, cell: Cell) -> tuple[str, int, str]:
    """What was compiled, how many kernels, and what went wrong."""
    benched = subject(cell.spec)
    op = api.load_text(catalog.read(cell.spec), {}, build)
    module = sys.modules[op.__module__]
    task = task_of(cell, replace(benched, op=op), "cpu")
    inputs = task.drawn.operands.inputs

    def launch() -> None:
        with launching_on_cpu(module):
            timed_part(Attention(lambda q, k, v: op(q, k, v, **inputs)), task)()

    found: tuple[audit.CompiledKernel, ...] = ()
    if precision_of(module) == build.precision:  # else it is the exact one once more
        found = audit.compile_launches(TARGETS[target], audit.Case(cell.case.d, cell.case.dtype), launch)
    title = f"{cell.title}, {build.target}, {build.precision}"
    return title, len(found), "; ".join(kernel.error for kernel in found if kernel.error)


def main() -> None:
    device, processes, *specs = sys.argv[1:]
    target = target_of(torch.cuda.get_device_capability()) if device == "cuda" else "sm_90"
    kinds: tuple[Target, ...] = ("any", "hopper") if target == "sm_90" else ("any",)
    precisions: tuple[Precision, ...] = ("exact", "fast")
    builds = [Build(kind, precision) for kind, precision in product(kinds, precisions)]
    begin = time.monotonic()
    with ProcessPoolExecutor(int(processes), get_context("spawn")) as pool:
        every = product(calls(tuple(specs)), builds)
        asked = [pool.submit(compile_cell, target, build, cell) for cell, build in every]
        for done in asked:
            title, count, errors = done.result()
            print(f"{time.monotonic() - begin:5.0f} s  {title}: {count} kernels {errors}", flush=True)


if __name__ == "__main__":
    main()
