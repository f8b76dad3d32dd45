"""The syntax of one formula into an `ir.Expr`: what its names mean, how many arguments its calls take, and whether
numbers and conditions stand where they may.

It reads one formula in one `Scope`. It doesn't replace lets by their formulas, and it doesn't simplify.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction

from attngen.diagnostics import Diagnostic, Span
from attngen.ir import ARITY, CONDITIONS, FUNCTIONS, REDUCTIONS, Apply, Expr, Name, Number, Reduce, ReductionKind
from attngen.spec.near import listed, near, quoted
from attngen.spec.spellings import BEYOND, SPELLINGS
from attngen.spec.syntax import Call, Identifier, Literal, Operation, Syntax

_ZERO = Fraction(0)

_OVER_KEYS = {"min": "amin(x) for the smallest of the keys", "max": "amax(x) for the largest of the keys"}


@dataclass(frozen=True, slots=True)
class Scope:
    """What a formula may use. `elsewhere`: names that exist but not here, and what would be right; `unsure`: names with
    a mistake of their own, which are not told of again."""

    place: str
    names: frozenset[str]
    statics: Mapping[str, Number] = field(default_factory=dict)
    elsewhere: Mapping[str, str] = field(default_factory=dict)
    unsure: frozenset[str] = frozenset()
    reductions: tuple[ReductionKind, ...] = ()


@dataclass(frozen=True, slots=True)
class Resolved:
    """A formula, and the mistakes in it; `unsure` if it holds a mistake or a name with one."""

    expr: Expr
    mistakes: tuple[Diagnostic, ...]
    unsure: bool


def resolve(tree: Syntax, scope: Scope) -> Resolved:
    """A formula whose value is a number."""
    resolver = _Resolver(scope)
    expr = resolver.number(tree)
    return Resolved(expr, tuple(resolver.mistakes), resolver.unsure or bool(resolver.mistakes))


class _Resolver:
    """After a mistake the walk goes on, with a 0 in the place of what was wrong."""

    def __init__(self, scope: Scope) -> None:
        self.scope = scope
        self.mistakes: list[Diagnostic] = []
        self.unsure = False

    def number(self, tree: Syntax) -> Expr:
        if isinstance(tree, Operation) and tree.op in CONDITIONS:
            expected = "a number; where(condition, 1, 0) makes one of a condition"
            self.wrong("a condition stands where a number is needed", tree.span, expected)
        return self.expr(tree)

    def condition(self, tree: Syntax) -> Expr:
        before = len(self.mistakes)
        expr = self.expr(tree)
        if not (isinstance(tree, Operation) and tree.op in CONDITIONS) and len(self.mistakes) == before:
            self.wrong("a number stands where a condition is needed", tree.span, "a comparison, such as i < 3")
        return expr

    def expr(self, tree: Syntax) -> Expr:
        match tree:
            case Literal(value, span):
                return Number(value, span)
            case Identifier():
                return self.identifier(tree)
            case Operation(op, args, span):
                read = self.condition if op in ("and", "or", "not") else self.number
                return Apply(op, tuple(read(arg) for arg in args), span)
            case Call():
                return self.call(tree)

    def identifier(self, tree: Identifier) -> Expr:
        if tree.id in self.scope.statics:
            return Number(self.scope.statics[tree.id].value, tree.span)
        if tree.id in self.scope.names:
            return Name(tree.id, tree.span)
        if tree.id in self.scope.unsure:
            self.unsure = True
        elif tree.id in self.scope.elsewhere:
            self.misplaced(tree.id, tree.span)
        elif tree.id in (*FUNCTIONS, *REDUCTIONS, *self.scope.reductions):
            self.wrong(f"'{tree.id}' needs its arguments", tree.span, _form(tree.id))
        else:
            self.unknown("name", tree.id, tree.span)
        return Number(_ZERO, tree.span)

    def call(self, tree: Call) -> Expr:
        known = tree.name not in self.scope.elsewhere
        if known and tree.name in (*REDUCTIONS, *self.scope.reductions):
            return self.reduction(tree)
        if tree.name in FUNCTIONS:
            return self.function(tree)
        if tree.name in self.scope.names or tree.name in self.scope.statics:
            expected = f"{tree.name}, or {tree.name} * (...) for a product"
            self.wrong(f"'{tree.name}' is not a function", tree.name_span, expected)
        elif not known:
            self.misplaced(tree.name, tree.name_span)
        else:
            self.unknown("function", tree.name, tree.name_span)
        for arg in tree.args:
            self.expr(arg)
        return Number(_ZERO, tree.span)

    def function(self, tree: Call) -> Expr:
        wanted = ARITY[tree.name]
        if len(tree.args) != wanted:
            advice = _OVER_KEYS.get(tree.name) if len(tree.args) == 1 else None
            self.arity(tree, f"{_form(tree.name)}; {advice}" if advice else _form(tree.name))
        first = self.condition if tree.name == "where" else self.number
        read = [first, self.number, self.number]
        args = tuple(read[min(n, 2)](arg) for n, arg in enumerate(tree.args))
        return Apply(tree.name, args, tree.span)

    def reduction(self, tree: Call) -> Expr:
        kind = next(kind for kind in (*REDUCTIONS, *self.scope.reductions) if kind == tree.name)
        if kind not in self.scope.reductions:
            message = f"a reduction can't stand in {self.scope.place}"
            self.wrong(message, tree.name_span, "reductions over the keys in `weights` and `let`")
        if len(tree.args) != (kind != "count"):
            self.arity(tree, _form(kind))
        args = [self.number(arg) for arg in tree.args]
        return Reduce(kind, args[0] if args and kind != "count" else None, tree.span)

    def arity(self, tree: Call, expected: str) -> None:
        count = {0: "no argument", 1: "one argument"}.get(len(tree.args), f"{len(tree.args)} arguments")
        self.wrong(f"'{tree.name}' is called with {count}", tree.span, expected)

    def misplaced(self, name: str, span: Span) -> None:
        self.wrong(f"'{name}' can't stand in {self.scope.place}", span, self.scope.elsewhere[name])

    def unknown(self, what: str, name: str, span: Span) -> None:
        callables = (*FUNCTIONS, *(self.scope.reductions or REDUCTIONS))
        known = callables if what == "function" else (*sorted({*self.scope.names, *self.scope.statics}), *callables)
        if name in BEYOND:
            self.wrong(f"there is no {what} {quoted(name)}: {BEYOND[name].why}", span, BEYOND[name].instead)
            return
        spelling = SPELLINGS.get(name)
        close = None if spelling else near(name, known)
        expected = spelling or (None if close else self.available(what))
        self.wrong(f"there is no {what} {quoted(name)}", span, expected, close)

    def available(self, what: str) -> str:
        if what == "function":
            return "a function or reduction of the language, such as exp or sum"
        return f"a name of {self.scope.place}: {listed(sorted(self.scope.names))}"

    def wrong(self, message: str, span: Span, expected: str | None, close: str | None = None) -> None:
        self.mistakes.append(Diagnostic(message, span, expected, close))


_FORMS = {"where": "where(condition, a, b)", "clip": "clip(x, lo, hi)", "count": "count()"}


def _form(name: str) -> str:
    """How a call is written."""
    pair = f"{name}(a, b)" if ARITY.get(name) == 2 else f"{name}(x)"
    return _FORMS.get(name, pair)
