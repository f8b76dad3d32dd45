"""What makes a root one value per row that can be looked for and differentiated, told of the formulas as written.

Whether the residual changes sign between the bounds isn't known here; it is an equation in numbers.
"""

from collections.abc import Iterator, Set

from attngen.diagnostics import Diagnostic, Span
from attngen.ir import Apply, Expr, Name, Reduce, Root, children, names

_SUMMED = ("sum", "mean")


def mistakes(root: Root, keyed: Set[str], residual: Span) -> Iterator[Diagnostic]:
    """What is wrong with a root whose lets aren't replaced yet.

    `keyed` are the names that differ from key to key; `residual` is where the residual stands.
    """
    if root.variable not in names(root.residual):
        expected = f"a formula that is zero at the right {root.variable}, such as sum(relu(s - {root.variable})) - 1"
        yield Diagnostic(f"the root doesn't use '{root.variable}', the value that is looked for", residual, expected)
    for formula in (root.residual, root.low, root.high):
        yield from (_not_of_a_row(name) for name in _loose(formula) if name.id in keyed)
    yield from _hidden(root.residual, root.variable)


def varies(expr: Expr, keyed: Set[str]) -> bool:
    """Whether a formula differs from key to key."""
    return any(name.id in keyed for name in _loose(expr))


def _not_of_a_row(name: Name) -> Diagnostic:
    expected = f"one value for the row: put it inside a reduction, such as sum({name.id})"
    return Diagnostic(f"'{name.id}' differs from key to key, and a root is one value per row", name.span, expected)


def _loose(expr: Expr) -> Iterator[Name]:
    """The names outside of reductions and roots."""
    match expr:
        case Name():
            yield expr
        case Apply(args=args):
            for arg in args:
                yield from _loose(arg)


def _hidden(expr: Expr, variable: str) -> Iterator[Diagnostic]:
    """Where the residual's derivative by the variable could not be summed up in one pass over the keys."""
    if variable not in names(expr):
        return
    match expr:
        case Reduce(kind) if kind not in _SUMMED:
            message = f"'{kind}' can't reduce what depends on '{variable}', the value that is looked for"
            yield Diagnostic(message, expr.span, f"sum(...) or mean(...); {kind} of what doesn't use '{variable}'")
        case Reduce(_, body) if body is not None and (inner := _reduction_of(body, variable)):
            message = f"a reduction inside of another one depends on '{variable}', the value that is looked for"
            yield Diagnostic(message, inner.span, f"'{variable}' in one reduction, or outside of them")
            return
        case Apply("detach"):
            message = f"detach can't hide '{variable}', the value that is looked for"
            yield Diagnostic(message, expr.span, f"detach(x) of what doesn't use '{variable}'")
    for child in children(expr):
        yield from _hidden(child, variable)


def _reduction_of(expr: Expr, variable: str) -> Reduce | None:
    """The first reduction of what depends on the variable."""
    if variable not in names(expr):
        return None
    if isinstance(expr, Reduce):
        return expr
    return next((found for child in children(expr) if (found := _reduction_of(child, variable))), None)
