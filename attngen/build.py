"""What a module is built for: a target and a precision. ATTNGEN_TARGET and ATTNGEN_PRECISION say it where nobody else
does, and are read here alone; an empty one says nothing.

`hopper` adds the kernels for Hopper, which a call then takes on such a GPU unless `attngen tune` found the plain ones
to be faster. They are compiled and their machine code is read, but they have not been run: so they are never the
default. `fast` takes logistic functions and tanh from `tanh.approx` where inputs have 16 bits and the GPU is NVIDIA's.
Its relative error is up to 2^-11, so that a logistic weight errs by up to 2.4e-4 whatever it is, which is half of a
weight of 1/2048: it is never the default either.
"""

import os
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Literal, get_args

Target = Literal["any", "hopper"]  # every device alike, or Hopper's own kernels as well
Precision = Literal["exact", "fast"]
VARIABLES = {"target": "ATTNGEN_TARGET", "precision": "ATTNGEN_PRECISION"}


@dataclass(frozen=True, slots=True)
class Build:
    """What a module is built for."""

    target: Target = "any"
    precision: Precision = "exact"


DEFAULT = Build()


def chosen_build() -> Build:
    """The build that the environment asks for. Raises ValueError for one that isn't known."""
    return Build(_chosen("target", Target), _chosen("precision", Precision))


def _chosen(what: str, kind: Any) -> Any:
    asked = os.environ.get(VARIABLES[what]) or getattr(DEFAULT, what)
    if asked not in get_args(kind):
        raise ValueError(f"{VARIABLES[what]} is '{asked}'; it should be one of {', '.join(get_args(kind))}")
    return asked


def precision_of(module: ModuleType | None) -> Precision:
    """Whether a generated module has fast forms: a formula may have no use for any, whatever was asked for."""
    return "fast" if hasattr(module, "_takes_fast_forms") else "exact"
