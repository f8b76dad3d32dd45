"""Result files: what is written is read again, merges keep runs apart, and other files are refused."""

from dataclasses import replace
from pathlib import Path

import pytest

from attngen.bench.grid import Cell
from attngen.bench.measure import times_of
from attngen.bench.record import BenchRun, Ceiling, Environment, Result, merge, read, save
from attngen.bench.report import render, share_of_ceiling
from attngen.verify.case import Case

CELL = Cell("softmax", Case(kv_heads=8, n_q=2048, n_k=2048, d=64, d_v=64), "forward")
DECODING = Cell("softmax", Case(kv_heads=1, group=8, n_q=1, n_k=16384, d=64, d_v=64), "forward")
MACHINE = Environment("a CPU", "cpu", 2, "", {"torch": "2.13"}, ("3000 MHz",), (0.5,))
CEILINGS = (Ceiling("matrix product", "float32", 1e11, "2048^3"), Ceiling("memory", "float32", 2e10, "sum"))


def a_run(started: str = "2026-11-21T00:00:00Z") -> BenchRun:
    results = (
        Result(CELL, "attngen", "measured", "", "CPU path", times_of([0.2, 0.1, 0.3]), 1 << 20, {"out": 1e-7}),
        Result(CELL, "written out, eager", "measured", times=times_of([0.8]), errors={"out": None}),
        Result(CELL, "SDPA", "measured", times=times_of([0.4])),
        Result(CELL, "triton-sigmoid", "unsupported", "sigmoid only"),
        Result(DECODING, "attngen", "measured", times=times_of([1e-3])),
    )
    return BenchRun(started, "attngen bench --device cpu", MACHINE, CEILINGS, results, True)


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    save(tmp_path / "deep" / "run.json", [a_run()])
    assert read(tmp_path / "deep" / "run.json") == (a_run(),)


def test_merging_keeps_every_run_once_in_order(tmp_path: Path) -> None:
    late, early = a_run("2026-11-22T00:00:00Z"), a_run("2026-11-20T00:00:00Z")
    save(tmp_path / "a.json", [late])
    save(tmp_path / "b.json", [early, late])
    assert merge([tmp_path / "a.json", tmp_path / "b.json"]) == (early, late)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"schema": 1, "runs": [{}]}', '{"schema": 99, "runs": []}'])
def test_other_files_are_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "other.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"other\.json"):
        read(path)


def test_shares_of_the_ceiling() -> None:
    run = a_run()
    assert share_of_ceiling(run, run.results[0]) == pytest.approx(CELL.flops / 0.2 / 1e11)
    assert share_of_ceiling(run, run.results[4]) == pytest.approx(2 * 16384 * 64 * 4 / 1e-3 / 2e10)
    assert share_of_ceiling(run, run.results[3]) is None
    faster = replace(run, ceilings=(*CEILINGS, Ceiling("multiply-adds", "float32", 4e11, "")))
    assert share_of_ceiling(faster, run.results[0]) == pytest.approx(CELL.flops / 0.2 / 4e11)


def test_the_report_names_everybody() -> None:
    text = render(a_run())
    assert "  triton-sigmoid: unsupported, sigmoid only\n" in text
    (ours,) = [line for line in text.splitlines() if line.startswith("attngen ") and "CPU path" in line]
    assert ours.split()[1:8] == ["200.000", "100.000", "300.000", "42.95", "43%", "1.00", "1.0e-07"]
    (eager,) = [line for line in text.splitlines() if line.startswith("written out")]
    assert eager.endswith("not finite         -")
    (sdpa,) = [line for line in text.splitlines() if line.startswith("SDPA")]
    assert sdpa.split()[6] == "0.50"  # ours takes half of its time
