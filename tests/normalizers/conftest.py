"""The ops of `tests/ops`: built once in a session, on one thread."""

from tests.ops.conftest import load, one_thread

__all__ = ["load", "one_thread"]
