"""What the native CPU kernels are held to, from a run of the bench: each case's time relative to its peer's.

    attngen bench softmax sigmoid softplus_l1 affine_scaled --device cpu --quick -o run.json
    python benchmarks/cpu_targets.py run.json

Prints a table in Markdown: the ratio of medians, what it is to be at most, both errors against float64, and the least
ratio that the machine allows: what a plain matrix product of the operations takes in the same run, or reading the
keys and values once for a single query, by the peer's time. It measures nothing itself.
"""

import argparse
from dataclasses import dataclass
from pathlib import Path

from attngen.bench.grid import Direction, Quantity
from attngen.bench.record import BenchRun, Result, read
from attngen.bench.report import by_cell, share_of_ceiling

OURS, COMPILED = "attngen", "written out, compiled"


@dataclass(frozen=True)
class Target:
    case: str
    spec: str
    peer: str
    at_most: float
    direction: Direction = "forward"
    dtype: str = "float32"
    is_causal: bool = False
    is_decoding: bool = False
    quantity: Quantity = "time"

    def fits(self, result: Result) -> bool:
        cell = result.cell
        mine = (self.spec, self.direction, self.dtype, self.is_causal, self.is_decoding, self.quantity)
        case = cell.case
        return mine == (cell.spec, cell.direction, case.dtype, case.is_causal, cell.is_decoding, cell.quantity)


TARGETS = (
    Target("sigmoid forward", "sigmoid", "SDPA of softmax", 0.50),
    Target("softmax forward", "softmax", "SDPA", 0.70),
    Target("softmax forward", "softmax", "SDPA", 0.60, dtype="bfloat16"),
    Target("sigmoid forward", "sigmoid", "SDPA of softmax", 0.45, dtype="bfloat16"),
    Target("softmax forward + backward", "softmax", "SDPA", 0.80, "both"),
    Target("sigmoid forward + backward", "sigmoid", COMPILED, 0.40, "both"),
    Target("softplus_l1 forward + backward", "softplus_l1", COMPILED, 0.40, "both"),
    Target("affine_scaled forward + backward", "affine_scaled", COMPILED, 0.40, "both"),
    Target("softmax forward", "softmax", "FlexAttention", 0.30),
    Target("softmax forward, causal", "softmax", "attngen, all keys", 0.60, is_causal=True),
    Target("sigmoid forward, causal", "sigmoid", "attngen, all keys", 0.60, is_causal=True),
    Target("softmax, one query over 16k keys", "softmax", "SDPA", 0.80, is_decoding=True),
    Target("softmax, peak memory, 8192 rows", "softmax", COMPILED, 0.15, "both", quantity="memory"),
    Target("sigmoid, peak memory, 8192 rows", "sigmoid", COMPILED, 0.15, "both", quantity="memory"),
)


def row(target: Target, run: BenchRun) -> str:
    found = [results for _, results in by_cell(run.results) if target.fits(results[0])]
    by_name = {result.contender: result for results in found for result in results if result.status == "measured"}
    if OURS not in by_name or target.peer not in by_name:
        return f"| {target.case} | {target.dtype} | {target.peer} | {target.at_most:.2f} | not measured | | | |"
    ours, peer = by_name[OURS], by_name[target.peer]
    named = f"| {target.case} | {target.dtype} | {target.peer} | {target.at_most:.2f} "
    return named + f"| {ratio(ours, peer):.2f} | {least(run, ours, peer)} | {error(ours)} | {error(peer)} |"


def ratio(ours: Result, peer: Result) -> float:
    if ours.times and peer.times:
        return ours.times.median / peer.times.median
    return (ours.peak_bytes or 0) / (peer.peak_bytes or 1)


def least(run: BenchRun, ours: Result, peer: Result) -> str:
    share = share_of_ceiling(run, ours)
    return "" if share is None else f"{share * ratio(ours, peer):.2f}"


def error(result: Result) -> str:
    errors = [x for x in (result.errors or {}).values() if x is not None]
    return f"{max(errors):.0e}" if errors else ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    for run in read(parser.parse_args().file):
        print("| case | type | peer | at most | ratio | least here | error | peer's error |\n|" + "---|" * 8)
        print(*(row(target, run) for target in TARGETS), sep="\n")


if __name__ == "__main__":
    main()
