"""Searches tile configurations without a GPU: compiles each candidate, reads the machine code, ranks what it finds.

    python benchmarks/search_tiles.py --target sm_90 --head-dim 128 --kernel forward
    python benchmarks/search_tiles.py --kernel backward_key --tile 64,64,4,2 --tile 32,64,4,2 specs/softmax.yaml

One line per candidate, the worst of all specs in each column: a tile has to hold for every formula. Best first: nothing
wrong, then resident warps per scheduler (up to 3 count), then instructions per score. A rank is where to look, no time:
nothing is run. Two processes, some seconds per candidate and spec. Rows of `attngen/emit/configs.py` come from here.
"""

from argparse import ArgumentParser, Namespace, RawDescriptionHelpFormatter
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache, partial
from itertools import product
from pathlib import Path
from types import ModuleType

from attngen.audit.compile import Case, compile_launches
from attngen.audit.launch import launch_kernels
from attngen.audit.module import row_of
from attngen.audit.report import Row
from attngen.audit.targets import TARGETS
from attngen.ir import Normalizer
from attngen.pipeline import compile_spec
from attngen.runtime.loader import load_module

Tile = tuple[int, int, int, int]  # queries, keys, warps, stages

ROOT = Path(__file__).parents[1]
SPECS = sorted([*ROOT.glob("specs/*.yaml"), *ROOT.glob("benchmarks/specs/*.yaml")])
KERNELS = ("forward", "backward_query", "backward_key", "backward_pair")
ENOUGH_WARPS = 3  # per scheduler; beyond, larger tiles are worth more


@dataclass(frozen=True, slots=True)
class Trial:
    """A tile for one kernel of one spec."""

    spec: str
    kernel: str
    tile: Tile
    target: str
    case: Case


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a tile needs, the worst of all specs."""

    tile: Tile
    registers: int
    shared: int
    ctas: int
    waits: float  # per HGMMA
    per_score: float  # instructions of the main loop
    problems: tuple[str, ...]

    @property
    def warps_per_scheduler(self) -> float:
        return self.ctas * self.tile[2] / 4

    @property
    def rank(self) -> tuple[int, float, float]:
        return len(self.problems), -min(self.warps_per_scheduler, ENOUGH_WARPS), self.per_score


def candidates(kernel: str, itemsize: int) -> list[Tile]:
    """Blocks of scores that give each warp at least 16 rows of its own, so that no two compute the same scores."""
    blocks = (16, 32, 64, 128) if itemsize == 2 else (16, 32, 64)
    found = []
    for block_m, block_n, warps, stages in product(blocks, blocks, (4, 8), (1, 2, 3)):
        own = block_n if kernel == "backward_key" else block_m  # scores stand transposed there
        if own >= 16 * warps and 512 <= block_m * block_n <= 128 * 128:
            found.append((block_m, block_n, warps, stages))
    return found


@cache
def loaded(spec: str) -> tuple[ModuleType, Normalizer]:
    compilation = compile_spec(Path(spec).read_text("utf-8"), spec)
    return load_module(compilation), compilation.normalizer


def compiled(trial: Trial) -> Row | None:
    """The kernel's row, or None if the op has no such kernel."""
    module, normalizer = loaded(trial.spec)
    module.OVERRIDES.clear()
    module.OVERRIDES[trial.kernel] = module.Tile(*trial.tile)
    launch = partial(launch_kernels, module, normalizer, trial.case)
    launches = compile_launches(TARGETS[trial.target], trial.case, launch)
    wanted = (kernel for kernel in launches if kernel.name.startswith(f"{normalizer.name}_{trial.kernel}"))
    return next(map(row_of, wanted), None)


def problems(row: Row) -> Iterable[str]:
    need = row.resources
    if need is None:
        yield "no code"
        return
    if need.shared > need.shared_limit:
        yield "shared memory"
    elif need.ctas == 0:
        yield "no room"
    if need.spills or need.stack:
        yield f"{need.spills} spills"
    products = need.matrix.get("HGMMA", 0)
    if row.target == "sm_90" and row.dtype != "float32" and not products:
        yield "no wgmma"
    if products and need.waits > products / 2:
        yield "serialized"


def outcome(tile: Tile, rows: list[Row]) -> Outcome:
    needs = [row.resources for row in rows if row.resources]
    per_score = tile[2] * TARGETS[rows[0].target].warp_size / (tile[0] * tile[1])
    return Outcome(
        tile=tile,
        registers=max((n.registers for n in needs), default=0),
        shared=max((n.shared for n in needs), default=0),
        ctas=min((n.ctas for n in needs), default=0),
        waits=max((n.waits / max(1, n.matrix.get("HGMMA", 0)) for n in needs), default=0.0),
        per_score=max((n.main_loop_instructions for n in needs), default=0) * per_score,
        problems=tuple(f"{row.kernel}: {problem}" for row in rows for problem in problems(row)),
    )


def report(outcomes: Iterable[Outcome]) -> None:
    print("tile                  regs  shared  CTAs  warps/scheduler  waits/HGMMA  instructions/score  problems")
    for o in sorted(outcomes, key=lambda o: o.rank):
        m, n, warps, stages = o.tile
        tile = f"{m}x{n}, {warps} warps, {stages} st."
        needs = f"{o.registers:6}{o.shared / 1024:8.1f}{o.ctas:6}{o.warps_per_scheduler:17g}"
        speed = f"{o.waits:13.2f}{o.per_score:20.1f}"
        print(f"{tile:20}{needs}{speed}  {', '.join(o.problems[:3])}{' ...' if len(o.problems) > 3 else ''}")


def search(options: Namespace) -> None:
    case = Case(options.head_dim, options.dtype)
    tiles = [_tile(text) for text in options.tile] or candidates(options.kernel, 4 if case.dtype == "float32" else 2)
    specs = [str(path) for path in options.specs or SPECS]
    trials = [Trial(spec, options.kernel, tile, options.target, case) for tile in tiles for spec in specs]
    with ProcessPoolExecutor(2) as pool:
        rows = list(pool.map(compiled, trials))
    found: dict[Tile, list[Row]] = {}
    for trial, row in zip(trials, rows, strict=True):
        if row is not None:
            found.setdefault(trial.tile, []).append(row)
    report(outcome(tile, rows) for tile, rows in found.items())


def _tile(text: str) -> Tile:
    block_m, block_n, warps, stages = map(int, text.split(","))
    return block_m, block_n, warps, stages


def _options() -> Namespace:
    parser = ArgumentParser(description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument("specs", nargs="*", type=Path, help="all shipped ones and those in benchmarks/specs by default")
    parser.add_argument("--target", choices=list(TARGETS), default="sm_90")
    parser.add_argument("--kernel", choices=KERNELS, default="forward")
    parser.add_argument("--head-dim", type=int, default=64)
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--tile", action="append", default=[], metavar="M,N,WARPS,STAGES", help="try these alone")
    return parser.parse_args()


if __name__ == "__main__":
    search(_options())
