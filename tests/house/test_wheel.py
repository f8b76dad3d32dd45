"""The wheel works where the checkout isn't: its specs, templates and ops travel with it.

It is installed into a fresh environment that borrows this one's libraries, so that nothing is downloaded.
"""

import os
import subprocess
import sys
import sysconfig
import venv
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Installed:
    wheel: Path
    python: Path
    empty: Path

    def run(self, *arguments: str) -> str:
        """The output of `python ARGUMENTS` in the empty folder; the test fails where the command does."""
        environment = {**os.environ, "ATTNGEN_CACHE_DIR": str(self.empty.parent / "cache"), "OMP_NUM_THREADS": "1"}
        environment.pop("PYTHONPATH", None)
        command = [str(self.python), *arguments]
        done = subprocess.run(command, cwd=self.empty, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Installed:
    folder = tmp_path_factory.mktemp("wheel")
    run = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(run, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = folder.glob("*.whl")
    venv.create(folder / "venv", with_pip=False)
    python = folder / "venv" / "bin" / "python"
    target = sysconfig.get_path("purelib", vars={"base": str(folder / "venv"), "platbase": str(folder / "venv")})
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-index", "--target", target, str(wheel)]
    subprocess.run(pip, check=True, capture_output=True)
    # The borrowed libraries come behind the wheel. An editable install is a .pth file, which isn't read at one remove.
    (Path(target) / "borrowed.pth").write_text(sysconfig.get_path("purelib") + "\n")
    (folder / "empty").mkdir()
    return Installed(wheel, python, folder / "empty")


def test_the_wheel_holds_what_the_checkout_has(installed: Installed) -> None:
    names = set(zipfile.ZipFile(installed.wheel).namelist())
    for folder in ("specs", "templates", "generated"):
        files = [f for f in (ROOT / folder).rglob("*") if f.is_file() and "__pycache__" not in f.parts]
        assert {f"attngen/_data/{file.relative_to(ROOT).as_posix()}" for file in files} <= names


def test_it_is_the_wheel_that_runs(installed: Installed) -> None:
    assert str(installed.empty.parent) in installed.run("-c", "import attngen; print(attngen.__file__)")


def test_the_command_line_works_in_an_empty_folder(installed: Installed) -> None:
    command = ("-c", "from attngen.cli import main; main()")
    assert "softmax" in installed.run(*command, "list")
    installed.run(*command, "build", "softmax")
    assert (installed.empty / "softmax.py").read_bytes() == (ROOT / "generated" / "softmax.py").read_bytes()


def test_a_shipped_op_runs(installed: Installed) -> None:
    program = (
        "import torch, attngen; op = attngen.load('softmax'); q = torch.randn(1, 2, 5, 16);"
        "sdpa = torch.nn.functional.scaled_dot_product_attention;"
        "torch.testing.assert_close(op(q, q, q), sdpa(q, q, q)); print('ok')"
    )
    assert installed.run("-c", program) == "ok\n"
