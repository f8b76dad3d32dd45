"""What every stage makes of the named specs, to the letter; and that it makes the same everywhere.

`pytest tests/golden --update-golden` writes the stages anew; `attngen build` writes the generated modules. Read what
has changed before a commit: a change of the compiler shows in these texts and nowhere else as clearly.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from attngen.build import Build
from attngen.catalog import shipped
from attngen.pipeline import Compilation, compile_spec, stage_text

ROOT = Path(__file__).parents[2]
STAGES = Path(__file__).parent / "stages"
NAMED = ("softmax", "sigmoid", "softplus_l1", "affine_scaled")
SHOWN = ("ir", "analysis", "plan")
FOR_HOPPER = ("softmax", "sigmoid")
SHIPPED = tuple(path.stem for path in shipped())


def compiled(name: str) -> Compilation:
    path = ROOT / "specs" / f"{name}.yaml"
    return compile_spec(path.read_text("utf-8"), path.name)


@pytest.mark.parametrize("name", NAMED)
def test_stages_are_as_they_were(name: str, update_golden: bool) -> None:
    compilation = compiled(name)
    for stage in SHOWN:
        golden = STAGES / name / f"{stage}.txt"
        if update_golden:
            golden.parent.mkdir(parents=True, exist_ok=True)
            golden.write_text(stage_text(compilation, stage), "utf-8")
        assert stage_text(compilation, stage) == golden.read_text("utf-8")


@pytest.mark.parametrize("name", FOR_HOPPER)
def test_kernels_for_hopper_are_as_they_were(name: str, update_golden: bool) -> None:
    golden, text = STAGES / name / "hopper.txt", kernels_for_hopper(name)
    if update_golden:
        golden.write_text(text, "utf-8")
    assert text == golden.read_text("utf-8")


def kernels_for_hopper(name: str) -> str:
    path = ROOT / "specs" / f"{name}.yaml"
    source = compile_spec(path.read_text("utf-8"), path.name, build=Build("hopper")).source
    _, found = source.split(" kernels for Hopper, in Gluon\n\n\n")
    return found.split("KERNELS = (")[0]


def test_there_is_no_golden_text_without_a_stage() -> None:
    expected = {f"{name}/{stage}.txt" for name in NAMED for stage in SHOWN} | {f"{n}/hopper.txt" for n in FOR_HOPPER}
    assert {path.relative_to(STAGES).as_posix() for path in STAGES.rglob("*.*")} == expected


@pytest.mark.parametrize("name", SHIPPED)
def test_generated_modules_are_current(name: str) -> None:
    assert stage_text(compiled(name), "source") == (ROOT / "generated" / f"{name}.py").read_text("utf-8")


def test_no_generated_module_is_left_over() -> None:
    assert {path.stem for path in (ROOT / "generated").glob("*.py")} == {*SHIPPED, "__init__"}


BUILD = """
import sys
from attngen.pipeline import STAGES, compile_spec, stage_text
for path in sys.argv[1:]:
    compilation = compile_spec(open(path, encoding="utf-8").read(), "spec.yaml")
    for stage in STAGES:
        sys.stdout.buffer.write(stage_text(compilation, stage).encode())
"""


def built(seed: str, folder: Path, locale: str) -> bytes:
    """All stages of the named specs and of a staged one, from a process of its own."""
    environment = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(ROOT), "LC_ALL": locale, "USER": seed}
    specs = [str(ROOT / "specs" / f"{name}.yaml") for name in NAMED]
    (folder / "staged.yaml").write_text(STAGED, "utf-8")
    command = [sys.executable, "-c", BUILD, *specs, str(folder / "staged.yaml")]
    return subprocess.run(command, cwd=folder, env=environment, check=True, capture_output=True).stdout


STAGED = """
name: staged
inputs:
  b: {shape: [head, key]}
let:
  p: exp(s + b) / sum(exp(s + b))
  m: amax(softplus(p) - mean(p))
  r: relu(n * p - m) * exp(-p) + exp(p / 2)
weights: r / (1 + sum(r) + sum(exp(2 * s)))
"""


def test_a_build_is_the_same_everywhere(tmp_path: Path) -> None:
    folders = [tmp_path / "one", tmp_path / "a folder of another name"]
    for folder in folders:
        folder.mkdir()
    one, other = (built(seed, f, locale) for seed, f, locale in zip("17", folders, ("C", "C.UTF-8"), strict=True))
    assert one == other
    assert len(one) > 100_000
    assert str(tmp_path).encode() not in one
