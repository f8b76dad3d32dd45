"""Peak memory of one contender on the CPU: the growth of a process of its own while it makes one call.

The process runs the call once to warm up, so that libraries are loaded and code is compiled, and once more with the
system's high-water mark set back. Freed blocks go back to the system at once (`MALLOC_MMAP_THRESHOLD_`). Linux only.
The process is given most of the memory that is free, and no more: what needs more fails, and the machine lives.
"""

import json
import os
import resource
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from attngen.bench.grid import Cell
from attngen.bench.record import Result

_SHARE = 0.8  # of the memory that is free
_STATUS, _CLEAR, _MEMINFO = Path("/proc/self/status"), Path("/proc/self/clear_refs"), Path("/proc/meminfo")


@dataclass(frozen=True, slots=True)
class Request:
    """What the process is asked, as its argument says it."""

    spec: str
    cell: Cell
    contender: str

    def to_json(self) -> str:
        case = json.loads(self.cell.case.to_json())
        return json.dumps({"spec": self.spec, "case": case, "direction": self.cell.direction, "peer": self.contender})


def peak_of(spec: str, cell: Cell, contender: str, seconds: float) -> Result:
    """The contender's peak on the cell, or the result that says why there is none."""
    command = [sys.executable, "-m", "attngen.bench.memory", Request(spec, cell, contender).to_json()]
    settings = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
    environment = {**os.environ, **settings, "OMP_NUM_THREADS": str(torch.get_num_threads())}
    try:
        done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=seconds, check=False)
    except subprocess.TimeoutExpired:
        return Result(cell, contender, "not run", f"took more than {seconds:.0f} s")
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        return Result(cell, contender, "failed", last[:240])
    answer = json.loads(done.stdout.splitlines()[-1])
    told = {name: answer[name] for name in ("status", "reason", "note", "peak_bytes", "precision")}
    return Result(cell, contender, **told)


def main(text: str) -> None:
    """In the process: measure, and print a line of JSON."""
    from attngen.bench.contend import Ready, enter, task_of
    from attngen.bench.peers import peers_for
    from attngen.bench.subject import subject
    from attngen.verify.case import case_of

    given = json.loads(text)
    _limit_memory()
    found = subject(given["spec"])
    cell = Cell(found.normalizer.name, case_of(given["case"]), given["direction"], "memory")
    (peer,) = (peer for peer in peers_for("cpu", quick=False) if peer.name == given["peer"])
    entered = enter(peer, task_of(cell, found, "cpu"), exact=None)
    result, peak = (entered.result, growth(entered.run)) if isinstance(entered, Ready) else (entered, None)
    told = {name: getattr(result, name) for name in ("status", "reason", "note", "precision")}
    print(json.dumps(told | {"peak_bytes": peak}))


def growth(run: Callable[[], object]) -> int:
    """By how much the process grows at most while `run` runs, in bytes."""
    _CLEAR.write_text("5")  # the high-water mark becomes what is resident now
    before = _status("VmHWM")
    run()
    return _status("VmHWM") - before


def _status(field: str) -> int:
    (line,) = (line for line in _STATUS.read_text("utf-8").splitlines() if line.startswith(field))
    return int(line.split()[1]) * 1024


def _limit_memory() -> None:
    (line,) = (line for line in _MEMINFO.read_text("utf-8").splitlines() if line.startswith("MemAvailable"))
    most = int(int(line.split()[1]) * 1024 * _SHARE)
    resource.setrlimit(resource.RLIMIT_DATA, (most, most))


if __name__ == "__main__":
    main(sys.argv[1])
