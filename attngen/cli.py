"""The command line: from arguments to a call of the stage that they ask for, and from its outcome to an exit code.

Exit codes: 0 fine; 1 something was found (a mistake in a spec, a stale file, an op that fails verification); 2 used
wrongly (an unknown option, a file that isn't there); 3 a mistake of attngen's own. Each command imports what it needs
when it runs, so that `--help`, `list`, `schema` and `build` bring in neither torch nor triton. Nothing is decided here
about specs or ops.
"""

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import click

from attngen.build import Build, Precision
from attngen.cli_options import (
    FOUND,
    HOPPER_TILE,
    INTERNAL,
    TILE,
    USAGE,
    Statics,
    asked_build,
    compile_all,
    compiled,
    exit_unless,
    kernels_option,
    known_targets,
    parse_tile,
    precision_option,
    spec_argument,
    statics_option,
)
from attngen.diagnostics import InternalError, SpecError
from attngen.files import write_atomically
from attngen.stagetext import STAGES
from attngen.version import __version__

FORMATS = ("text", "latex", "html")  # of attngen.explain.render, which brings in the whole compiler


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
        except BrokenPipeError:
            raise  # click ends quietly where the reader has gone, as in `attngen list | head`
        except OSError as error:  # a file that isn't there, a folder that can't be written
            click.echo(f"Error: {error}", err=True)
            ctx.exit(USAGE)


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
@click.option("--target", type=click.Choice(("cpu", "hopper")),
              help="cpu: also compile the native kernels, ahead of their first use. hopper: also write kernels for "
              "Hopper, which have been compiled and not yet run, and take them there.")  # fmt: skip
@precision_option
@statics_option
def build(specs: tuple[str, ...], output: Path, statics: Statics, check: bool, **options: Any) -> None:
    """Write SPEC's op as a Python file.

    The file is DIR/NAME.py, with the name that the spec gives, and imports torch and triton only. If one of
    several specs has a mistake, nothing is written. A file that is right already is not touched.
    """
    from attngen import cli_build

    emit, target, precision = options["emit"], options["target"], options["precision"]
    compilations = compile_all(specs, statics, Build("hopper" if target == "hopper" else "any", precision or "exact"))
    if emit is not None:
        cli_build.print_stage(compilations, emit)
    elif check:
        cli_build.check(cli_build.outputs(compilations, output))
    else:
        cli_build.write(cli_build.outputs(compilations, output))
        cli_build.serve_target(compilations, target)
        cli_build.tell_of_exact(compilations, precision)


@main.command()
@spec_argument
@click.option("--format", "form", type=click.Choice(FORMATS), default="text", show_default=True)
@click.option("-o", "--output", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE",
              help="Write to FILE, not to the terminal.")  # fmt: skip
@statics_option
def explain(spec: str, form: str, output: Path | None, statics: Statics) -> None:
    """Show how SPEC's formula was compiled.

    It tells the passes over the keys, the carries and their merge, the stable form and the gradients, as formulas.
    """
    compilation = compiled(spec, statics, asked_build())
    from attngen.explain.render import render

    text = render(compilation, form)
    if output is None:
        click.echo(text)
    else:
        write_atomically(output, text)


@main.command()
@spec_argument
@click.option("--target", "targets", multiple=True, metavar="ARCH", help="sm_90, gfx942, ...; all that are known.")
@click.option("--save-binary", type=click.Path(file_okay=False, path_type=Path), metavar="DIR",
              help="Write the binaries and their assembly to DIR.")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="One object per kernel and configuration.")
@kernels_option
@precision_option
@statics_option
def audit(spec: str, targets: tuple[str, ...], save_binary: Path | None, as_json: bool, **options: Any) -> None:
    """Compile SPEC's kernels without a GPU.

    Reports registers, shared memory, spills and instructions for each configuration on each architecture. Fails
    if a configuration does not compile, does not fit, or spills.
    """
    build = asked_build(options["kernels"], options["precision"])
    compilation = compiled(spec, options["statics"], build)  # a mistake in the spec is told before torch is imported
    from attngen.audit.module import Request, audit_module
    from attngen.audit.report import render, to_json
    from attngen.runtime.loader import load_module

    request = Request(save_binary=save_binary)
    request = replace(request, targets=known_targets(targets)) if targets else request
    progress = partial(click.echo, err=True)
    found = audit_module(load_module(compilation), compilation.normalizer, request, progress)
    click.echo(to_json(found) if as_json else render(found))
    exit_unless(not found.findings)


@main.command()
@spec_argument
@click.option("--device", type=click.Choice(("cpu", "cuda")), default="cpu", show_default=True)
@click.option("--examples", type=click.IntRange(min=1), default=50, show_default=True, help="Cases per property.")
@click.option("--seed", type=int, default=0, show_default=True, help="Equal seeds give equal cases.")
@click.option("--replay", metavar="JSON", help="Run this one case, as the report of a failure prints it.")
@click.option("--interpret", is_flag=True, help="Run the Triton kernels in Triton's interpreter, on the CPU.")
@precision_option
@statics_option
def verify(
    spec: str, replay: str | None, precision: Precision | None, interpret: bool, statics: Statics, **settings: Any
) -> None:
    """Test SPEC's op against its formula.

    The op is held to the formula's float64 meaning on random cases: values, gradients, masks, layouts, claims.
    Fails with the smallest case that is wrong, and with the command that replays it.
    """
    build = asked_build(precision=precision)
    compilation = compiled(spec, statics, build)
    from attngen.cli_verify import Verification

    fast = ["--precision fast"] if build.precision == "fast" else []
    command = " ".join([spec, *fast, *(f"--set {name}={value}" for name, value in statics)])
    verification = Verification(compilation, command, interpret, **settings)
    try:
        passed = verification.replay(replay) if replay is not None else verification.run()
    except ValueError as error:  # a replay that isn't one, a device that isn't there
        raise click.UsageError(str(error)) from None
    exit_unless(passed)


@main.command()
@click.argument("specs", metavar="[SPEC...]", nargs=-1)
@click.option("--device", type=click.Choice(("cuda", "cpu")), default="cuda", show_default=True)
@click.option("--quick", is_flag=True, help="A smaller grid, within ten minutes.")
@click.option("--minutes", type=click.FloatRange(min=0, min_open=True), help="Begin no new cell after this time.")
@click.option("--threads", type=click.IntRange(min=1), help="Threads of the CPU; all without the option.")
@click.option("--quantity", type=click.Choice(("time", "memory")), help="Only the cells that measure this.")
@click.option("--peer", "peers", multiple=True, metavar="NAME", help="Run this contender; all without the option.")
@click.option("-o", "--output", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE",
              help="The result; a new file in benchmarks/results by default.")  # fmt: skip
@click.option("--merge", "action", flag_value="merge", help="Merge result FILEs, given in place of specs.")
@click.option("--plot", "action", flag_value="plot", help="Draw result FILEs, given in place of specs.")
@click.option("--show", "action", flag_value="show", help="Print result FILEs, given in place of specs.")
def bench(specs: tuple[str, ...], action: str | None, output: Path | None, **options: Any) -> None:
    """Time SPEC's op beside its peers.

    Every peer that is installed runs the same cells in the same run, interleaved, and its error is measured too. The
    shipped specs by default. Writes one JSON file.
    """
    from attngen import cli_bench

    if action is not None and not specs:
        raise click.UsageError(f"--{action} needs result files")
    try:
        if action == "merge":
            cli_bench.merge(specs, output)
        elif action == "plot":
            cli_bench.plot(specs, output)
        elif action == "show":
            cli_bench.show(specs)
        else:
            cli_bench.run(specs, cli_bench.Asked(output=output, **options))
    except ValueError as error:  # no such device, no such peer, a file that isn't one of ours
        raise click.UsageError(str(error)) from None


@main.command()
@click.argument("specs", metavar="SPEC...", nargs=-1, required=True)
@click.option("--device", type=click.Choice(("cuda", "cpu")), default="cuda", show_default=True)
@click.option("--dtype", "dtypes", multiple=True, type=click.Choice(("float32", "float16", "bfloat16")))
@click.option("--head-dim", "head_dims", multiple=True, type=click.IntRange(1, 256))
@kernels_option
@click.option("--kernel", "names", multiple=True,
              type=click.Choice(("forward", "backward_query", "backward_key", "backward_pair", "forward_hopper",
                                 "backward_hopper")), help="Only this one; all without the option.")  # fmt: skip
@click.option("--minutes", type=click.FloatRange(min=0, min_open=True), default=10.0, show_default=True)
@click.option("--compile-only", is_flag=True, help="Time nothing: rank tiles by what their machine code needs.")
@click.option("--target", default="sm_90", show_default=True, metavar="ARCH", help="For --compile-only.")
@click.option("--tile", "tiles", multiple=True, callback=parse_tile, metavar=TILE,
              help=f"For --compile-only: these tiles alone; those for Hopper as {HOPPER_TILE}.")  # fmt: skip
@precision_option
@click.option("--forget", is_flag=True, help="Remove what was found on this machine, and search nothing.")
def tune(specs: tuple[str, ...], compile_only: bool, target: str, tiles: Any, forget: bool, **options: Any) -> None:
    """Search the tiles of SPEC's kernels on this device.

    A candidate wins by its time, if its results are right. What is found is kept in a file, and used by ops that are
    loaded through `attngen.load`. Nothing is tuned unless this command is run. With --kernels hopper it is decided for
    each kernel and kind of call whether one for Hopper is faster than the plain one, which serves otherwise.
    """
    build = asked_build(options.pop("kernels"), options.pop("precision"))
    for spec in specs:
        compiled(spec, (), build)  # a mistake in a spec is told before torch is imported
    from attngen import cli_tune

    asked = cli_tune.Asked(build=build, **options)
    try:
        if forget:
            cli_tune.forget(specs)
        elif compile_only:
            cli_tune.compile_only(specs, asked, target, tiles)
        else:
            cli_tune.run(specs, asked)
    except ValueError as error:
        raise click.UsageError(str(error)) from None


@main.command()
@click.argument("target", metavar="FILE.py:NAME")
@click.argument("shapes", metavar="SHAPE...", nargs=-1, required=True)
@click.option("-o", "--output", type=click.Path(file_okay=False, path_type=Path), default=".", show_default=True,
              metavar="DIR", help="Folder that the specs are written to.")  # fmt: skip
def lift(target: str, shapes: tuple[str, ...], output: Path) -> None:
    """Write attention in Python code as specs.

    NAME is a function or a model in FILE.py, or in a module that can be imported; NAME() is called first, to make
    one. The file is run, and what it names is compiled with tensors of these shapes, such as 2,4,128,64 or
    2,128:int64. Fails if no attention is found that can be lifted.

    \b
        attngen lift model.py:attention 2,4,128,64 2,4,128,64 2,4,128,64
        attngen lift model.py:GPT() 2,128:int64 -o specs
    """
    from attngen.cli_lift import run

    try:
        lifted = run(target, shapes, output)
    except (ValueError, ImportError) as error:
        raise click.UsageError(str(error)) from None
    exit_unless(lifted)


@main.command("list")
@click.option("--markdown", is_flag=True, help="The page docs/normalizers.md: what each costs, and its spec.")
def list_specs(markdown: bool) -> None:
    """List the shipped specs."""
    from attngen import catalog, notation
    from attngen.spec.files import read_spec_file

    if markdown:
        from attngen.explain.catalogue import catalogue

        click.echo(catalogue(compile_all(tuple(path.stem for path in catalog.shipped()), (), Build())), nl=False)
        return
    for path in catalog.shipped():
        spec = read_spec_file(path)
        reference = f" ({spec.reference})" if spec.reference else ""
        score = notation.text(spec.score)
        click.echo(f"{click.style(spec.name, bold=True)}: {spec.title}{reference}")
        click.echo(f"    {notation.text(spec.weights)}" + ("" if score == "scale * qk" else f", s = {score}"))


@main.command()
def schema() -> None:
    """Print the JSON Schema of spec files."""
    from attngen.spec.schema import schema_text

    click.echo(schema_text(), nl=False)


if __name__ == "__main__":
    main(prog_name="attngen")
