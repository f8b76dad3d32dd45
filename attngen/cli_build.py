"""What `attngen build --target` does beside writing modules, and what it tells of it."""

from collections.abc import Iterable

import click

from attngen.emit.hopper import is_served
from attngen.pipeline import Compilation
from attngen.runtime.loader import load_module


def build_native(compilations: Iterable[Compilation]) -> None:
    """Compile the native kernels, ahead of their first use."""
    for compilation in compilations:
        build_native = getattr(load_module(compilation), "build_native", None)
        if build_native is None:
            click.echo(f"{compilation.normalizer.name} has no native kernels: plain torch serves CPUs")
            continue
        try:
            click.echo(f"{build_native()} is built")
        except RuntimeError as error:
            raise click.ClickException(str(error)) from None


def tell_of_others(compilations: Iterable[Compilation]) -> None:
    """Which modules were asked to have kernels for Hopper and have none."""
    for compilation in compilations:
        if not is_served(compilation.plan):
            click.echo(f"{compilation.normalizer.name} has no kernels for Hopper: the others serve it there", err=True)
