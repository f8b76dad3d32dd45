"""The compile-only search: every candidate is compiled for a GPU that need not be there, and its machine code is read.

One outcome per tile, the worst of all ops in each number: a tile has to hold for every formula. Best first: nothing
wrong, then loads in a pipeline, then resident warps per scheduler (up to 3 count), then instructions per score. A rank
says where to look, it is no time. The rows of `attngen/emit/configs.py` come from here. Several processes, seconds for
each candidate that isn't in Triton's cache.
"""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache, partial
from itertools import chain
from multiprocessing import get_context
from types import ModuleType

from attngen import catalog
from attngen.audit.compile import Case, compile_launches
from attngen.audit.launch import launch_kernels
from attngen.audit.module import row_of
from attngen.audit.report import Row
from attngen.audit.targets import TARGETS
from attngen.build import Build, Precision
from attngen.ir import Normalizer
from attngen.pipeline import compile_spec
from attngen.runtime.loader import load_module
from attngen.runtime.replaced import replaced
from attngen.runtime.tiles import HOPPER_KERNELS, Tile, overrides_of
from attngen.tune.candidates import candidates, computing_warps, hopper_candidates, is_unpipelined

ENOUGH_WARPS = 3  # per scheduler; beyond, larger tiles are worth more
Progress = Callable[[int, int], bool]  # (candidates done, candidates in all) -> whether to go on


@dataclass(frozen=True, slots=True)
class Question:
    """Which kernel is to be given a tile, on which GPU, for which calls. A plain one is that of any build."""

    kernel: str
    target: str
    case: Case
    precision: Precision = "exact"

    @property
    def build(self) -> Build:
        return Build("hopper" if self.kernel in HOPPER_KERNELS else "any", self.precision)

    @property
    def itemsize(self) -> int:
        return 4 if self.case.dtype == "float32" else 2


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a tile needs, the worst of all ops."""

    tile: Tile
    registers: int
    shared: int
    ctas: int
    waits: float  # per HGMMA
    per_score: float  # instructions of the main loop
    problems: tuple[str, ...]

    @property
    def warps_per_scheduler(self) -> float:
        return self.ctas * computing_warps(self.tile) / 4

    @property
    def rank(self) -> tuple[int, bool, float, float]:
        warps = min(self.warps_per_scheduler, ENOUGH_WARPS)
        return len(self.problems), is_unpipelined(self.tile), -warps, self.per_score


def ranked(
    specs: tuple[str, ...], question: Question, tiles: tuple[Tile, ...], processes: int, progress: Progress
) -> tuple[Outcome, ...]:
    """The outcomes of the tiles, all candidates if none is given, best first. Ops without such a kernel don't count."""
    tiles = tiles or _candidates(specs, question)
    rows: dict[Tile, list[Row]] = {}
    with ProcessPoolExecutor(processes, get_context("spawn")) as pool:  # a process with a GPU's context can't be forked
        trials = [(tile, pool.submit(_compiled, spec, question, tile)) for tile in tiles for spec in specs]
        for done, (tile, trial) in enumerate(trials):
            row = trial.result()
            if row is not None:
                rows.setdefault(tile, []).append(row)
            if not progress(done + 1, len(trials)):
                pool.shutdown(cancel_futures=True)
                break
    return tuple(sorted((outcome(tile, found) for tile, found in rows.items()), key=lambda o: o.rank))


def _candidates(specs: tuple[str, ...], question: Question) -> tuple[Tile, ...]:
    """Those of any of the ops."""
    if question.kernel not in HOPPER_KERNELS:
        return candidates(question.kernel, question.itemsize)
    modules = (_loaded(spec, question.build)[0] for spec in specs)
    found = (hopper_candidates(module, question.kernel, question.case.head_dim) for module in modules)
    return tuple(dict.fromkeys(chain.from_iterable(found)))


@cache
def _loaded(spec: str, build: Build) -> tuple[ModuleType, Normalizer]:
    text = catalog.read(spec)
    compilation = compile_spec(text.text, text.path, build=build)
    return load_module(compilation), compilation.normalizer


def _compiled(spec: str, question: Question, tile: Tile) -> Row | None:
    """The kernel's row, or None if the op has no such kernel."""
    module, normalizer = _loaded(spec, question.build)
    launch = partial(launch_kernels, module, normalizer, question.case)
    with replaced(module, {"OVERRIDES": overrides_of(module, question.kernel, tile)}):
        launches = compile_launches(TARGETS[question.target], question.case, launch)
    name = f"{normalizer.name}_{question.kernel}"
    is_solo = question.kernel in HOPPER_KERNELS and computing_warps(tile) == 4
    wanted = (kernel for kernel in launches if kernel.name.startswith(f"{name}_solo" if is_solo else name))
    return next(map(row_of, wanted), None)


def problems(row: Row) -> Iterator[str]:
    """Why a tile should not be used, in a few words each."""
    need = row.resources
    if need is None:
        yield "no code"
        return
    if need.shared > need.shared_limit:
        yield "shared memory"
    elif need.ctas == 0:
        yield "no room"
    if (need.spills or need.stack) and not row.may_spill:
        yield f"{need.spills} spills"
    products = need.matrix.get("HGMMA", 0)
    if row.target == "sm_90" and row.dtype != "float32" and not products:
        yield "no wgmma"
    if need.waits_per_product > 0.5:
        yield "serialized"


def outcome(tile: Tile, rows: Iterable[Row]) -> Outcome:
    """The worst of the rows in each number."""
    rows = tuple(rows)
    needs = [row.resources for row in rows if row.resources]
    per_score = rows[0].num_warps * TARGETS[rows[0].target].warp_size / (rows[0].block_m * rows[0].block_n)
    return Outcome(
        tile=tile,
        registers=max((n.registers for n in needs), default=0),
        shared=max((n.shared for n in needs), default=0),
        ctas=min((n.ctas for n in needs), default=0),
        waits=max((n.waits_per_product for n in needs), default=0.0),
        per_score=max((n.main_loop_instructions for n in needs), default=0) * per_score,
        problems=tuple(f"{row.kernel}: {problem}" for row in rows for problem in problems(row)),
    )


def target_of(capability: tuple[int, int]) -> str:
    """The target whose machine code tells most about a GPU of this compute capability: its own, or the next older."""
    arch = 10 * capability[0] + capability[1]
    return "sm_100" if arch >= 100 else "sm_90" if arch >= 90 else "sm_80"
