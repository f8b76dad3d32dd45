"""Whatever the text, `read_spec` gives a normalizer or a SpecError: nothing else, and it comes to an end."""

import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attngen.diagnostics import SpecError
from attngen.ir import FUNCTIONS, REDUCTIONS, Normalizer
from attngen.spec.lower import read_spec

SPECS = [path.read_text() for path in sorted((Path(__file__).parents[2] / "specs").glob("*.yaml"))]
SPECS.append(
    "name: x\nlet:\n  tau: {root: 'sum(relu(s - tau)) - 1', between: [amax(s) - 1, amax(s)]}\n"
    "weights: relu(s - tau)\noutput: o / sqrt(csum(o ** 2))\n"
)
SNIPPETS = (
    *"()[]{}<>=!&*|%@`~^,.:;?#-+/'\"\\ \n\t\r\0\x85\u2028\ufeff\u200bαѕ",
    *("**", "//", "<=", "==", "- ", ": ", "? ", "---\n", "...\n", "<<: ", "!!str ", "&a ", "*a ", "|\n", ">\n", "''"),
    *("not ", " and ", " or ", "lambda ", "None", "true", "null", "1e999", "1e-999999999", "0.", "9" * 50, "\\U"),
    *("let:\n", "  p: ", "inputs:\n", "shape: []", "kind: static", "default: ", "root: ", "between: []", "claims: "),
    *("output: ", " o ", "csum", 'tau: {root: "sum(tau)", between: [0, 1]}'),
    *FUNCTIONS,
    *REDUCTIONS,
)
HANG = 120


def _hung(signum: int, frame: object) -> None:
    pytest.fail(f"no answer within {HANG} seconds")


@pytest.fixture(autouse=True)
def hang_guard() -> Iterator[None]:
    before = signal.signal(signal.SIGALRM, _hung)
    signal.alarm(HANG)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def check(text: str) -> None:
    """Reads the text; a message that comes of it has every place inside the text."""
    outcome = read(text)
    if isinstance(outcome, SpecError):
        lines = text.removeprefix("\ufeff").splitlines() or [""]
        spans = [mistake.span for mistake in outcome.diagnostics if mistake.span]
        assert outcome.diagnostics
        assert all(1 <= span.line <= len(lines) + 1 and span.column >= 1 for span in spans)
        assert str(outcome).startswith("fuzz.yaml")


def read(text: str) -> Normalizer | SpecError:
    try:
        return read_spec(text, "fuzz.yaml")
    except SpecError as error:
        return error


@st.composite
def mutated(draw: st.DrawFn) -> str:
    """A shipped spec with a few stretches removed, repeated, moved or replaced."""
    text = draw(st.sampled_from(SPECS))
    for _ in range(draw(st.integers(1, 6))):
        start = draw(st.integers(0, len(text)))
        end = min(len(text), start + draw(st.integers(0, 12)))
        put = draw(st.one_of(st.sampled_from(SNIPPETS), st.just(text[start:end] * 2), st.text(max_size=4)))
        text = text[:start] + put + text[end:]
    return text


def repeated() -> st.SearchStrategy[str]:
    """Long runs of one snippet, as a formula or as the whole file."""
    runs = st.builds(lambda snippet, n: snippet * n, st.sampled_from(SNIPPETS), st.integers(1, 4000))
    return st.one_of(
        runs, runs.map(lambda run: f"name: x\nweights: {run}\n"), runs.map(lambda run: f"let:\n  p: {run}")
    )


@settings(max_examples=300, deadline=None)
@given(st.text(max_size=200))
def test_random_text(text: str) -> None:
    check(text)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.sampled_from(SNIPPETS), max_size=60).map("".join))
def test_random_snippets(text: str) -> None:
    check(text)
    check(f"name: x\nweights: {text}")
    check(f"name: x\nweights: |\n  {text}")


@settings(max_examples=500, deadline=None)
@given(mutated())
def test_mutated_specs(text: str) -> None:
    check(text)


@settings(max_examples=60, deadline=None)
@given(repeated())
def test_long_runs(text: str) -> None:
    check(text)


def test_nesting_needs_little_stack() -> None:
    """A spec at all limits is read with a third of Python's usual stack."""
    before = sys.getrecursionlimit()
    depth = len(_frames())
    sys.setrecursionlimit(depth + 340)
    try:
        check("name: x\nweights: " + "(" * 63 + "s" + ")" * 63)
        check("name: x\nweights: " + "where(not " * 70)
        check("name: x\nweights: " + "-" * 60 + "s")
    finally:
        sys.setrecursionlimit(before)


def _frames() -> list[object]:
    frames, frame = [], sys._getframe()
    while frame is not None:
        frames.append(frame)
        frame = frame.f_back
    return frames
