"""Whether a plan and its formula disagree because a root has several zeros: a mistake of the spec, not of the plan."""

from attngen import ir
from attngen.selfcheck.evaluate import Evaluation, program
from attngen.selfcheck.execute import Execution
from attngen.selfcheck.formula import OnCase

_NEAR = 1e-6  # what is as good as equal, or as zero beside the residual at the bounds


def root_with_several_zeros(execution: Execution, truth: OnCase) -> ir.Root | None:
    """A root of the formula for which the plan found another zero, in a row of the case."""
    roots = [node for node in ir.walk(execution.plan.normalizer.weights) if isinstance(node, ir.Root)]
    searches = {p.statistics[0].label: p.root.name for p in execution.plan.analysis.forward.passes if p.root}
    for row in range(len(truth.case.seen)):
        known = execution.forward(truth.case, row).known
        for root in roots:
            if root.variable in searches and _is_other_zero(root, known[searches[root.variable]], truth, row):
                return root
    return None


def _is_other_zero(root: ir.Root, found: float, truth: OnCase, row: int) -> bool:
    width, names = len(truth.case.seen[row]), truth.case.names(row)
    scores = Evaluation(width).run(truth.formula.score, names)

    def value(formula: ir.Expr, at: float) -> float:
        return Evaluation(width).run(program(formula), {**names, "s": scores, root.variable: at})[0]

    low, high, right = (value(formula, found) for formula in (root.low, root.high, root))
    beside = max(abs(value(root.residual, bound)) for bound in (low, high))
    elsewhere = abs(found - right) > _NEAR * max(abs(found), abs(right))
    return elsewhere and abs(value(root.residual, found)) <= _NEAR * beside
