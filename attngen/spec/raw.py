"""A spec with its fields apart and its formulas read as syntax, before any name in it has a meaning.

A formula that could not be read is a `Formula` without a tree: it is there, and its mistake is already told. `mistakes`
holds every mistake found so far; what follows adds its own, so that a file's mistakes are told together. `refused` are
the names that inputs and lets could not take: formulas that use them are not told of a second time.
"""

from dataclasses import dataclass

from attngen.diagnostics import Diagnostic, Span
from attngen.ir import Axis
from attngen.spec.source import Source
from attngen.spec.syntax import Syntax


@dataclass(frozen=True, slots=True)
class Formula:
    tree: Syntax | None
    span: Span


@dataclass(frozen=True, slots=True)
class RawInput:
    """`axes` and `grad` belong to a tensor; a static input has a `default` alone."""

    name: str
    span: Span
    static: bool
    axes: tuple[Axis, ...]
    default: Formula | None
    grad: bool


@dataclass(frozen=True, slots=True)
class RawRoot:
    residual: Formula
    low: Formula
    high: Formula


@dataclass(frozen=True, slots=True)
class RawLet:
    name: str
    span: Span
    formula: Formula | RawRoot


@dataclass(frozen=True, slots=True)
class RawClaims:
    """`places`: where each claim that the spec names stands."""

    rows_sum_to: Formula | None = None
    shift_invariant: bool = False
    nonnegative: bool = False
    sparse: bool = False
    places: tuple[tuple[str, Span], ...] = ()


@dataclass(frozen=True, slots=True)
class RawSpec:
    read: Source
    path: str
    name: str
    title: str
    reference: str
    inputs: tuple[RawInput, ...]
    lets: tuple[RawLet, ...]
    score: Formula | None
    weights: Formula | None
    output: Formula | None
    claims: RawClaims
    mistakes: tuple[Diagnostic, ...]
    refused: frozenset[str] = frozenset()
