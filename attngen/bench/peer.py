"""What a peer is: a name, and a function that turns a task into an attention to be timed, or says why it can't.

Peers differ in what they compute, where they run and how their tensors lie in memory; the rest of the bench sees none
of that. Whether two specs mean the same is decided by their formulas, not by their names.
"""

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Literal

import torch
from torch import Tensor

from attngen import catalog, ir
from attngen.bench.grid import Cell
from attngen.spec.lower import read_spec
from attngen.verify.draw import Drawn

Layout = Literal["bhnd", "bnhd"]  # (batch, heads, length, head dim) or (batch, length, heads, head dim)
Attend = Callable[[Tensor, Tensor, Tensor], Tensor]


class Unsupported(Exception):
    """The peer can't run the case; the message says why, in a few words."""


@dataclass(frozen=True, slots=True)
class Task:
    """A cell with its spec and what it means, the op to be called, and the tensors that all peers get."""

    cell: Cell
    spec: str  # as the user named it
    normalizer: ir.Normalizer
    op: Callable[..., Tensor]
    drawn: Drawn
    device: str

    @property
    def formula(self) -> str | None:
        """The shipped spec with the same formula."""
        return formula_of(self.normalizer)

    @property
    def dtype(self) -> torch.dtype:
        return self.drawn.operands.query.dtype

    def input(self, name: str) -> Tensor | float | None:
        """An input of the spec as it is given to the call; None if it is left out."""
        return self.drawn.operands.inputs.get(name)


@dataclass(frozen=True, slots=True)
class Attention:
    """An attention ready to be timed. `note` says what a reader of the figure has to know, `precision` whether logistic
    functions and tanh are exact or fast, if that is known.

    `environment` holds variables of the process that are set while it runs, in either direction. A yardstick computes
    something else, which the time is set against; it has no error.
    """

    attend: Attend
    layout: Layout = "bhnd"
    note: str = ""
    precision: str = ""
    environment: Mapping[str, str] = field(default_factory=dict)
    is_yardstick: bool = False


@dataclass(frozen=True, slots=True)
class Peer:
    """`prepare` raises Unsupported where the peer can't run, ImportError where it isn't installed."""

    name: str
    prepare: Callable[[Task], Attention]


def need(condition: bool, reason: str) -> None:
    """Raise Unsupported unless the condition holds."""
    if not condition:
        raise Unsupported(reason)


@contextlib.contextmanager
def setting(variables: Mapping[str, str]) -> Iterator[None]:
    """Within the block the process has these environment variables."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def formula_of(normalizer: ir.Normalizer) -> str | None:
    """The name of the shipped spec whose formulas are these, or None."""
    mine = _formulas(normalizer)
    return next((name for name, formulas in _shipped().items() if formulas == mine), None)


@cache
def _shipped() -> dict[str, object]:
    read = (read_spec(path.read_text("utf-8"), str(path)) for path in catalog.shipped())
    return {normalizer.name: _formulas(normalizer) for normalizer in read}


def _formulas(normalizer: ir.Normalizer) -> object:
    formulas = (normalizer.score, normalizer.weights, normalizer.output)
    return formulas, tuple((i.name, i.axes, i.default) for i in normalizer.inputs)
