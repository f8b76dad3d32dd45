"""Comparison of an executed plan with its formula on one case: output, weights, and every gradient."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from attngen.ir import Input
from attngen.selfcheck.case import Case, Shift
from attngen.selfcheck.execute import Execution, RowGradients, RowResult
from attngen.selfcheck.formula import OnCase

_VALUE = 1e-9  # tolerance of outputs and weights, relative to the largest weight
_NOISE = 10  # and so many times what errors of `evaluate.JITTER` change
_UNDERFLOW = 1e-290  # numbers this small have lost digits
_GRADIENT = 1e-6  # tolerance of gradients, relative to their scale


@dataclass(frozen=True, slots=True)
class Difference:
    """A quantity of the plan that isn't what the formula says."""

    quantity: str
    found: float
    wanted: float

    def __str__(self) -> str:
        return f"{self.quantity} is {self.found:.10g} by the plan and {self.wanted:.10g} by the formula"


def difference(execution: Execution, truth: OnCase) -> Difference | None:
    """The first difference on the case of `truth`, None if plan and formula agree."""
    case = truth.case
    rows = range(len(case.seen))
    results = [execution.forward(case, row) for row in rows]
    gradients = [execution.backward(case, row, result) for row, result in enumerate(results)]
    for row in rows:
        found = _values_differ(truth, row, (results[row], gradients[row]))
        if found is not None:
            return found
    return _gradients_differ(execution.plan.normalizer.inputs, truth, gradients)


def _values_differ(truth: OnCase, row: int, executed: tuple[RowResult, RowGradients]) -> Difference | None:
    case, base, result = truth.case, truth.base[row], executed[0]
    tolerance = _VALUE * max(map(abs, base)) + _NOISE * truth.noise[row]
    weights = _in_proportion(executed[1].weights, base) if result.has_step else executed[1].weights
    for key, found, wanted in zip(case.seen[row], weights, base, strict=True):
        if _differ(found, wanted, tolerance):
            return Difference(f"the backward's weight of key {key} in row {row}", found, wanted)
    if result.has_step:
        tolerance = _VALUE * max(map(abs, truth.outputs[row])) + _NOISE * truth.output_noise[row]
    else:
        tolerance *= sum(abs(x) for key in case.seen[row] for x in case.value[key])
    for channel, (found, wanted) in enumerate(zip(result.output, truth.outputs[row], strict=True)):
        if _differ(found, wanted, tolerance):
            return Difference(f"channel {channel} of the output of row {row}", found, wanted)
    return None


def _in_proportion(found: list[float], wanted: list[float]) -> list[float]:
    """Weights before a step may lack a factor of the row, which the gradients tell: scaled here to the largest."""
    largest = max(range(len(wanted)), key=lambda index: abs(wanted[index]))
    factor = wanted[largest] / found[largest] if found[largest] else 1.0
    return [x * factor for x in found]


def _differ(found: float, wanted: float, tolerance: float) -> bool:
    """NaN differs from everything; a tolerance that is NaN forgives everything."""
    return not (abs(found - wanted) <= tolerance + _UNDERFLOW or tolerance != tolerance)


def _gradients_differ(inputs: tuple[Input, ...], truth: OnCase, gradients: list[RowGradients]) -> Difference | None:
    """Says nothing where most derivatives can't be told from differences."""
    derived = [
        (shift, _derived(shift, truth.case, gradients))
        for name, axes in (("qk", ("query", "key")), *((i.name, i.axes) for i in inputs if i.grad))
        for shift in _numbers(name, axes, truth.case)
    ]
    scale = truth.size()
    checked = [(shift, found, truth.derivative(shift, scale)) for shift, found in derived]
    known = [(shift, found, wanted) for shift, found, wanted in checked if wanted is not None]
    if 2 * len(known) < len(checked):
        return None
    largest = max((abs(wanted) for *_, wanted in known), default=0.0)
    tolerance = _GRADIENT * (scale + largest) + truth.slope_noise()
    for shift, found, wanted in known:
        if _differ(found, wanted, tolerance):
            return Difference(f"the gradient of {_place(shift)}", found, wanted)
    return _kernels_differ(gradients, tolerance)


def _kernels_differ(gradients: list[RowGradients], tolerance: float) -> Difference | None:
    for row, of_row in enumerate(gradients):
        for by_query, by_key in zip(of_row.qk_by_query, of_row.qk, strict=True):
            if _differ(by_query, by_key, tolerance):
                return Difference(f"the gradient of qk of row {row} in the query kernel", by_query, by_key)
    return None


def _numbers(name: str, axes: Sequence[str], case: Case) -> Iterator[Shift]:
    """The numbers that a name stands for in a case, as far as a row sees them."""
    rows = range(len(case.seen))
    if "query" not in axes:
        yield from (Shift(name, None, key) for key in (case.seen[0] if "key" in axes else (None,)))
        return
    for row in rows:
        yield from (Shift(name, row, key) for key in (case.seen[row] if "key" in axes else (None,)))


def _derived(shift: Shift, case: Case, gradients: list[RowGradients]) -> float:
    """The plan's gradient of one number: summed over the rows if they share it, zero if the plan has none."""
    total = 0.0
    for row in filter(shift.changes, range(len(gradients))):
        of_row = gradients[row].qk if shift.name == "qk" else gradients[row].inputs.get(shift.name)
        if of_row is not None and shift.key in (None, *case.seen[row]):
            total += of_row[0 if shift.key is None else case.seen[row].index(shift.key)]
    return total


def _place(shift: Shift) -> str:
    rows = "" if shift.row is None else f" of row {shift.row}"
    return f"{shift.name}{'' if shift.key is None else f' at key {shift.key}'}{rows}"
