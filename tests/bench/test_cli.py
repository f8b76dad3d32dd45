"""`attngen bench` on the command line: merging, showing, plotting, and what it says of mistakes."""

from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result

from attngen.bench.record import BenchRun, Environment, read, save
from attngen.cli import main
from attngen.cli_bench import Asked, command


def bench(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, ["bench", *map(str, arguments)], catch_exceptions=False)


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    paths = [tmp_path / "a.json", tmp_path / "b.json"]
    for day, path in enumerate(paths):
        environment = Environment("a CPU", "cpu", 2, "", {}, (), ())
        save(path, [BenchRun(f"2026-11-2{day}", "attngen bench", environment, complete=True)])
    return paths


def test_merge(files: list[Path], tmp_path: Path) -> None:
    assert bench("--merge", *files, "-o", tmp_path / "both.json").exit_code == 0
    assert [run.started for run in read(tmp_path / "both.json")] == ["2026-11-20", "2026-11-21"]
    assert "-o" in bench("--merge", *files).output


def test_show_and_plot(files: list[Path]) -> None:
    assert bench("--show", *files).output.count("a CPU, 2 threads") == 2
    assert bench("--plot", files[0]).exit_code == 0


def test_wrong_use(files: list[Path], tmp_path: Path) -> None:
    assert "--plot needs result files" in bench("--plot").output
    assert bench("--show", tmp_path / "none.json").exit_code == 2
    files[0].write_text("{}")
    assert "not a file of `attngen bench`" in bench("--show", files[0]).output
    assert "no contender is named 'nobody'" in bench("softmax", "--device", "cpu", "--peer", "nobody").output


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu() -> None:
    found = bench("softmax")
    assert found.exit_code == 2
    assert "--device cpu" in found.output


def test_the_command_is_kept_as_it_has_to_be_given_again() -> None:
    asked = Asked("cpu", True, 3.0, Path("elsewhere.json"), ("written out, eager",))
    assert command(("a b.yaml",), asked) == (
        "attngen bench 'a b.yaml' --device cpu --quick --minutes 3 --peer 'written out, eager'"
    )
