"""generated/ is what specs/ gives, to the byte: in whatever folder, process and order of hashing. And what is built for
Hopper keeps to the house's style, as the modules there do."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from attngen.build import Build
from attngen.pipeline import compile_spec

ROOT = Path(__file__).parents[2]
NAMES = tuple(path.stem for path in sorted((ROOT / "specs").glob("*.yaml")))


def build(folder: Path) -> None:
    """Write the modules into `folder`, with another hash seed than other builds, from copies of the specs there."""
    for name in NAMES:
        (folder / f"{name}.yaml").write_bytes((ROOT / "specs" / f"{name}.yaml").read_bytes())
    arguments = ["build", *(f"{name}.yaml" for name in NAMES)]
    command = [sys.executable, "-c", "from attngen.cli import main; main()", *arguments]
    environment = {**os.environ, "PYTHONHASHSEED": "1", "PYTHONPATH": str(ROOT)}
    subprocess.run(command, cwd=folder, env=environment, check=True, capture_output=True)


def test_a_build_elsewhere_gives_the_same_bytes(tmp_path: Path) -> None:
    build(tmp_path)
    for name in NAMES:
        assert (tmp_path / f"{name}.py").read_bytes() == (ROOT / "generated" / f"{name}.py").read_bytes(), name


# one walk over the keys; several; gradients of inputs; one type alone
@pytest.mark.parametrize("name", ["softmax", "t_softmax", "gaussian", "cosformer"])
def test_modules_for_hopper_keep_the_style(name: str) -> None:
    spec = ROOT / "specs" / f"{name}.yaml"
    source = compile_spec(spec.read_text("utf-8"), spec.name, build=Build("hopper")).source
    for rules in (["format", "--check"], ["check"]):
        command = [sys.executable, "-m", "ruff", *rules, "--stdin-filename", f"generated/{name}.py", "-"]
        found = subprocess.run(command, cwd=ROOT, input=source, text=True, capture_output=True)
        assert found.returncode == 0, found.stdout + found.stderr
