"""What commands of the command line share: options and how their text is read, and the specs that are compiled.

Each command imports what it needs when it runs, and so do these functions.
"""

from typing import TYPE_CHECKING

import click

from attngen.diagnostics import SpecError

if TYPE_CHECKING:
    from attngen.build import Build, Precision, Target
    from attngen.pipeline import Compilation

FOUND, USAGE, INTERNAL = 1, 2, 3  # exit codes
TILE, HOPPER_TILE = "QUERIES,KEYS,WARPS,STAGES", "QUERIES,KEYS,SLOTS,SHARED,WARPGROUPS"
Statics = tuple[tuple[str, str], ...]


def parse_setting(_ctx: click.Context, _param: click.Parameter, values: tuple[str, ...]) -> Statics:
    pairs = tuple(value.partition("=") for value in values)
    for name, equals, number in pairs:
        if not (name and equals and number):
            raise click.BadParameter(f"'{name}{equals}{number}' should be NAME=VALUE")
    return tuple((name.strip(), number.strip()) for name, _, number in pairs)


spec_argument = click.argument("spec", metavar="SPEC")
statics_option = click.option(
    "--set", "statics", metavar="NAME=VALUE", multiple=True, callback=parse_setting, help="Value of a static input."
)
precision_option = click.option(
    "--precision", type=click.Choice(("exact", "fast")),
    help="fast: logistic functions and tanh of 16 bits on GPUs from tanh.approx; weights err by up to 2.4e-4.",
)  # fmt: skip
kernels_option = click.option(
    "--kernels", type=click.Choice(("any", "hopper")),
    help="hopper: what a module built for Hopper launches, on such a GPU.",
)  # fmt: skip


def parse_tile(_ctx: click.Context, _param: click.Parameter, values: tuple[str, ...]) -> tuple[tuple[int, ...], ...]:
    tiles = [value.split(",") for value in values]
    for tile in tiles:
        if len(tile) not in (4, 5) or not all(number.isdigit() for number in tile):
            raise click.BadParameter(f"'{','.join(tile)}' should be {TILE}, or for Hopper {HOPPER_TILE}")
    return tuple(tuple(map(int, tile)) for tile in tiles)


def exit_unless(fine: bool) -> None:
    if not fine:
        click.get_current_context().exit(FOUND)


def known_targets(names: tuple[str, ...]) -> tuple[str, ...]:
    from attngen.audit.targets import TARGETS

    for name in names:
        if name not in TARGETS:
            raise click.BadParameter(f"'{name}' is not one of {', '.join(TARGETS)}", param_hint="--target")
    return names


def asked_build(target: "Target | None" = None, precision: "Precision | None" = None) -> "Build":
    """What isn't given is what the environment asks for."""
    from attngen.build import Build, chosen_build

    try:
        chosen = chosen_build()
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    return Build(target or chosen.target, precision or chosen.precision)


def compiled(spec: str, statics: Statics, build: "Build") -> "Compilation":
    from attngen import catalog
    from attngen.pipeline import compile_spec

    found = catalog.read(spec)
    return compile_spec(found.text, found.path, dict(statics), build)


def compile_all(specs: tuple[str, ...], statics: Statics, build: "Build") -> tuple["Compilation", ...]:
    """All of them, or one SpecError's message per spec that is wrong."""
    compilations, mistakes = [], []
    for spec in specs:
        try:
            compilations.append(compiled(spec, statics, build))
        except SpecError as error:
            mistakes.append(error.render())
    click.echo("\n".join(mistakes), err=True, nl=bool(mistakes))
    exit_unless(not mistakes)
    return tuple(compilations)
