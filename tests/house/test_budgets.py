"""The house's sizes: functions, files and parameter lists stay small enough to read. Generated code is exempt."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FUNCTION_LINES, FILE_LINES = 50, 400
FOLDERS = ("attngen", "tests", "examples", "benchmarks")
FILES = sorted(file for folder in FOLDERS for file in (ROOT / folder).rglob("*.py"))
TEMPLATES = sorted((ROOT / "templates").rglob("*.jinja"))


def functions(file: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(ast.parse(file.read_text("utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def lines(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    return (node.end_lineno or node.lineno) - node.lineno + 1


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_files_and_functions_are_short(file: Path) -> None:
    length = len(file.read_text("utf-8").splitlines())
    assert length <= FILE_LINES, f"{length} lines"
    long = {node.name: lines(node) for node in functions(file) if lines(node) > FUNCTION_LINES}
    assert not long


@pytest.mark.parametrize("file", TEMPLATES, ids=lambda file: str(file.relative_to(ROOT)))
def test_templates_are_short(file: Path) -> None:
    length = len(file.read_text("utf-8").splitlines())
    assert length <= FILE_LINES, f"{length} lines"


def test_the_budgets_see_the_package() -> None:
    assert ROOT / "attngen" / "ir.py" in FILES
