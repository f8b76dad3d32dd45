"""Audits every shipped op for one GPU that need not be there, and writes a row per kernel and head dim.

    python benchmarks/audit_specs.py [--target sm_90] [--only softmax] [--processes 2]

The kernels are those that a module launches, and for sm_90 those in Gluon as well. Writes
benchmarks/results/audit-TARGET.json, prints the bars (`attngen.audit.bars`) that rows miss, and fails if an op fails to
compile or misses a bar by more than `known_misses.json` knows. About 15 s per op that isn't in Triton's cache. Full and
causal calls run the same kernels.
"""

import argparse
import json
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import triton

from attngen import catalog
from attngen.audit.bars import HEAD_DIMS, misses
from attngen.audit.compile import Case, compile_launches
from attngen.audit.known import read_known, worse_than_known
from attngen.audit.launch import launch_forward, launch_kernels
from attngen.audit.module import row_of
from attngen.audit.report import Row
from attngen.audit.targets import TARGETS
from attngen.build import Build
from attngen.paths import data_dir
from attngen.pipeline import Compilation, compile_spec
from attngen.runtime.loader import load_module

KNOWN = Path(__file__).parent / "known_misses.json"


def audited(target: str, spec: str) -> tuple[list[dict[str, Any]], list[str]]:
    """The rows of one op, as they are written, and what of them is worse than known."""
    text, known = catalog.read(spec), read_known(KNOWN)
    rows = rows_of(target, compile_spec(text.text, text.path), launch_kernels)
    if target == "sm_90":
        hopper = compile_spec(text.text, text.path, build=Build("hopper"))
        launch = (
            partial(launch_kernels, differentiate=False) if "_backward_hopper(" in hopper.source else launch_forward
        )
        rows += [row for row in rows_of(target, hopper, launch) if "_hopper" in row.kernel]
    worse = [f"{row.title}: {miss}" for row in rows for miss in worse_than_known(row, spec, known)]
    return [written(spec, row) for row in rows], worse


def rows_of(target: str, compilation: Compilation, launch: Callable[..., None]) -> list[Row]:
    module, normalizer = load_module(compilation), compilation.normalizer
    found: list[Row] = []
    for case in map(Case, HEAD_DIMS):
        found += map(row_of, compile_launches(TARGETS[target], case, partial(launch, module, normalizer, case)))
    return found


def written(spec: str, row: Row) -> dict[str, Any]:
    need = row.resources
    told = {
        "spec": spec,
        "kernel": row.kernel.removeprefix(f"{spec}_"),
        "head_dim": row.head_dim,
        "tile": [row.block_m, row.block_n, row.num_warps, row.num_stages],
    }
    if need is None:
        return told | {"error": row.error}
    return told | {
        "registers": need.registers,
        "ctas": need.ctas,
        "spill_stores": need.spill_stores,
        "spill_loads": need.spill_loads,
        "waits_per_product": round(need.waits_per_product, 3),
        "instructions_per_tile": round(need.instructions_per_tile),
        "special_per_score": round(need.special_per_score, 3),
        "special_under_products": round(need.special_under_products, 3),
        "misses": list(map(str, misses(row, spec))),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--target", choices=TARGETS, default="sm_90")
    parser.add_argument("--only", nargs="+", help="these specs; nothing is written then")
    parser.add_argument("--processes", type=int, default=2)
    asked = parser.parse_args()
    specs = asked.only or sorted(path.stem for path in (data_dir() / "specs").glob("*.yaml"))
    rows: list[dict[str, Any]] = []
    failed = False
    with ProcessPoolExecutor(asked.processes, get_context("spawn")) as pool:
        for found, worse in pool.map(partial(audited, asked.target), specs):
            rows += found
            errors = [f"{row['kernel']} of {row['spec']}: {row['error']}" for row in found if "error" in row]
            for line in (*errors, *worse):
                print(line, flush=True)
            failed |= bool(errors or worse)
    if not asked.only:
        write(asked.target, rows)
    sys.exit(failed)


def write(target: str, rows: list[dict[str, Any]]) -> None:
    """One row per line, so that a difference shows what changed."""
    head = json.dumps({"target": target, "triton": triton.__version__, "dtype": "bfloat16"})[:-1]
    lines = ",\n".join(json.dumps(row) for row in rows)
    path = Path(__file__).parent / "results" / f"audit-{target}.json"
    path.write_text(f'{head}, "rows": [\n{lines}\n]}}\n', "utf-8")


if __name__ == "__main__":
    main()
