"""Options that all tests share."""

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--all-native", action="store_true", help="build the native kernels of every shipped spec")
    parser.addoption("--update-golden", action="store_true", help="write what golden tests get as what they expect")


@pytest.fixture
def update_golden(request: pytest.FixtureRequest) -> bool:
    """Whether golden tests write their expected files anew."""
    return bool(request.config.getoption("--update-golden"))
