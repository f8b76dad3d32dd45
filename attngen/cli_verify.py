"""`attngen verify`: the settings of the command line, a progress bar, and the report on the terminal.

It imports torch. What is checked, and how, is `attngen.verify`'s.
"""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from types import ModuleType

import click
import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from attngen.pipeline import Compilation
from attngen.runtime.interpreter import interpreting
from attngen.runtime.loader import load_module
from attngen.verify import run
from attngen.verify.report import Report, render


@dataclass(frozen=True)
class Verification:
    """`command` is the spec as a replay has to name it."""

    compilation: Compilation
    command: str
    interpret: bool
    device: str
    examples: int
    seed: int

    def run(self) -> bool:
        """Verify and print the report; whether everything passed. Raises ValueError without the device asked for."""
        normalizer = self.compilation.normalizer
        settings = run.Settings(self.device, self.examples, self.seed, "small" if self.interpret else "full")
        with self.ready(), progress_bar(run.property_names(normalizer), self.examples) as progress:
            report = run.verify(self.module, normalizer, settings, progress)
        return self.shown(report)

    def replay(self, text: str) -> bool:
        """Run one case of an earlier report. Raises ValueError if the text is not one."""
        normalizer = self.compilation.normalizer
        with self.ready():
            found = run.replay(self.module, normalizer, text, self.device)
        return self.shown(Report(normalizer.name, self.device, self.seed, (found,)))

    def shown(self, report: Report) -> bool:
        click.echo(render(report, self.command))
        return report.passed

    @cached_property
    def module(self) -> ModuleType:
        return load_module(self.compilation)

    @contextlib.contextmanager
    def ready(self) -> Iterator[None]:
        """The device is there, and the kernels are interpreted where that was asked for."""
        if self.device == "cuda" and not torch.cuda.is_available():
            raise ValueError("there is no GPU that torch can use")
        if self.device == "cuda" and self.interpret:
            raise ValueError("--interpret runs on the CPU")
        with interpreting(self.module) if self.interpret else contextlib.nullcontext():
            yield


@contextlib.contextmanager
def progress_bar(properties: tuple[str, ...], examples: int) -> Iterator[run.Progress]:
    """One bar over all properties, on stderr, gone at the end."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=len(properties) * examples)

        def show(name: str, done: int) -> None:
            done_before = properties.index(name) * examples
            bar.update(task, description=name, completed=done_before + min(done, examples))

        yield show
