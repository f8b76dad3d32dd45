"""What a command brings into the process. torch costs more than a second and 200 MB, and building needs none of it."""

import subprocess
import sys

import pytest

PROGRAM = """
import sys
from attngen.cli import main
try:
    main(sys.argv[1:])
except SystemExit as end:
    assert end.code in (0, None), end.code
print(*sorted(name for name in {loud} if name in sys.modules), file=sys.stderr)
"""


def loaded(arguments: list[str], loud: tuple[str, ...]) -> str:
    """Which of the packages the command has imported when it ends well."""
    program = PROGRAM.format(loud=loud)
    done = subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stderr.strip()


@pytest.mark.parametrize("stage", ["--emit=source", "--emit=plan"])
def test_building_needs_neither_torch_nor_triton(stage: str) -> None:
    assert loaded(["build", "softmax", stage], ("torch", "triton", "numpy")) == ""


@pytest.mark.parametrize("arguments", [["--help"], ["list"], ["schema"]])
def test_looking_around_needs_no_compiler_either(arguments: list[str]) -> None:
    assert loaded(arguments, ("torch", "triton", "numpy", "sympy", "jinja2", "hypothesis")) == ""


def test_importing_the_package_is_light() -> None:
    program = "import attngen, sys; print(*(m for m in ('torch', 'triton', 'sympy', 'jinja2') if m in sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
