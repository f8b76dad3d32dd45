"""All that needs a GPU, in steps with a time bound each, for a GPU that is there for minutes:

    python benchmarks/on_gpu.py --out DIR check:9
    python benchmarks/on_gpu.py --out DIR compile:2 kernels:6
    python benchmarks/on_gpu.py --out DIR hopper:3 tune:3 peers:3

A step writes into DIR as it goes, so that what is cut off keeps what it found; the same command goes on from there. A
step is its children's processes: at its end they are ended. `--device cpu` runs everything at tiny sizes without a GPU.
Nothing is installed and no setting of the GPU is touched. docs/benchmarks.md says what each step is for.
"""

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.gpu.outcomes import GAVE_UP, read  # noqa: E402

TESTS = ("ops", "graphs", "hopper", "large")
FAILURES = 25  # as many are told in a summary


@dataclass(frozen=True)
class Asked:
    """What the command line says, and when the step has to end."""

    out: Path
    device: str
    specs: tuple[str, ...]
    processes: int
    every_spec: bool
    end: float

    @property
    def minutes(self) -> float:
        return max(0.0, self.end - time.monotonic()) / 60


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("steps", nargs="+", metavar="STEP:MINUTES", type=_step, help=", ".join(STEPS))
    parser.add_argument("--out", type=Path, required=True, help="where files are written, and read on a second run")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--specs", default="softmax,sigmoid,softplus_l1,affine_scaled", help="for all steps but check")
    parser.add_argument("--processes", type=int, default=max(1, min(12, (os.cpu_count() or 2) - 2)))
    parser.add_argument("--every-spec", action="store_true", help="check: all shipped specs, not one of each kind")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that children end as well
    for name, minutes in given.steps:
        end = time.monotonic() + 60 * minutes
        asked = Asked(
            given.out.resolve(), given.device, tuple(given.specs.split(",")), given.processes, given.every_spec, end
        )  # fmt: skip
        print(f"== {name}, {minutes:g} minutes", flush=True)
        _run(name, asked)


def _step(text: str) -> tuple[str, float]:
    name, _, minutes = text.partition(":")
    if name not in STEPS:
        raise argparse.ArgumentTypeError(f"there are the steps {', '.join(STEPS)}")
    return name, float(minutes or 9)


def _run(name: str, asked: Asked) -> None:
    """The step's commands in turn. One that a test took with it is run again, which leaves that test out."""
    for command in STEPS[name](asked):
        while _child(command, asked, asked.out / f"{name}.log") == GAVE_UP:
            continue
    SUMMARIES.get(name, _tail)(name, asked)


def _child(command: list[str], asked: Asked, log: Path) -> int | None:
    """The exit code, or None where the time was up. Its output is the log's."""
    if asked.minutes == 0:
        return None
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
                   "PYTHONUNBUFFERED": "1", "OMP_NUM_THREADS": "1"}  # fmt: skip
    with log.open("ab") as file:
        file.write(f"$ {' '.join(command)}\n".encode())
        file.flush()
        child = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=file, stderr=file, process_group=0)
        try:
            return child.wait(max(0.0, asked.end - time.monotonic()))
        except subprocess.TimeoutExpired:
            return None
        finally:
            _end(child)


def _end(child: subprocess.Popen[bytes]) -> None:
    """Its whole group: pytest's workers, compilers."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()


def check(asked: Asked) -> Iterator[list[str]]:
    """What the machine is; the tests that need a GPU, in parallel, so that it doesn't wait for compilers."""
    yield _python("benchmarks.gpu.machine", str(asked.out / "machine.json"), asked.device)
    pytest = _python("pytest", "-q", "-p", "benchmarks.gpu.outcomes", "--outcomes", str(asked.out / "check.jsonl"))
    pytest += ["--all-specs"] if asked.every_spec else []
    if asked.processes > 1:
        pytest += ["-n", str(asked.processes), "--maxschedchunk", "2"]
    yield [*pytest, *(f"tests/gpu/test_{name}.py" for name in TESTS)]
    yield [*pytest, "--test-seconds", "400", "tests/gpu/test_sanitizer.py"]


def fill(asked: Asked) -> Iterator[list[str]]:
    """Triton's cache for the cells of `kernels`."""
    yield _python("benchmarks.gpu.compiled", asked.device, str(asked.processes), *asked.specs)


def kernels(asked: Asked) -> Iterator[list[str]]:
    """The op beside other kernels that need no compiler: all of the quick grid."""
    yield _cells("kernels", asked)


def peers(asked: Asked) -> Iterator[list[str]]:
    """The op beside all contenders, at one length."""
    yield _cells("peers", asked)


def hopper(asked: Asked) -> Iterator[list[str]]:
    """Tiles of the kernels for Hopper."""
    yield _python("benchmarks.gpu.hopper_tiles", asked.device, str(asked.out / "hopper.jsonl"), *asked.specs)


def tune(asked: Asked) -> Iterator[list[str]]:
    """Tiles of the plain kernels; what is found is kept where `attngen.load` looks for it, and in the log."""
    widths = ("--head-dim", "16") if asked.device == "cpu" else ("--head-dim", "128", "--head-dim", "64")
    minutes = ("--minutes", f"{max(0.1, asked.minutes - 0.2):.2f}")
    yield _python("attngen", "tune", *asked.specs, "--device", asked.device, *widths, *minutes)


STEPS = {"check": check, "compile": fill, "kernels": kernels, "peers": peers, "hopper": hopper, "tune": tune}


def _cells(grid: str, asked: Asked) -> list[str]:
    minutes = f"{max(0.05, asked.minutes - 0.5):.2f}"
    return _python("benchmarks.gpu.cells", grid, asked.device, str(asked.out), minutes, *asked.specs)


def _python(module: str, *words: str) -> list[str]:
    return [sys.executable, "-m", module, *words]


def _tail(name: str, asked: Asked, lines: int = 60) -> None:
    log = asked.out / f"{name}.log"
    told = log.read_text("utf-8", "replace").splitlines() if log.exists() else ["nothing"]
    print("\n".join(told[-lines:]), flush=True)


def _tests(name: str, asked: Asked) -> None:
    """How many tests came out how, and the first failures."""
    outcomes = read(asked.out / f"{name}.jsonl")
    counts: dict[str, int] = {}
    for outcome in outcomes.values():
        counts[outcome["outcome"]] = counts.get(outcome["outcome"], 0) + 1
    print(json.dumps(counts))
    bad = [o for o in outcomes.values() if o["outcome"] in ("failed", "hung")]
    for outcome in bad[:FAILURES]:
        lines = [line for line in outcome.get("said", "").splitlines() if line.startswith("E ")]
        print(f"{outcome['outcome']} {outcome['test']}\n    {' '.join(lines[:2])[:300]}")
    _tail(name, asked, lines=3)


SUMMARIES = {"check": _tests}

if __name__ == "__main__":
    main()
