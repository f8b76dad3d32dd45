"""Made-up normalizers for tests of the analysis and of the self-check."""

import math
from random import Random

from attngen import ir
from attngen.analysis.analyze import analyze
from attngen.analysis.result import Analysis
from attngen.schedule import OpPlan, schedule
from attngen.selfcheck.evaluate import Evaluation, program
from attngen.spec.lower import read_spec

SOFTMAX = "exp(s) / sum(exp(s))"
SOFTPLUS_L1 = "softplus(s) / sum(softplus(s))"
ROW, HEAD, KEY, PAIR = (
    f"{{shape: [batch, {axes}]}}" for axes in ("head, query", "head", "kv_head, key", "head, query, key")
)


def spec(weights: str, score: str = "", inputs: dict[str, str] | None = None, **lets: str) -> str:
    """The text of a spec; `inputs` and `lets` by name."""
    lines = ["name: made_up"]
    lines += ["inputs:", *(f"  {name}: {what}" for name, what in inputs.items())] if inputs else []
    lines += [f"score: {score}"] if score else []
    lines += ["let:", *(f"  {name}: {formula}" for name, formula in lets.items())] if lets else []
    return "\n".join([*lines, f"weights: {weights}", ""])


def plan_of(text: str) -> OpPlan:
    normalizer = read_spec(text, "made_up.yaml")
    return schedule(normalizer, analyze(normalizer))


def analysis_of(weights: str, score: str = "", inputs: dict[str, str] | None = None, **lets: str) -> Analysis:
    return plan_of(spec(weights, score, inputs, **lets)).analysis


def operations(*exprs: ir.Expr) -> frozenset[str]:
    return frozenset(node.op for expr in exprs for node in ir.walk(expr) if isinstance(node, ir.Apply))


def same_value(a: ir.Expr, b: ir.Expr) -> bool:
    """Whether two formulas have equal values at random positive numbers."""
    random, names = Random(0), sorted(ir.names(a) | ir.names(b))
    for _ in range(5):
        values = {name: random.uniform(0.1, 2.0) for name in names}
        (x,), (y,) = (Evaluation(1).run(program(expr), values) for expr in (a, b))
        if not math.isclose(x, y, rel_tol=1e-9):
            return False
    return True
