"""A pytest plugin: what comes of each test as a line of JSON, written when it ends; what a file tells isn't run again.

    python -m pytest -p benchmarks.gpu.outcomes --outcomes FILE --test-seconds 100 [-n 12]

A kernel that never ends ends its process, and so does one that takes the GPU's context with it: the line is written
first, and under pytest-xdist another process goes on with the tests that are left. Where three tests of a file hung,
the rest of that file is left out of the run.
"""

import json
import os
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

GAVE_UP = 9  # the exit code of a process that a test took with it
HUNG, LEFT_OUT = "hung", "left out"
MOST_HUNG = 3


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--outcomes", type=Path, help="the file of outcomes; tests that it has are not run")
    parser.addoption("--test-seconds", type=float, default=100.0, help="a test that takes longer hangs")


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--outcomes"):
        config.pluginmanager.register(Outcomes(config), "outcomes of tests")


def read(path: Path) -> dict[str, dict[str, Any]]:
    """The last outcome of each test. A line that was cut off is none."""
    found = {}
    for line in path.read_text("utf-8").splitlines() if path.exists() else ():
        try:
            outcome = json.loads(line)
            found[str(outcome["test"])] = outcome
        except (ValueError, KeyError, TypeError):
            continue
    return found


class Outcomes:
    """Leaves known tests out, and watches and records the others. With xdist the tests run in its workers."""

    def __init__(self, config: pytest.Config) -> None:
        self._path: Path = config.getoption("--outcomes")
        self._seconds: float = config.getoption("--test-seconds")
        given = getattr(config, "workerinput", {}).get("known")  # workers that start later collect the same tests
        self._known = given if given is not None else [n for n, o in read(self._path).items() if _is_final(o)]
        self._reports: list[pytest.TestReport] = []

    @pytest.hookimpl(optionalhook=True)
    def pytest_configure_node(self, node: Any) -> None:
        node.workerinput["known"] = self._known

    def pytest_collection_modifyitems(self, config: pytest.Config, items: list[pytest.Item]) -> None:
        known = set(self._known)
        config.hook.pytest_deselected(items=[item for item in items if item.nodeid in known])
        items[:] = [item for item in items if item.nodeid not in known]

    def pytest_runtest_setup(self, item: pytest.Item) -> None:
        hung = Counter(name.split("::")[0] for name, o in read(self._path).items() if o["outcome"] == HUNG)
        if hung[item.nodeid.split("::")[0]] >= MOST_HUNG:
            pytest.skip(LEFT_OUT)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self._reports.append(report)

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        self._reports = []
        watch = threading.Timer(self._seconds, self._give_up, [item.nodeid])
        watch.daemon = True
        watch.start()
        begin = time.monotonic()
        try:
            return (yield)
        finally:
            watch.cancel()
            self._write(_outcome(item.nodeid, self._reports, time.monotonic() - begin))
            if not _gpu_answers():
                os._exit(GAVE_UP)

    def _give_up(self, test: str) -> None:
        self._write({"test": test, "outcome": HUNG, "seconds": self._seconds})
        os._exit(GAVE_UP)

    def _write(self, outcome: dict[str, Any]) -> None:
        with self._path.open("a", encoding="utf-8") as file:  # one write of a line: processes don't mix theirs
            file.write(json.dumps(outcome) + "\n")


def _is_final(outcome: dict[str, Any]) -> bool:
    return outcome["outcome"] not in ("skipped", LEFT_OUT)  # another machine may have what a test lacked


def _outcome(test: str, reports: list[pytest.TestReport], seconds: float) -> dict[str, Any]:
    """The worst of a test's setup, call and teardown, with the end of what it said."""
    worst = next((r for r in reports if r.failed), None) or next((r for r in reports if r.skipped), None)
    outcome = {"test": test, "outcome": worst.outcome if worst else "passed", "seconds": round(seconds, 2)}
    if worst is None:
        return outcome
    said = worst.longreprtext if worst.failed else str(worst.longrepr)
    if LEFT_OUT in said:
        outcome["outcome"] = LEFT_OUT
    return outcome | {"said": said[-3000:]}


def _gpu_answers() -> bool:
    """False once a kernel took the GPU's context with it. What tests left in the allocator goes back to the others."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_initialized():
        return True
    try:
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
    except RuntimeError:
        return False
    return True
