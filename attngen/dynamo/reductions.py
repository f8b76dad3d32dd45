"""ATen's reductions over the keys as formulas, and where each keeps its axis, `keepdim` and further argument.

A row is the formula of a key's value, and the values of columns that stand beside the keys, such as a sink's.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from attngen.dynamo.formulas import constant, op
from attngen.dynamo.nodes import NotLifted
from attngen.ir import Expr, Name, Reduce, number


@dataclass(frozen=True, slots=True)
class Row:
    """A key's value and those of the columns beside the keys."""

    expr: Expr
    beside: tuple[Expr, ...] = ()

    def each(self, function: Callable[[Expr], Expr]) -> "Row":
        return Row(function(self.expr), tuple(function(x) for x in self.beside))

    def folded(self, kind: str, name: str) -> Expr:
        """A reduction of the keys, joined by an operation with the columns."""
        result: Expr = Reduce(kind, self.expr)  # type: ignore[arg-type]
        for x in self.beside:
            result = op(name, result, x)
        return result

    @property
    def total(self) -> Expr:
        return self.folded("sum", "add")

    @property
    def count(self) -> Expr:
        return op("add", Name("n_k"), number(len(self.beside)))


@dataclass(frozen=True, slots=True)
class ReductionCall:
    axes: tuple[int, ...]
    keepdim: bool
    option: Any = None


@dataclass(frozen=True, slots=True)
class ReductionRule:
    """`axis` and `keepdim` are positions of arguments; `option` is that of one more argument of the formula's.

    The formula of one that keeps the keys is that of each of them, from the row and its value.
    """

    formula: Callable[[Row, Any], Expr]
    axis: int = 1
    keepdim: int = 2
    option: int | None = None
    each: Callable[[Expr, Row], Expr] | None = None

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


def _exponential(x: Expr) -> Expr:
    return op("exp", x)


def _share(x: Expr, row: Row) -> Expr:
    return op("div", op("exp", x), row.each(_exponential).total)


def _logsumexp(row: Row) -> Expr:
    return op("log", row.each(_exponential).total)


def _root(total: Expr, order: Expr) -> Expr:
    """The total's root. Where the total is zero torch gives it the slope zero, and that of the root isn't finite."""
    some = op("gt", total, number(0))
    of = op("where", some, total, number(1))
    root = op("sqrt", of) if order == number(2) else op("pow", of, op("div", number(1), order))
    return op("where", some, root, number(0))


def _norm(row: Row, order: Any) -> Expr:
    order = order.expr if hasattr(order, "expr") else order
    size = row.each(lambda x: op("abs", x))
    if order == number(1):
        return size.total
    if order == number(2):
        return _root(row.each(lambda x: op("pow", x, order)).total, order)
    if order == constant(float("inf")):
        return size.folded("amax", "max")
    if order == number(0) or order == constant(float("-inf")):
        raise NotLifted("a norm of this order")
    return _root(size.each(lambda x: op("pow", x, order)).total, order)


def _variance(row: Row, correction: Any) -> Expr:
    correction = number(1) if correction is None else getattr(correction, "expr", correction)
    mean = op("div", row.total, row.count)
    squares = row.each(lambda x: op("pow", op("sub", x, mean), number(2)))
    return op("div", squares.total, op("sub", row.count, correction))


_LARGEST = ReductionRule(lambda row, _: row.folded("amax", "max"))
_LEAST = ReductionRule(lambda row, _: row.folded("amin", "min"))
REDUCTIONS: dict[str, ReductionRule] = {
    "sum": ReductionRule(lambda row, _: row.total),
    "mean": ReductionRule(lambda row, _: op("div", row.total, row.count)),
    "amax": _LARGEST,
    "amin": _LEAST,
    "max": _LARGEST,
    "min": _LEAST,
    "var": ReductionRule(_variance, keepdim=99),
    "std": ReductionRule(lambda row, correction: _root(_variance(row, correction), number(2)), keepdim=99),
    "logsumexp": ReductionRule(lambda row, _: _logsumexp(row)),
    "_softmax": ReductionRule(lambda row, _: row.total, each=_share),
    "_log_softmax": ReductionRule(lambda row, _: _logsumexp(row), each=lambda x, row: op("sub", x, _logsumexp(row))),
    "linalg_vector_norm": ReductionRule(_norm, axis=2, keepdim=3, option=1),
}
PAIRS = {"var_mean": ("var", "mean"), "std_mean": ("std", "mean")}
