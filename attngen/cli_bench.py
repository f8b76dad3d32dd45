"""`attngen bench`: from the command line's arguments to a run, a merge or pictures, and a report on the terminal.

It imports torch for a run alone. What is measured, and how, is `attngen.bench`'s.
"""

import shlex
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from attngen import catalog

if TYPE_CHECKING:
    from attngen.bench.grid import Quantity

RESULTS = Path("benchmarks/results")
MINUTES, QUICK_MINUTES = 240.0, 10.0


@dataclass(frozen=True, slots=True)
class Asked:
    """The options of a run as they were given."""

    device: str
    quick: bool
    minutes: float | None
    output: Path | None
    peers: tuple[str, ...]
    threads: int | None = None
    quantity: "Quantity | None" = None


def run(specs: tuple[str, ...], asked: Asked) -> None:
    """Bench the specs, all shipped ones if none is named. Raises ValueError for what isn't there."""
    from attngen.bench.report import render
    from attngen.bench.run import Plan, bench

    names = specs or tuple(path.stem for path in catalog.shipped())
    output = asked.output or RESULTS / f"{asked.device}-{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}.json"
    minutes = asked.minutes or (QUICK_MINUTES if asked.quick else MINUTES)
    plan = Plan(names, asked.device, output, command(specs, asked), minutes, asked.quick, asked.peers)
    plan = replace(plan, threads=asked.threads, quantity=asked.quantity)
    columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("{task.description}"))
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("")
        found = bench(plan, lambda done, of, title: bar.update(task, completed=done, total=of, description=title))
    click.echo(render(found))
    click.echo(f"{output} written")


def command(specs: tuple[str, ...], asked: Asked) -> str:
    """The command as it has to be given again; where the file goes is left out."""
    words = ["attngen", "bench", *specs, "--device", asked.device, *(["--quick"] if asked.quick else [])]
    words += ["--minutes", f"{asked.minutes:g}"] if asked.minutes else []
    words += ["--quantity", asked.quantity] if asked.quantity else []
    words += ["--threads", str(asked.threads)] if asked.threads else []
    return shlex.join([*words, *(word for peer in asked.peers for word in ("--peer", peer))])


def merge(files: tuple[str, ...], output: Path | None) -> None:
    """Write the runs of several files into one."""
    from attngen.bench import record

    if output is None:
        raise click.UsageError("--merge needs -o: the file to write")
    record.save(output, record.merge(map(Path, files)))
    click.echo(f"{output} written")


def show(files: tuple[str, ...]) -> None:
    """Print the reports of files."""
    from attngen.bench import record
    from attngen.bench.report import render

    for run in record.merge(map(Path, files)):
        click.echo(render(run))


def plot(files: tuple[str, ...], output: Path | None) -> None:
    """Draw the runs of files, beside the first one unless an output says where."""
    from attngen.bench import record

    try:
        from attngen.bench.plots import draw_all
    except ImportError as error:
        raise click.UsageError(f"plots need matplotlib ({error}): pip install 'attngen[bench]'") from None
    runs = record.merge(map(Path, files))
    for path in draw_all(runs, (output or Path(files[0])).with_suffix("")):
        click.echo(f"{path} written")
