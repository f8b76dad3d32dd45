"""Pictures: every cell with a time is in one, and the files are what the names say."""

from pathlib import Path

from attngen.bench.grid import Cell, Direction
from attngen.bench.measure import times_of
from attngen.bench.plots import draw_all
from attngen.bench.record import BenchRun, Ceiling, Environment, Result
from attngen.verify.case import Case, DType


def cell(length: int, direction: Direction = "forward", d: int = 64, dtype: DType = "bfloat16") -> Cell:
    return Cell("softmax", Case(kv_heads=4, n_q=length, n_k=length, d=d, d_v=d, dtype=dtype), direction)


def a_run(kind: str, cells: list[Cell]) -> BenchRun:
    machine = Environment(f"a {kind}", kind, 1, "", {}, (), ())
    results = [
        Result(c, name, "measured", times=times_of([c.flops / 1e12])) for c in cells for name in ("attngen", "x")
    ]
    results.append(Result(cells[0], "y", "unsupported", "no"))
    return BenchRun("2026-11-21", "", machine, (Ceiling("matrix product", "bfloat16", 2e12, ""),), tuple(results))


def drawn(tmp_path: Path, *runs: BenchRun) -> list[str]:
    paths = draw_all(runs, tmp_path / "run")
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in paths)
    return sorted(path.name for path in paths)


def test_lines_over_the_length_and_bars_without_one(tmp_path: Path) -> None:
    cells = [cell(n, direction) for n in (512, 1024) for direction in ("forward", "backward")]
    assert drawn(tmp_path, a_run("cuda", [*cells, cell(512, d=128)])) == [
        "run-cuda-backward-full.png", "run-cuda-forward-full.png", "run-cuda.png",
    ]  # fmt: skip


def test_runs_of_a_cpu_and_a_gpu_share_no_picture(tmp_path: Path) -> None:
    runs = a_run("cpu", [cell(512, dtype="float32")]), a_run("cuda", [cell(512)])
    assert drawn(tmp_path, *runs) == ["run-cpu.png", "run-cuda.png"]


def test_nothing_measured_gives_no_picture(tmp_path: Path) -> None:
    empty = a_run("cpu", [cell(512)])
    assert drawn(tmp_path, BenchRun("", "", empty.environment, (), empty.results[-1:])) == []
