"""ATen's reductions over the keys as formulas, and where each keeps its axis, `keepdim` and further argument."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from attngen.dynamo.formulas import constant, op
from attngen.dynamo.nodes import NotLifted
from attngen.ir import Expr, Name, Reduce, number


@dataclass(frozen=True, slots=True)
class ReductionCall:
    axes: tuple[int, ...]
    keepdim: bool
    option: Any = None


@dataclass(frozen=True, slots=True)
class ReductionRule:
    """`axis` and `keepdim` are positions of arguments; `option` is that of one more argument of the formula's."""

    formula: Callable[[Expr, Any], Expr]
    axis: int = 1
    keepdim: int = 2
    option: int | None = None
    keeps_keys: bool = False

    def read(self, args: list[Any], kwargs: dict[str, Any]) -> ReductionCall:
        given = kwargs.get("dim", args[self.axis] if len(args) > self.axis else None)
        keepdim = kwargs.get("keepdim", args[self.keepdim] if len(args) > self.keepdim else False)
        option = kwargs.get("correction")
        if self.option is not None:
            option = args[self.option] if len(args) > self.option else number(2)
        return ReductionCall(_axes(given), keepdim is True, option)


def _axes(given: Any) -> tuple[int, ...]:
    if given is None:
        return ()
    expr = getattr(given, "expr", None)
    return (int(expr.value),) if expr is not None else tuple(given)


def total(x: Expr) -> Expr:
    return Reduce("sum", x)


def _softmax(x: Expr, _: Any) -> Expr:
    return op("div", op("exp", x), total(op("exp", x)))


def _logsumexp(x: Expr, _: Any) -> Expr:
    return op("log", total(op("exp", x)))


def _norm(x: Expr, order: Any) -> Expr:
    order = order.expr if hasattr(order, "expr") else order
    size = op("abs", x)
    if order == number(1):
        return total(size)
    if order == number(2):
        return op("sqrt", total(op("pow", x, number(2))))
    if order == constant(float("inf")):
        return Reduce("amax", size)
    if order == number(0) or order == constant(float("-inf")):
        raise NotLifted("a norm of this order")
    return op("pow", total(op("pow", size, order)), op("div", number(1), order))


def _variance(x: Expr, correction: Any) -> Expr:
    count, correction = Name("n_k"), number(1) if correction is None else getattr(correction, "expr", correction)
    distance = op("sub", x, op("div", total(x), count))
    return op("div", total(op("pow", distance, number(2))), op("sub", count, correction))


REDUCTIONS: dict[str, ReductionRule] = {
    "sum": ReductionRule(lambda x, _: total(x)),
    "mean": ReductionRule(lambda x, _: op("div", total(x), Name("n_k"))),
    "amax": ReductionRule(lambda x, _: Reduce("amax", x)),
    "amin": ReductionRule(lambda x, _: Reduce("amin", x)),
    "max": ReductionRule(lambda x, _: Reduce("amax", x)),
    "min": ReductionRule(lambda x, _: Reduce("amin", x)),
    "var": ReductionRule(_variance, keepdim=99),
    "std": ReductionRule(lambda x, correction: op("sqrt", _variance(x, correction)), keepdim=99),
    "logsumexp": ReductionRule(_logsumexp),
    "_softmax": ReductionRule(_softmax, keeps_keys=True),
    "_log_softmax": ReductionRule(lambda x, _: op("sub", x, _logsumexp(x, None)), keeps_keys=True),
    "linalg_vector_norm": ReductionRule(_norm, axis=2, keepdim=3, option=1),
}
