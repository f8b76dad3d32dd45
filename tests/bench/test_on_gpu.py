"""The steps that a GPU is given minutes for: what is cut off keeps what it found, and goes on from there."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from attngen.bench import run
from benchmarks import on_gpu
from benchmarks.gpu import cells, hopper_tiles, outcomes

ROOT = Path(__file__).parents[2]
TESTS = """
import os, time

def test_passes(): pass
def test_fails(): assert 1 == 2, "wrong"
def test_hangs(): time.sleep(60)
def test_ends_the_process(): os._exit(1)
def test_later(): pass
"""


def pytest_in(folder: Path, *options: str) -> dict[str, str]:
    """The outcomes after a run of the plugin's in the folder."""
    words = ["-q", "-p", "benchmarks.gpu.outcomes", "--outcomes", "out.jsonl", "--test-seconds", "4", *options]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run(
        [sys.executable, "-m", "pytest", *words], cwd=folder, env=environment, capture_output=True, timeout=300
    )
    return {name.split("::")[1]: found["outcome"] for name, found in outcomes.read(folder / "out.jsonl").items()}


def test_each_outcome_is_kept_and_the_others_go_on(tmp_path: Path) -> None:
    (tmp_path / "test_some.py").write_text(TESTS, "utf-8")
    first = {"test_passes": "passed", "test_fails": "failed", "test_hangs": "hung"}
    assert pytest_in(tmp_path) == first
    said = outcomes.read(tmp_path / "out.jsonl")["test_some.py::test_fails"]["said"]
    assert "wrong" in said
    assert pytest_in(tmp_path, "-n", "1") == first | {"test_later": "passed"}
    with (tmp_path / "out.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"test": "test_some.py::te')  # as a full disk or a kill leaves it
    assert len(outcomes.read(tmp_path / "out.jsonl")) == 4


def test_what_hangs_again_and_again_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "test_some.py").write_text("def test_one(): pass\n", "utf-8")
    lines = [json.dumps({"test": f"test_some.py::test_{n}", "outcome": "hung"}) for n in range(outcomes.MOST_HUNG)]
    (tmp_path / "out.jsonl").write_text("\n".join(lines) + "\n", "utf-8")
    assert pytest_in(tmp_path)["test_one"] == outcomes.LEFT_OUT


STEP = """
import subprocess, sys, time
print("begun", flush=True)
subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)", sys.argv[1]])
time.sleep(60)
"""


def test_a_step_ends_with_all_its_processes_when_its_time_is_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(on_gpu.STEPS, "slow", lambda asked: iter([[sys.executable, "-c", STEP, str(tmp_path)]]))
    begin = time.monotonic()
    on_gpu._run("slow", on_gpu.Asked(tmp_path, "cpu", (), 1, False, begin + 6))  # a loaded machine starts it late
    assert time.monotonic() - begin < 50
    assert "begun" in capsys.readouterr().out
    while named(tmp_path) and time.monotonic() - begin < 50:  # a killed process ends when it is next scheduled
        time.sleep(0.1)
    assert not named(tmp_path)


def named(path: Path) -> list[Path]:
    """The processes that have the path as an argument."""
    return [one for one in Path("/proc").glob("[0-9]*/cmdline") if str(path).encode() in contents(one)]


def contents(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


def test_a_command_that_a_test_took_with_it_runs_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    count = f"import sys; f = open({str(tmp_path / 'count')!r}, 'a+'); f.write('.'); f.seek(0)"
    command = [sys.executable, "-c", f"{count}; sys.exit({outcomes.GAVE_UP} if len(f.read()) < 3 else 0)"]
    monkeypatch.setitem(on_gpu.STEPS, "again", lambda asked: iter([command]))
    on_gpu._run("again", on_gpu.Asked(tmp_path, "cpu", (), 1, False, time.monotonic() + 60))
    assert (tmp_path / "count").read_text("utf-8") == "..."


def test_a_run_that_was_cut_off_leaves_the_other_cells(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "ceilings", lambda *_: ())
    grid = cells.cells_of("kernels", "cpu", ("softmax", "sigmoid", "poly2"))
    file = tmp_path / "kernels-1.json"
    plan = run.Plan(("softmax", "sigmoid", "poly2"), "cpu", file, "", 1.0, True, ("attngen portable",), grid)

    def cut_off(done: int, of: int, title: str) -> None:
        if done == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run.bench(plan, cut_off)
    assert cells.left(grid, [file]) == grid[1:]
    assert cells.left(grid, []) == grid


def test_tiles_that_did_not_end_are_not_tried_again(tmp_path: Path) -> None:
    (cell,) = hopper_tiles.cells_of("sigmoid", "cpu")
    path = tmp_path / "tiles.jsonl"
    path.write_text(json.dumps({"cell": cell.title, "begun": "(64, 128, 3, 4, 2)"}) + "\n", "utf-8")
    found = hopper_tiles.measured(cell, "cpu", hopper_tiles.Log(path))
    assert found.pop("(64, 128, 3, 4, 2)") == "didn't end"  # the shipped one
    assert len(found) > 2
    assert next(iter(found)) == "plain"
    assert all("median" in one for one in found.values())


def test_the_grids_are_for_minutes() -> None:
    named = ("softmax", "sigmoid", "softplus_l1", "affine_scaled")
    kernels, peers = (cells.cells_of(grid, "cuda", named) for grid in ("kernels", "peers"))
    assert set(peers) < set(kernels)
    assert {cell.spec for cell in kernels} == set(named)
    assert {"kernels", "peers"} < set(on_gpu.STEPS)
