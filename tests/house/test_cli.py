"""The command line: what it prints, what it writes, and its exit codes (0 fine, 1 found, 2 used wrongly, 3 ours)."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from attngen import catalog
from attngen.api import request_digest
from attngen.build import VARIABLES, Build, chosen_build
from attngen.cli import FORMATS, main
from attngen.diagnostics import InternalError
from attngen.explain import render
from tests.representative import BEYOND_HOPPER

WRONG = "name: wrong\nweights: exp(s) / sum(exp(t))\n"


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments], catch_exceptions=False)


@pytest.fixture
def wrong(tmp_path: Path) -> Path:
    path = tmp_path / "wrong.yaml"
    path.write_text(WRONG)
    return path


@pytest.mark.parametrize("module", ["attngen", "attngen.cli"])
def test_as_a_module(module: str) -> None:
    done = subprocess.run([sys.executable, "-m", module, "frobnicate"], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("Usage: attngen ")


def test_list_names_every_shipped_spec() -> None:
    shown = run("list")
    assert shown.exit_code == 0
    for path in catalog.shipped():
        assert f"{path.stem}: " in shown.stdout
    assert "    exp(s) / sum(exp(s))\n" in shown.stdout
    assert "exp(s) / sum(exp(s)), s = 50 * tanh(scale * qk / 50)\n" in shown.stdout
    assert "()" not in shown.stdout


def test_the_schema_is_json() -> None:
    assert "weights" in json.loads(run("schema").stdout)["properties"]


def test_build_writes_once_and_check_agrees(tmp_path: Path) -> None:
    built = tmp_path / "ops" / "softmax.py"
    assert run("build", "softmax", "-o", built.parent).exit_code == 0
    written = built.stat()
    assert "up to date" in run("build", "softmax", "-o", built.parent).stdout
    assert (built.stat().st_ino, built.stat().st_mtime_ns) == (written.st_ino, written.st_mtime_ns)
    assert run("build", "--check", "softmax", "-o", built.parent).exit_code == 0


def test_check_names_what_is_stale_and_missing_and_writes_nothing(tmp_path: Path) -> None:
    stale = tmp_path / "softmax.py"
    stale.write_text("edited")
    found = run("build", "--check", "softmax", "sigmoid", "-o", tmp_path)
    assert found.exit_code == 1
    assert f"{stale} is not what" in found.stdout
    assert f"{tmp_path / 'sigmoid.py'} is missing" in found.stdout
    assert stale.read_text() == "edited"
    assert not (tmp_path / "sigmoid.py").exists()


def test_kernels_for_hopper_are_written_on_demand_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ATTNGEN_TARGET", "hopper")  # for ops that are loaded; a file says itself what it was built for
    assert run("build", "softmax", "-o", tmp_path / "any").exit_code == 0
    spec = tmp_path / "crowded.yaml"
    spec.write_text(BEYOND_HOPPER)
    built = run("build", "--target", "hopper", "softmax", spec, "-o", tmp_path / "hopper")
    assert built.stderr == "crowded has no kernels for Hopper: the others serve it there\n"
    holding = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.py") if "gluon" in path.read_text()}
    assert holding == {"hopper/softmax.py"}


def test_a_target_that_is_not_known_is_wrong_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ATTNGEN_TARGET", "volta")
    found = run("explain", "softmax")
    assert found.exit_code == 2
    assert "ATTNGEN_TARGET is 'volta'; it should be one of any, hopper" in found.stderr


def test_the_fast_form_is_written_on_demand_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ATTNGEN_PRECISION", "fast")
    assert run("build", "sigmoid", "-o", tmp_path / "exact").exit_code == 0
    built = run("build", "--precision", "fast", "sigmoid", "softmax", "-o", tmp_path / "fast")
    assert built.stderr == "softmax has no fast form: it is exact\n"
    holding = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.py") if "tanh.a" in path.read_text()}
    assert holding == {"fast/sigmoid.py"}
    assert "# Built with precision fast: in 16 bits" in (tmp_path / "fast" / "sigmoid.py").read_text()
    spec = catalog.read("sigmoid")
    assert request_digest(spec, {}) != request_digest(spec, {}, chosen_build())


def test_a_precision_that_is_not_known_is_wrong_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ATTNGEN_PRECISION", "half")
    found = run("audit", "softmax")
    assert found.exit_code == 2
    assert "ATTNGEN_PRECISION is 'half'; it should be one of exact, fast" in found.stderr


def test_an_empty_variable_asks_for_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in VARIABLES.values():
        monkeypatch.setenv(variable, "")
    assert chosen_build() == Build()


def test_a_mistake_in_one_spec_leaves_everything_unwritten(tmp_path: Path, wrong: Path) -> None:
    folder = tmp_path / "ops"
    found = run("build", "softmax", wrong, "-o", folder)
    assert found.exit_code == 1
    assert f"{wrong}:2:27: error:" in found.stderr
    assert not folder.exists()


def test_two_specs_of_one_name_are_refused(tmp_path: Path) -> None:
    found = run("build", "softmax", catalog.find("softmax"), "-o", tmp_path)
    assert found.exit_code == 2
    assert "named 'softmax'" in found.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("command", ["build", "explain", "verify", "audit"])
def test_a_mistake_in_a_spec_is_found_by_every_command(command: str, wrong: Path) -> None:
    found = run(command, wrong)
    assert found.exit_code == 1
    assert f"{wrong}:2:27: error:" in found.stderr


@pytest.mark.parametrize("command", ["build", "explain", "verify", "audit"])
@pytest.mark.parametrize(
    ("spec", "message"),
    [("softmx", "did you mean 'softmax'?"), ("nowhere.yaml", "there is no spec file nowhere.yaml")],
)
def test_a_spec_that_is_not_there_is_wrong_use(command: str, spec: str, message: str) -> None:
    found = run(command, spec)
    assert found.exit_code == 2
    assert message in found.stderr


@pytest.mark.parametrize("setting", ["power", "power=", "=3"])
def test_a_setting_is_name_and_value(setting: str) -> None:
    assert run("build", "softmax", "--set", setting).exit_code == 2


def test_an_unknown_static_is_found_in_the_spec() -> None:
    found = run("build", "softmax", "--emit", "ir", "--set", "power=3")
    assert found.exit_code == 1
    assert "power" in found.stderr


def test_emit_prints_the_stage_and_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    shown = run("build", "softmax", "--emit", "source")
    assert "def softmax_attention(" in shown.stdout
    assert not list(tmp_path.iterdir())


def test_the_formats_of_explain_are_those_that_there_are() -> None:
    assert tuple(render.FORMATS) == FORMATS


def test_a_mistake_of_ours_has_a_code_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise InternalError("plan and formula disagree", "sum(exp(s))")

    monkeypatch.setattr("attngen.pipeline.compile_spec", broken)
    found = run("build", "softmax")
    assert found.exit_code == 3
    assert "sum(exp(s))" in found.stderr


def test_a_folder_that_cannot_be_made_is_wrong_use(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert run("build", "softmax", "-o", tmp_path / "file" / "ops").exit_code == 2


def test_the_command_reads_well() -> None:
    shown = run("--help").stdout
    for command in ("build", "explain", "verify", "audit", "bench", "tune", "list", "schema"):
        assert f"\n  {command} " in shown
