"""The check of a build: random cases, ordinary ones and one of large scores, on which plan and formula must agree.

Large scores are those at which exponentials of float64 are far from each other but still finite: the formula can be
evaluated as it stands, while a plan whose stable form is wrong can't. Everything is drawn from a fixed seed.
"""

from random import Random

from attngen import ir
from attngen.diagnostics import Diagnostic, InternalError, SpecError
from attngen.schedule import OpPlan
from attngen.selfcheck.case import draw
from attngen.selfcheck.compare import Difference, difference
from attngen.selfcheck.execute import Execution
from attngen.selfcheck.formula import Formula, OnCase
from attngen.selfcheck.several import root_with_several_zeros
from attngen.stagetext import stage_as_text

_CASES = 4
_ATTEMPTS = 80
_MAGNITUDES = (300.0, 300.0, 100.0, 100.0, 30.0, 30.0)


def check_plan(plan: OpPlan) -> None:
    """Execute `plan` on random rows and compare it with its formula.

    Raises InternalError if it disagrees, SpecError if no scores were found for which the formula is finite.
    """
    random, formula, execution = Random(0), Formula(plan.normalizer), Execution(plan)
    cases = [_ordinary(formula, plan, random) for _ in range(_CASES)]
    if not any(cases):
        raise SpecError((_nowhere_finite(formula, plan),))
    for truth in (*cases, _large(formula, plan, random)):
        found = None if truth is None else _difference(execution, truth)
        several = root_with_several_zeros(execution, truth) if truth and found else None
        if several is not None:
            raise SpecError((_no_single_zero(several),))
        if found is not None:
            raise InternalError(f"the plan of '{plan.normalizer.name}' is wrong: {found}", stage_as_text(plan))


def _nowhere_finite(formula: Formula, plan: OpPlan) -> Diagnostic:
    """Says which root is to blame, if one is; else it is the weights' or the output's formula."""
    unsolved = OnCase(formula, draw(plan.normalizer.inputs, Random(0), 0)).unsolved()
    roots = [node for node in ir.walk(plan.normalizer.weights) if isinstance(node, ir.Root)]
    for root in roots:
        if root.variable in unsolved[:1]:
            return _no_single_zero(root)
    what = "weights are" if plan.normalizer.output == ir.Name("o") else "weights, or the output, are"
    return Diagnostic(
        f"the {what} not finite for any scores and inputs that were tried",
        plan.normalizer.weights.span,
        "a formula that has a finite value for some scores between -30 and 30",
    )


def _no_single_zero(root: ir.Root) -> Diagnostic:
    return Diagnostic(
        f"the root '{root.variable}' isn't a single zero for scores and inputs that were tried",
        root.span,
        "a formula that crosses zero once between the bounds, without a jump",
    )


def _difference(execution: Execution, truth: OnCase) -> Difference | str | None:
    try:
        return difference(execution, truth)
    except KeyError as missing:
        return f"a formula uses {missing}, which isn't known where it is evaluated"


def _ordinary(formula: Formula, plan: OpPlan, random: Random) -> OnCase | None:
    """The first case that is telling, or else the first on which the weights are finite."""
    finite = None
    for attempt in range(_ATTEMPTS):
        truth = OnCase(formula, draw(plan.normalizer.inputs, random, attempt))
        if truth.is_finite():
            finite = finite or truth
            if truth.is_telling:
                return truth
    return finite


def _large(formula: Formula, plan: OpPlan, random: Random) -> OnCase | None:
    for magnitude in _MAGNITUDES:
        truth = OnCase(formula, draw(plan.normalizer.inputs, random, 0, magnitude))
        if truth.is_finite() and truth.is_telling:
            return truth
    return None
