"""A tuning of one op on the device at hand: which questions are asked, which candidates each gets, what is kept.

On a GPU candidates are compiled first and read (`attngen.tune.cost`); what spills, doesn't fit or serializes is out,
and the best by rank are timed. On the CPU the blocks of the path that the op takes are timed. Kernels are tuned one
after the other, each with the tiles that were found for those before it; those for Hopper last, which have to be faster
than the plain ones. What was found is kept where an op that is loaded through `attngen.load` finds it; nothing else
changes.
"""

import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import product
from types import ModuleType

import torch

from attngen.audit import compile as audit
from attngen.bench.grid import HIDDEN, TOKENS
from attngen.bench.measure import clock_for
from attngen.build import precision_of
from attngen.runtime.tiles import HOPPER_KERNELS, Tile, Tuned, digest_of, keep, this_machine, tile_in
from attngen.tune import cost
from attngen.tune.candidates import KERNELS, NATIVE, PORTABLE, candidates, hopper_candidates
from attngen.tune.search import Found, Progress, Question, Watch, search
from attngen.verify.case import Case, DType, Form
from attngen.verify.subject import Subject

TIMED = 12  # candidates of each question that are timed on a GPU


@dataclass(frozen=True, slots=True)
class Wanted:
    """For which calls of an op tiles are wanted, and for how long. `length` None: 4096 on a GPU, 2048 on a CPU."""

    spec: str
    device: str
    dtypes: tuple[DType, ...]
    head_dims: tuple[int, ...]
    minutes: float
    masks: tuple[bool, ...] = (False, True)
    kernels: tuple[str, ...] = ()
    length: int | None = None


def tune(subject: Subject, wanted: Wanted, progress: Progress, watch: Watch | None = None) -> Iterator[Found]:
    """Search, question by question; what the op doesn't do by itself is kept before the next one begins."""
    assert subject.module is not None
    subject.module.TUNED.clear()
    watch = watch or Watch(clock_for(wanted.device), time.monotonic() + 60 * wanted.minutes)
    for question in questions(subject, wanted):
        if watch.now() > watch.end:
            return
        found = search(subject, question, _tiles(subject, wanted, question, watch, progress), watch, progress)
        if found.is_news:
            _keep(subject, found, wanted.device)
        yield found


def questions(subject: Subject, wanted: Wanted) -> Iterator[Question]:
    """Every combination that is wanted, the kernels of one call together."""
    kernels = wanted.kernels or _kernels_of(subject, wanted.device)
    for dtype, width, masked, kernel in product(wanted.dtypes, wanted.head_dims, wanted.masks, kernels):
        question = Question(kernel, _timed_case(subject, wanted, dtype, width, masked), _checks(dtype, width))
        if kernel not in HOPPER_KERNELS or _is_served(subject.module, question):
            yield question


def _kernels_of(subject: Subject, device: str) -> tuple[str, ...]:
    """The kernels that the op launches on the device; on a CPU, the path that it takes there."""
    assert subject.module is not None
    if device == "cpu":
        native = subject.module._on_native(torch.empty(1, 1, 1, 1))
        return (NATIVE if native else PORTABLE,)
    names = [name.removeprefix(f"{subject.normalizer.name}_") for name in subject.module.KERNELS]
    return tuple(kernel for kernel in KERNELS if any(name.startswith(kernel) for name in names))


def _is_served(module: ModuleType | None, question: Question) -> bool:
    """Whether a kernel for Hopper of the module serves such calls on this GPU."""
    if module is None or question.kernel not in getattr(module, "HOPPER_TILES", ()):
        return False
    one = torch.empty(1, 1, 1, question.case.d, dtype=getattr(torch, question.case.dtype))
    call = module._call(one, one, question.case.is_causal, None, None, "upper_left")
    return bool(module._on_hopper(question.kernel, one, one, one, call))


def _timed_case(subject: Subject, wanted: Wanted, dtype: DType, width: int, masked: bool) -> Case:
    omitted: Form = "omitted"
    forms = tuple((i.name, omitted) for i in subject.normalizer.inputs if i.default is not None)
    if wanted.device == "cpu":
        batch, heads, length = 1, 8, wanted.length or 2048
    else:
        length = wanted.length or 4096
        batch, heads = max(1, TOKENS // length), max(1, HIDDEN // width)
    return Case(batch=batch, kv_heads=heads, n_q=length, n_k=length, d=width, d_v=width, dtype=dtype,
                is_causal=masked, forms=forms)  # fmt: skip


def _checks(dtype: DType, width: int) -> tuple[Case, ...]:
    """Ragged lengths, grouped heads, full and masked, rows without keys."""
    return (
        Case(batch=2, kv_heads=2, group=2, n_q=257, n_k=257, d=width, d_v=width, dtype=dtype, is_causal=True),
        Case(kv_heads=2, n_q=130, n_k=300, d=width, d_v=width, dtype=dtype),
        Case(kv_heads=1, n_q=200, n_k=90, d=width, d_v=width, dtype=dtype, is_causal=True, alignment="lower_right"),
    )


def _tiles(
    subject: Subject, wanted: Wanted, question: Question, watch: Watch, progress: Progress
) -> tuple[Tile, ...]:  # fmt: skip
    """On a GPU the best by their machine code, without what is wrong with any; else all."""
    assert subject.module is not None
    if wanted.device == "cpu":
        itemsize = 4 if question.case.dtype == "float32" else 2
        for_hopper = hopper_candidates(subject.module, question.kernel, question.case.d)
        return for_hopper or candidates(question.kernel, itemsize)
    case = audit.Case(question.case.d, question.case.dtype, question.case.is_causal)
    target = "gfx942" if torch.version.hip else cost.target_of(torch.cuda.get_device_capability())
    asked = cost.Question(question.kernel, target, case, precision_of(subject.module))
    return tiles_of_gpu(wanted.spec, subject.module, asked, _compiling(watch, progress))


def tiles_of_gpu(spec: str, module: ModuleType, asked: cost.Question, told: cost.Progress) -> tuple[Tile, ...]:
    """The best by their machine code, without what is wrong with any. The shipped tile for Hopper comes first."""
    shipped = hopper_candidates(module, asked.kernel, asked.case.head_dim)[:1]
    outcomes = cost.ranked((spec,), asked, (), max(1, (os.cpu_count() or 2) // 2), told)
    return tuple(dict.fromkeys((*shipped, *_promising(outcomes))))


def _promising(outcomes: tuple[cost.Outcome, ...]) -> tuple[Tile, ...]:
    """The best by rank and the best by instructions per score, in turn: many warps hide what few instructions avoid."""
    fitting = [outcome for outcome in outcomes if outcome.ctas]
    fine = [outcome for outcome in fitting if not outcome.problems] or fitting  # at head dim 256 all may spill
    lean = sorted(fine, key=lambda outcome: outcome.per_score)
    in_turn = (outcome.tile for pair in zip(fine, lean, strict=True) for outcome in pair)
    return tuple(dict.fromkeys(in_turn))[:TIMED]


def _compiling(watch: Watch, progress: Progress) -> Callable[[int, int], bool]:
    def told(done: int, of: int) -> bool:
        progress("compiling", done, of)
        return watch.now() < watch.end

    return told


def _keep(subject: Subject, found: Found, device: str) -> None:
    module, case = subject.module, found.question.case
    assert module is not None
    assert found.best.times is not None
    assert found.shipped.times is not None
    dtype: str = case.dtype
    if found.question.kernel == NATIVE:  # its tiles are looked up by what its products multiply
        dtype = str(module._product_type(torch.empty(0, dtype=getattr(torch, dtype)))).removeprefix("torch.")
    entry = Tuned(
        this_machine(device), digest_of(module), found.question.kernel, dtype, case.d, case.d_v, case.is_causal,
        found.best.tile, found.best.times.median, found.shipped.times.median, case.n_k,
    )  # fmt: skip
    keep(subject.normalizer.name, (entry,))
    module.TUNED[entry.place] = tile_in(module, entry.kernel, entry.tile)
