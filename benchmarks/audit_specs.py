"""Audits every shipped op for one GPU that need not be there, and writes a row per kernel and head dim.

    python benchmarks/audit_specs.py [--target sm_90] [--only softmax] [--processes 2]

Writes benchmarks/results/audit-TARGET.json, prints the bars (`attngen.audit.bars`) that rows miss, and fails if an op
fails to compile. About 15 s per op that isn't in Triton's cache. Full and causal calls run the same kernels.
"""

import argparse
import json
import sys
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import triton

from attngen import catalog
from attngen.audit.bars import HEAD_DIMS, misses
from attngen.audit.compile import Case, compile_launches
from attngen.audit.launch import launch_kernels
from attngen.audit.module import row_of
from attngen.audit.report import Row
from attngen.audit.targets import TARGETS
from attngen.paths import data_dir
from attngen.pipeline import compile_spec
from attngen.runtime.loader import load_module


def audited(target: str, spec: str) -> list[dict[str, Any]]:
    """The rows of one op, as they are written."""
    text = catalog.read(spec)
    compilation = compile_spec(text.text, text.path)
    module, normalizer = load_module(compilation), compilation.normalizer
    found = []
    for case in map(Case, HEAD_DIMS):
        launch = partial(launch_kernels, module, normalizer, case)
        found += [written(spec, row_of(kernel)) for kernel in compile_launches(TARGETS[target], case, launch)]
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
    rows = []
    with ProcessPoolExecutor(asked.processes, get_context("spawn")) as pool:
        for found in pool.map(partial(audited, asked.target), specs):
            rows += found
            for row in found:
                name = f"{row['spec']} {row['kernel']}, head dim {row['head_dim']}"
                for line in [row["error"]] if "error" in row else row["misses"]:
                    print(f"{name}: {line}", flush=True)
    if not asked.only:
        write(asked.target, rows)
    sys.exit(any("error" in row for row in rows))


def write(target: str, rows: list[dict[str, Any]]) -> None:
    """One row per line, so that a difference shows what changed."""
    head = json.dumps({"target": target, "triton": triton.__version__, "dtype": "bfloat16"})[:-1]
    lines = ",\n".join(json.dumps(row) for row in rows)
    path = Path(__file__).parent / "results" / f"audit-{target}.json"
    path.write_text(f'{head}, "rows": [\n{lines}\n]}}\n', "utf-8")


if __name__ == "__main__":
    main()
