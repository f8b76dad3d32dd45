"""attngen compiles the formula of an attention normalizer into a fused attention op."""

import importlib
from collections.abc import Callable
from typing import Any

from attngen.api import load
from attngen.version import __version__

__all__ = ["__version__", "explain_compile", "load"]

explain_compile: Callable[..., Any]  # of attngen.dynamo.backend, which tells what it does


def __getattr__(name: str) -> Any:
    # What brings torch's compiler with it is imported when it is asked for.
    if name == "explain_compile":
        return importlib.import_module("attngen.dynamo.backend").explain_compile
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
