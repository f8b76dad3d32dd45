"""`attngen build`: compiled specs -> files, or a stage as text on the terminal; and what a target wants beside modules.

It imports neither torch nor triton, but for the native kernels.
"""

from collections.abc import Iterable
from pathlib import Path

import click

from attngen.cli_options import exit_unless
from attngen.emit.hopper import is_served
from attngen.files import current, write_atomically
from attngen.pipeline import Compilation, stage_text
from attngen.runtime.loader import load_module
from attngen.version import __version__


def print_stage(compilations: Iterable[Compilation], stage: str) -> None:
    """Instead of writing anything."""
    for compilation in compilations:
        click.echo(stage_text(compilation, stage))


def outputs(compilations: Iterable[Compilation], folder: Path) -> dict[Path, str]:
    """What each file should hold."""
    texts: dict[Path, str] = {}
    for compilation in compilations:
        path = folder / f"{compilation.normalizer.name}.py"
        if path in texts:
            raise click.UsageError(f"two of the specs are named '{compilation.normalizer.name}'")
        texts[path] = compilation.source
    return texts


def serve_target(compilations: Iterable[Compilation], target: str | None) -> None:
    """What a target wants beside modules: native kernels, ahead of their first use, or word of what it can't serve."""
    if target == "cpu":
        _build_native(compilations)
    elif target == "hopper":
        _tell_of_others(compilations)


def tell_of_exact(compilations: Iterable[Compilation], precision: str | None) -> None:
    """Which modules were asked to have fast forms and have none."""
    for compilation in compilations:
        if precision == "fast" and "_takes_fast_forms" not in compilation.source:
            click.echo(f"{compilation.normalizer.name} has no fast form: it is exact", err=True)


def check(texts: dict[Path, str]) -> None:
    """Exit as for something found unless each file holds its text."""
    stale = [path for path, text in texts.items() if not current(path, text)]
    for path in stale:
        click.echo(f"{path} is not what attngen {__version__} writes" if path.exists() else f"{path} is missing")
    exit_unless(not stale)


def write(texts: dict[Path, str]) -> None:
    """Write the files that don't hold their text yet."""
    for path, text in texts.items():
        if current(path, text):
            click.echo(f"{path} is up to date")
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, text)
        click.echo(f"{path} written")


def _build_native(compilations: Iterable[Compilation]) -> None:
    """Compile the native kernels, ahead of their first use."""
    for compilation in compilations:
        try:
            click.echo(f"{load_module(compilation).build_native()} is built")
        except RuntimeError as error:
            raise click.ClickException(str(error)) from None


def _tell_of_others(compilations: Iterable[Compilation]) -> None:
    """Which modules were asked to have kernels for Hopper and have none."""
    for compilation in compilations:
        if not is_served(compilation.plan):
            click.echo(f"{compilation.normalizer.name} has no kernels for Hopper: the others serve it there", err=True)
