"""What a run leaves behind: its cells' results with the machine, the versions and the command, as one JSON file.

A file holds one run or several that were merged; runs are never mixed, since times compare within a run alone. Times
are in seconds, rates in operations per second by the convention that `attngen.bench.grid` states, memory in bytes.
"""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

from attngen.bench.grid import Cell
from attngen.bench.measure import Times
from attngen.files import write_atomically
from attngen.verify.case import case_of

SCHEMA = 1

# unsupported: the peer says that it can't; failed: it tried; not run: the time was up
Status = Literal["measured", "unsupported", "not installed", "failed", "not run"]


@dataclass(frozen=True, slots=True)
class Result:
    """What came of one contender on one cell. `errors`: largest error over the largest magnitude, by tensor;
    None where the result is not finite. `precision`: exact or fast, where it is known.
    """

    cell: Cell
    contender: str
    status: Status
    reason: str = ""
    note: str = ""
    times: Times | None = None
    peak_bytes: int | None = None
    errors: dict[str, float | None] | None = None
    precision: str = ""

    @property
    def rate(self) -> float | None:
        return self.cell.flops / self.times.median if self.times else None


@dataclass(frozen=True, slots=True)
class Ceiling:
    """A physical limit, measured in the same run. Rate in operations or bytes per second."""

    what: Literal["matrix product", "multiply-adds", "memory"]
    dtype: str
    rate: float
    how: str


@dataclass(frozen=True, slots=True)
class Environment:
    """Where a run took place. `clocks` and `load` are those before and after it, as far as the system tells."""

    device: str
    kind: str  # cpu or cuda
    threads: int
    driver: str
    versions: dict[str, str]
    clocks: tuple[str, ...]
    load: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class BenchRun:
    """One run. `complete` is False while it lasts, and stays so where it was cut off."""

    started: str
    command: str
    environment: Environment
    ceilings: tuple[Ceiling, ...] = ()
    results: tuple[Result, ...] = ()
    complete: bool = False

    def with_results(self, results: Iterable[Result]) -> "BenchRun":
        return replace(self, results=(*self.results, *results))


def save(path: Path, runs: Iterable[BenchRun]) -> None:
    """Write the file in one step, whatever stood there before."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, json.dumps({"schema": SCHEMA, "runs": [_run_json(run) for run in runs]}, indent=1) + "\n")


def read(path: Path) -> tuple[BenchRun, ...]:
    """The runs of a file. Raises ValueError if it is not one of ours, or of another schema."""
    try:
        given = json.loads(path.read_text("utf-8"))
        if given["schema"] != SCHEMA:
            raise ValueError(f"{path} has the schema {given['schema']}, this attngen reads {SCHEMA}")
        return tuple(map(_run, given["runs"]))
    except (KeyError, TypeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} is not a file of `attngen bench`: {error!r}") from None


def merge(paths: Iterable[Path]) -> tuple[BenchRun, ...]:
    """The runs of several files, each once, the oldest first."""
    runs = {(run.started, run.command): run for path in paths for run in read(path)}
    return tuple(sorted(runs.values(), key=lambda run: run.started))


def _run_json(run: BenchRun) -> dict[str, Any]:
    whole = {f.name: getattr(run, f.name) for f in fields(run) if f.name not in ("environment", "ceilings", "results")}
    whole["environment"] = asdict(run.environment)
    whole["ceilings"] = [asdict(ceiling) for ceiling in run.ceilings]
    return whole | {"results": [_result_json(result) for result in run.results]}


def _result_json(result: Result) -> dict[str, Any]:
    cell = result.cell
    call = {"spec": cell.spec, "case": json.loads(cell.case.to_json()), "direction": cell.direction}
    found = {f.name: getattr(result, f.name) for f in fields(result) if f.name not in ("cell", "times")}
    found = {name: value for name, value in found.items() if value not in (None, "")}
    times = {"times": asdict(result.times), "rate": result.rate} if result.times else {}
    return call | {"quantity": cell.quantity} | found | times


def _run(given: Any) -> BenchRun:
    environment = dict(given["environment"])
    environment |= {name: tuple(environment[name]) for name in ("clocks", "load")}
    return BenchRun(
        given["started"], given["command"], Environment(**environment),
        tuple(Ceiling(**ceiling) for ceiling in given["ceilings"]), tuple(map(_result, given["results"])),
        given["complete"],
    )  # fmt: skip


def _result(given: Any) -> Result:
    cell = Cell(given["spec"], case_of(given["case"]), given["direction"], given["quantity"])
    times = Times(**given["times"]) if "times" in given else None
    return Result(
        cell, given["contender"], given["status"], given.get("reason", ""), given.get("note", ""), times,
        given.get("peak_bytes"), given.get("errors"), given.get("precision", ""),
    )  # fmt: skip
