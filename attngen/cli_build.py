"""What `attngen build --target` does beside writing modules, and what it tells of it."""

from collections.abc import Iterable

import click

from attngen.emit.hopper import is_served
from attngen.pipeline import Compilation
from attngen.runtime.loader import load_module


def build_native(compilations: Iterable[Compilation]) -> None:
    """Compile the native kernels, ahead of their first use."""
    for compilation in compilations:
        try:
            click.echo(f"{load_module(compilation).build_native()} is built")
        except RuntimeError as error:
            raise click.ClickException(str(error)) from None


def tell_of_others(compilations: Iterable[Compilation]) -> None:
    """Which modules were asked to have kernels for Hopper and have none."""
    for compilation in compilations:
        if not is_served(compilation.plan):
            click.echo(f"{compilation.normalizer.name} has no kernels for Hopper: the others serve it there", err=True)
