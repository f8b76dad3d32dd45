"""Every broken spec in this folder gives exactly the message that stands beside it.

`pytest tests/diagnostics --update-golden` writes the messages anew; read them before they are committed.
"""

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from attngen.diagnostics import SpecError
from attngen.spec.files import read_spec_file

HERE = Path(__file__).parent
SPECS = sorted(path.name for path in HERE.glob("*.yaml"))
HANG = 60  # seconds after which a spec is taken to hang


def _hung(signum: int, frame: object) -> None:
    pytest.fail(f"no answer within {HANG} seconds")


@pytest.fixture(autouse=True)
def hang_guard() -> Iterator[None]:
    before = signal.signal(signal.SIGALRM, _hung)
    signal.alarm(HANG)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def test_there_are_enough() -> None:
    assert len(SPECS) >= 60
    assert {path.stem for path in HERE.glob("*.txt")} == {Path(name).stem for name in SPECS}


@pytest.mark.parametrize("name", SPECS)
def test_message(name: str, monkeypatch: pytest.MonkeyPatch, update_golden: bool) -> None:
    monkeypatch.chdir(HERE)
    with pytest.raises(SpecError) as raised:
        read_spec_file(name)
    message = f"{raised.value}\n"
    golden = HERE / name.replace(".yaml", ".txt")
    if update_golden:
        golden.write_text(message, encoding="utf-8")
    assert message == golden.read_text(encoding="utf-8")
