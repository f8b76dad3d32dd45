"""Evaluation of formulas on one row: `ir.Expr` -> a list of steps -> floats, one for each key that the row sees.

The formula of an output has one for each channel instead.

A formula is evaluated as it stands, operation by operation; equal subformulas are evaluated once. Nothing is rewritten
and nothing is shared with the analysis.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from random import Random

from attngen import ir
from attngen.selfcheck.arithmetic import EXACT, OPERATIONS, REDUCTIONS
from attngen.selfcheck.zero import only_zero

Names = Mapping[str, float | list[float]]
JITTER = 1e-13  # relative size of the errors that a jittered evaluation makes in every step


@dataclass(frozen=True, slots=True)
class Step:
    """`op` of the values of earlier steps; a number or a name has none.

    A root has its bounds as `args`, and then what its residual uses: the values of the residual's names, as far as
    they aren't the variable.
    """

    op: str
    args: tuple[int, ...]
    leaf: float | str = ""
    residual: "Residual | None" = None


@dataclass(frozen=True, slots=True)
class Program:
    """A formula as steps, the last of which is its value."""

    steps: tuple[Step, ...]


@dataclass(frozen=True, slots=True)
class Residual:
    """The steps of a root's residual over `variable` and `names`."""

    steps: Program
    variable: str
    names: tuple[str, ...]


def program(expr: ir.Expr) -> Program:
    """The formula as steps; equal subformulas are one step."""
    found: dict[Step, int] = {}
    _append(expr, found)
    return Program(tuple(found))


def _append(expr: ir.Expr, found: dict[Step, int]) -> int:
    match expr:
        case ir.Number(value):
            step = Step("number", (), float(value))
        case ir.Name(name):
            step = Step("name", (), name)
        case ir.Apply(op, args):
            step = Step(op, tuple([_append(arg, found) for arg in args]))
        case ir.Reduce(kind):
            step = Step(kind, tuple([_append(child, found) for child in ir.children(expr)]))
        case ir.Root():
            step = _root(expr, found)
    return found.setdefault(step, len(found))


def _root(expr: ir.Root, found: dict[Step, int]) -> Step:
    """What doesn't depend on the variable is evaluated once, before the root is looked for."""
    fixed: dict[ir.Expr, str] = {}
    residual = program(_over_variable(expr.residual, expr.variable, fixed))
    args = [_append(each, found) for each in (expr.low, expr.high, *fixed)]
    return Step("root", tuple(args), residual=Residual(residual, expr.variable, tuple(fixed.values())))


def _over_variable(expr: ir.Expr, variable: str, fixed: dict[ir.Expr, str]) -> ir.Expr:
    """The formula with names for the largest parts that don't use the variable."""
    if variable not in ir.names(expr):
        return ir.Name(fixed.setdefault(expr, f"#{len(fixed)}"))
    return ir.with_children(expr, tuple(_over_variable(child, variable, fixed) for child in ir.children(expr)))


@dataclass
class Evaluation:
    """How to evaluate on one row of `width` keys, or for `width` channels.

    `held`: values of `detach`, by step; the first evaluation fills it, later ones take them from there, so that what is
    detached stays constant. With `jitter` every step that rounds errs by about `JITTER`: what that changes shows how
    well the formula is conditioned. `overflowed` says then whether any step, needed or not, was not finite.
    """

    width: int
    held: dict[int, list[float]] = field(default_factory=dict)
    jitter: Random | None = None
    overflowed: bool = False
    unsolved: list[str] = field(default_factory=list)  # roots without a zero, or with more than one

    def run(self, steps: Program, names: Names) -> list[float]:
        """The formula's value at each key; raises KeyError for an unknown name."""
        values: list[list[float]] = []
        for index, step in enumerate(steps.steps):
            value = self.held[index] if index in self.held else self._value(step, values, names)
            if step.op == "detach":
                self.held[index] = value
            values.append(value)
        return values[-1]

    def _value(self, step: Step, values: list[list[float]], names: Names) -> list[float]:
        if isinstance(step.leaf, float):
            return [step.leaf] * self.width
        if step.op == "name":
            value = names[step.leaf]
            return [value] * self.width if isinstance(value, float) else value
        exact = self._exact(step, values)
        if self.jitter is None:
            return exact
        self.overflowed |= not all(map(math.isfinite, exact))
        if step.op in EXACT:
            return exact
        errors = [1 + JITTER * self.jitter.uniform(-1, 1) for _ in exact]
        if step.op in REDUCTIONS or step.op == "root":
            errors = [errors[0]] * self.width
        return [x * error for x, error in zip(exact, errors, strict=True)]

    def _exact(self, step: Step, values: list[list[float]]) -> list[float]:
        if step.op == "count":
            return [float(self.width)] * self.width
        if step.residual is not None:
            low, high, *fixed = (values[arg] for arg in step.args)
            return [self._zero(step.residual, (low[0], high[0]), fixed)] * self.width
        if step.op in REDUCTIONS:
            return [REDUCTIONS[step.op](values[step.args[0]])] * self.width
        return list(map(OPERATIONS[step.op], *[values[arg] for arg in step.args]))

    def _zero(self, residual: Residual, bounds: tuple[float, float], fixed: list[list[float]]) -> float:
        """The root, of a residual that errs if this evaluation does; only its value at the root may not overflow.

        NaN if it isn't the only zero between the bounds: what it then has as its value has no gradient.
        """
        names = dict(zip(residual.names, fixed, strict=True))

        def at(value: float) -> tuple[float, bool]:
            inner = Evaluation(self.width, jitter=self.jitter)
            return inner.run(residual.steps, {**names, residual.variable: value})[0], inner.overflowed

        found = only_zero(lambda value: at(value)[0], *bounds)
        if found != found:
            self.unsolved.append(residual.variable)
            return found
        self.overflowed |= at(found)[1]
        return found
