"""`attngen tune`: the command line's options, a progress bar, and what was found on the terminal.

It imports torch. How tiles are searched is `attngen.tune`'s; where they are kept, `attngen.runtime.tiles`'.
"""

import contextlib
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import product
from typing import Any

import click
import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from attngen import api, catalog
from attngen.audit.compile import Case
from attngen.audit.targets import TARGETS
from attngen.build import Build
from attngen.runtime import tiles
from attngen.spec.lower import read_spec
from attngen.tune import cost
from attngen.tune.candidates import KERNELS, tile_text
from attngen.tune.search import Found, Trial
from attngen.tune.session import Wanted, tune
from attngen.verify.case import DType
from attngen.verify.subject import Subject


@dataclass(frozen=True, slots=True)
class Asked:
    """The options as they were given; empty ones have defaults that depend on the device."""

    device: str
    dtypes: tuple[DType, ...]
    head_dims: tuple[int, ...]
    names: tuple[str, ...]  # of kernels
    minutes: float
    build: Build


def run(specs: tuple[str, ...], asked: Asked) -> None:
    """Tune the ops one after the other. Raises ValueError where the device isn't there."""
    if asked.device == "cuda" and not torch.cuda.is_available():
        raise ValueError(
            "there is no GPU that torch can use: --compile-only ranks tiles without one, "
            "--device cpu tunes the CPU's path"
        )
    if asked.device == "cpu" and asked.names:
        raise ValueError("--kernel is for GPUs: a CPU has one path, which is tuned as a whole")
    if asked.build.target != "hopper" and not set(asked.names).isdisjoint(tiles.HOPPER_KERNELS):
        raise ValueError("kernels for Hopper are those of --kernels hopper")
    half: DType = "float32" if asked.device == "cpu" else "bfloat16"
    widths = asked.head_dims or ((64,) if asked.device == "cpu" else (64, 128))
    any_news = False
    for spec in specs:
        subject, minutes = subject_of(spec, asked.device, asked.build), asked.minutes / len(specs)
        wanted = Wanted(spec, asked.device, asked.dtypes or (half,), widths, minutes, kernels=asked.names)
        with _bar() as bar:
            for found in tune(subject, wanted, bar):
                click.echo(_line(subject.normalizer.name, found))
                any_news |= found.is_news
    if any_news:
        click.echo(f"kept in {tiles.file_of('NAME')}; `attngen.load` uses it")


def subject_of(spec: str, device: str, build: Build) -> Subject:
    """The op as `attngen.load` gives it where the environment asks for the build."""
    text = catalog.read(spec)
    op = api.load_text(text, {}, build)
    return Subject(op, read_spec(text.text, text.path), sys.modules[op.__module__], device)


def forget(specs: tuple[str, ...]) -> None:
    """Remove what this machine found for the ops."""
    for spec in specs:
        text = catalog.read(spec)
        name = read_spec(text.text, text.path).name
        click.echo(f"{name}: {tiles.forget(name)} forgotten")


def compile_only(specs: tuple[str, ...], asked: Asked, target: str, given: tuple[tiles.Tile, ...]) -> None:
    """Rank candidates by what their machine code needs, for a GPU that need not be there; those that time allows."""
    if target not in TARGETS:
        raise ValueError(f"'{target}' is not one of {', '.join(TARGETS)}")
    end = time.monotonic() + 60 * asked.minutes
    for kernel in _compilable(asked, target, given):
        for width in asked.head_dims or (64, 128):
            for dtype in asked.dtypes or ("bfloat16",):
                question = cost.Question(kernel, target, Case(width, dtype), asked.build.precision)
                outcomes = _compiled(specs, question, given, end)
                click.echo(f"{kernel}, head dim {width}, {dtype}, {target}: {', '.join(specs)}")
                click.echo(ranking(outcomes))


def _compilable(asked: Asked, target: str, given: tuple[tiles.Tile, ...]) -> tuple[str, ...]:
    """The kernels that are asked for. Raises ValueError for those that aren't there, and for others' tiles."""
    on_hopper = asked.build.target == "hopper" and target == "sm_90"
    names = asked.names or (tiles.HOPPER_KERNELS if on_hopper else KERNELS[:3])
    if not on_hopper and not set(names).isdisjoint(tiles.HOPPER_KERNELS):
        raise ValueError("kernels for Hopper are those of --kernels hopper, on sm_90")
    for name, tile in product(names, given):
        if len(tile) != tiles.numbers_of(name):
            raise ValueError(
                f"{','.join(map(str, tile))} is no tile of {name}, which has {tiles.numbers_of(name)} numbers"
            )
    return names


def _compiled(
    specs: tuple[str, ...], question: cost.Question, given: tuple[tiles.Tile, ...], end: float
) -> tuple[cost.Outcome, ...]:
    with _bar() as bar:

        def told(done: int, of: int) -> bool:
            bar("compiling", done, of)
            return time.monotonic() < end

        return cost.ranked(specs, question, given, 2, told)


def ranking(outcomes: Iterable[cost.Outcome]) -> str:
    """A line per tile, the best first."""
    named = "regs  shared  CTAs  warps/scheduler  waits/HGMMA  instructions/score  problems"
    lines = [f"{'tile':40}{named}"]
    for o in outcomes:
        needs = f"{o.registers:6}{o.shared / 1024:8.1f}{o.ctas:6}{o.warps_per_scheduler:17g}"
        more = " ..." if len(o.problems) > 3 else ""
        speed = f"{o.waits:13.2f}{o.per_score:20.1f}"
        lines.append(f"{tile_text(o.tile):38}{needs}{speed}  {', '.join(o.problems[:3])}{more}".rstrip())
    return "\n".join(lines) + "\n"


def _line(name: str, found: Found) -> str:
    case = found.question.case
    call = f"{name} {found.question.kernel}, D {case.d}, {case.dtype}, {'causal' if case.is_causal else 'full'}"
    refused = [trial for trial in found.trials if trial.verdict in ("wrong", "failed")]
    out = f"; {len(refused)} of {len(found.trials)} candidates out, {refused[0].reason}" if refused else ""
    if not found.is_better:
        return f"{call}: {_told(found.shipped)} stays{out}"
    return f"{call}: {_told(found.best)}, in place of {_told(found.shipped)}{out}"


def _told(trial: Trial) -> str:
    assert trial.times is not None
    return f"{tile_text(trial.tile)}: {trial.times.median * 1e3:.3f} ms"


@contextlib.contextmanager
def _bar() -> Iterator[Any]:
    columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("{task.description}"))
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("")
        yield lambda what, done, of: progress.update(task, description=what, completed=done, total=of)
