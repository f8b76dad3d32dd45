"""Which printers spell a module's kernels: exact ones, or those of the fast form.

The fast form takes logistic functions and tanh from `tanh.approx`: one special function where a logistic function has
an exponential and a reciprocal. sigmoid(x) is 0.5 tanh(x / 2) + 0.5. The constant stays in each element: taken out of a
sum over keys it would leave a difference of large sums. Searches for a root stay exact: their residuals have to vanish.
"""

from dataclasses import dataclass, replace
from fractions import Fraction

from attngen import ir
from attngen.build import Precision
from attngen.emit.printers import (
    HOPPER,
    HOPPER_TRANSPOSED,
    TRITON,
    TRITON_FORWARD,
    TRITON_TRANSPOSED,
    Printer,
    sharing,
    times,
)
from attngen.ir import Apply, Expr
from attngen.schedule import OpPlan, root_passes

FUNCTIONS = ("_logistic_of_half", "_tanh_fast")  # the device functions that only the fast form calls


@dataclass(frozen=True, slots=True)
class Printers:
    """`rows`: the kernels that walk over keys, without the forward; `keys`: those that walk over queries."""

    forward: Printer
    rows: Printer
    keys: Printer
    hopper: Printer
    hopper_keys: Printer


def printers_for(plan: OpPlan, precision: Precision) -> Printers:
    """The printers of GPU kernels."""
    return _FAST if precision == "fast" and not root_passes(plan) else _exact(plan)


def _exact(plan: OpPlan) -> Printers:
    """Two products per score don't outlast two special functions; the four or five of a plain backward do."""
    inputs = frozenset(declared.name for declared in plan.normalizer.inputs)
    hopper = "_logistic2_shared({0}, SHARED, True)"
    return Printers(
        sharing(TRITON_FORWARD, "_logistic2_shared({0}, 4, CUDA)", inputs),
        TRITON,
        TRITON_TRANSPOSED,
        sharing(HOPPER, hopper, inputs),
        sharing(HOPPER_TRANSPOSED, hopper, inputs),
    )


def _fast(printer: Printer, when: str) -> Printer:
    """`when` is the kernels' name of the condition under which they take fast forms."""
    cuda = "True" if when == "True" else "CUDA"
    spellings = {"logistic_of_half": f"_logistic_of_half({{0}}, {when}, {cuda})", "tanh": f"_tanh_fast({{0}}, {when})"}

    def lower(expr: Expr) -> Expr:
        if isinstance(expr, Apply) and expr.op == "sigmoid":
            return ir.apply("logistic_of_half", times(ir.Number(Fraction(1, 2)), expr.args[0], 1))
        return printer.lower(expr)

    return replace(printer, functions={**printer.functions, **spellings}, lower=lower)


_FAST = Printers(
    _fast(TRITON_FORWARD, "FAST"),
    _fast(TRITON, "FAST"),
    _fast(TRITON_TRANSPOSED, "FAST"),
    _fast(HOPPER, "True"),
    _fast(HOPPER_TRANSPOSED, "True"),
)
