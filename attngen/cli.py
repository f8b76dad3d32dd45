"""The command line: from arguments to a call of the stage that they ask for, and from its outcome to an exit code.

Exit codes: 0 fine; 1 something was found (a mistake in a spec, a stale file, an op that fails verification); 2 used
wrongly (an unknown option, a file that isn't there); 3 a mistake of attngen's own. Each command imports what it needs
when it runs, so that `--help`, `list`, `schema` and `build` bring in neither torch nor triton. Nothing is decided here
about specs or ops.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from attngen.diagnostics import InternalError, SpecError
from attngen.files import current, write_atomically
from attngen.version import __version__

if TYPE_CHECKING:
    from attngen.pipeline import Compilation

FOUND, USAGE, INTERNAL = 1, 2, 3
STAGES = ("spec", "ir", "analysis", "plan", "source")
Statics = tuple[tuple[str, str], ...]


class _Group(click.Group):
    """Turns the project's exceptions into messages and exit codes, for every command alike."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except SpecError as error:
            click.echo(error.render(), err=True)
            ctx.exit(FOUND)
        except InternalError as error:
            click.echo(f"internal error (a mistake in attngen, not in the spec): {error}", err=True)
            ctx.exit(INTERNAL)
        except OSError as error:  # a file that isn't there, a folder that can't be written
            click.echo(f"Error: {error}", err=True)
            ctx.exit(USAGE)


def _parse_setting(_ctx: click.Context, _param: click.Parameter, values: tuple[str, ...]) -> Statics:
    pairs = tuple(value.partition("=") for value in values)
    for name, equals, number in pairs:
        if not (name and equals and number):
            raise click.BadParameter(f"'{name}{equals}{number}' should be NAME=VALUE")
    return tuple((name.strip(), number.strip()) for name, _, number in pairs)


_spec = click.argument("spec", metavar="SPEC")
_statics = click.option(
    "--set", "statics", metavar="NAME=VALUE", multiple=True, callback=_parse_setting, help="Value of a static input."
)


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="attngen")
def main() -> None:
    """Compile the formula of an attention normalizer into a fused attention op.

    SPEC is the path of a YAML file, or the name of a shipped spec (`attngen list`).

    Exit code: 0 fine, 1 something was found (a mistake in a spec, a stale file, a failed check), 2 used wrongly, 3 a
    mistake of attngen's own.
    """


@main.command()
@click.argument("specs", metavar="SPEC...", nargs=-1, required=True)
@click.option("-o", "--output", type=click.Path(file_okay=False, path_type=Path), default=".", show_default=True,
              metavar="DIR", help="Folder that the modules are written to.")  # fmt: skip
@click.option("--check", is_flag=True, help="Write nothing; fail if a file in DIR isn't what would be written.")
@click.option("--emit", type=click.Choice(STAGES), help="Write nothing; print this stage as text.")
@_statics
def build(specs: tuple[str, ...], output: Path, check: bool, emit: str | None, statics: Statics) -> None:
    """Write SPEC's op as one Python file, NAME.py, that imports torch and triton only.

    If one of several specs has a mistake, nothing is written. A file that is right already is not touched.
    """
    compilations = _compile_all(specs, statics)
    if emit is not None:
        _print_stage(compilations, emit)
    elif check:
        _check(_outputs(compilations, output))
    else:
        _write(_outputs(compilations, output))


@main.command("list")
def list_specs() -> None:
    """List the shipped specs: name, title, reference, formula."""


@main.command()
def schema() -> None:
    """Print the JSON Schema of spec files, for editors."""


def _compile(spec: str, statics: Statics) -> "Compilation":
    from attngen import catalog
    from attngen.pipeline import compile_spec

    found = catalog.read(spec)
    return compile_spec(found.text, found.path, dict(statics))


def _compile_all(specs: tuple[str, ...], statics: Statics) -> tuple["Compilation", ...]:
    """All of them, or one SpecError's message per spec that is wrong."""
    compilations, mistakes = [], []
    for spec in specs:
        try:
            compilations.append(_compile(spec, statics))
        except SpecError as error:
            mistakes.append(error.render())
    if mistakes:
        click.echo("\n".join(mistakes), err=True)
        click.get_current_context().exit(FOUND)
    return tuple(compilations)


def _print_stage(compilations: tuple["Compilation", ...], stage: str) -> None:
    from attngen.pipeline import stage_text

    for compilation in compilations:
        click.echo(stage_text(compilation, stage))


def _outputs(compilations: tuple["Compilation", ...], folder: Path) -> dict[Path, str]:
    """What each file should hold."""
    outputs: dict[Path, str] = {}
    for compilation in compilations:
        path = folder / f"{compilation.normalizer.name}.py"
        if path in outputs:
            raise click.UsageError(f"two of the specs are named '{compilation.normalizer.name}'")
        outputs[path] = compilation.source
    return outputs


def _check(outputs: dict[Path, str]) -> None:
    stale = [path for path, text in outputs.items() if not current(path, text)]
    for path in stale:
        click.echo(f"{path} is not what attngen {__version__} writes" if path.exists() else f"{path} is missing")
    if stale:
        click.get_current_context().exit(FOUND)


def _write(outputs: dict[Path, str]) -> None:
    for path, text in outputs.items():
        if current(path, text):
            click.echo(f"{path} is up to date")
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, text)
        click.echo(f"{path} written")
