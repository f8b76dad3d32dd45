"""Options that all tests share, and which path serves CPUs in them."""

import os

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--all-native", action="store_true", help="native kernels serve all tests; they are built")
    parser.addoption("--all-specs", action="store_true", help="GPU tests of every shipped spec, not of some")
    parser.addoption("--update-golden", action="store_true", help="write what golden tests get as what they expect")


def pytest_configure(config: pytest.Config) -> None:
    """Plain torch serves CPUs: building the native kernels of every op would take longer than the tests.

    Tests of the native kernels, in `tests/cpu`, say so.
    """
    os.environ.setdefault("ATTNGEN_CPU", "native" if config.getoption("--all-native") else "portable")


@pytest.fixture
def update_golden(request: pytest.FixtureRequest) -> bool:
    """Whether golden tests write their expected files anew."""
    return bool(request.config.getoption("--update-golden"))
