"""Formulas as sympy expressions: with `functions`, the door through which sympy enters.

`thaw` turns an `ir.Expr` into a sympy expression in which every reduction has become a symbol, a row statistic; the way
back is `freeze`. Functions with a kink or with a numerically delicate form are functions of our own, so that sympy
never rewrites them and their derivatives follow torch's conventions (relu'(0) = 0, ties of max and min share the
gradient). Nothing here calls `simplify`: it would undo stable forms.

# Note [Detached twins]
`detach(x)` is pushed down to the symbols: each symbol has a twin of the same value whose derivative is nowhere taken.
After differentiation `attach` puts the originals back.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any

import sympy as sp

from attngen import ir
from attngen.analysis.functions import (
    ZERO,
    Sym,
    absolute,
    and_,
    attains,
    bounded_exp,
    clip,
    eq,
    expm1,
    ge,
    gt,
    log1p,
    logarithm,
    maximum,
    minimum,
    nonzero,
    not_,
    or_,
    power,
    relu,
    sigmoid,
    sign,
    softplus,
    stays_nonnegative,
    where,
)
from attngen.diagnostics import Diagnostic, InternalError, SpecError

# The rest of the analysis has these from here.
Add, Mul, Rational, exp, log, cancel, expand_mul = sp.Add, sp.Mul, sp.Rational, sp.exp, sp.log, sp.cancel, sp.expand_mul
E, Pow, pi = sp.E, sp.Pow, sp.pi

_THAW: dict[str, Any] = {
    "add": sp.Add, "sub": lambda a, b: a - b, "mul": sp.Mul, "div": lambda a, b: a / b, "pow": sp.Pow,
    "neg": lambda a: -a, "exp": sp.exp, "expm1": expm1, "log": sp.log, "log1p": log1p, "sqrt": sp.sqrt,
    "rsqrt": lambda a: 1 / sp.sqrt(a), "abs": absolute, "sign": sign, "tanh": sp.tanh, "sigmoid": sigmoid,
    "softplus": softplus, "relu": relu, "silu": lambda a: a * sigmoid(a), "erf": sp.erf, "atan": sp.atan,
    "sin": sp.sin, "cos": sp.cos, "min": minimum, "max": maximum, "clip": clip, "where": where,
    "lt": lambda a, b: gt(b, a), "le": lambda a, b: ge(b, a), "gt": gt, "ge": ge, "eq": eq,
    "ne": lambda a, b: not_(eq(a, b)), "and": and_, "or": or_, "not": not_,
}  # fmt: skip

OPERATION_OF: dict[Any, str] = {
    sp.exp: "exp", bounded_exp: "exp",
    expm1: "expm1", sp.log: "log", logarithm: "log", log1p: "log1p", absolute: "abs", sp.Abs: "abs", sign: "sign",
    sp.sign: "sign", sp.tanh: "tanh", sigmoid: "sigmoid", softplus: "softplus", relu: "relu", sp.erf: "erf",
    sp.atan: "atan", sp.sin: "sin", sp.cos: "cos", minimum: "min", maximum: "max", clip: "clip", where: "where",
    nonzero: "nonzero", gt: "gt", ge: "ge", eq: "eq", attains: "attains", and_: "and", or_: "or", not_: "not",
}  # fmt: skip

_POSITIVE = frozenset({"d", "n_q", "n_k", "n"})


@dataclass(frozen=True)
class Implicit:
    """What a root is the zero of. `residual` uses `unknown` and the symbols of `trials`, sums whose bodies use it."""

    unknown: Sym
    residual: Sym
    low: Sym
    high: Sym
    trials: tuple["Statistic", ...]


@dataclass(frozen=True)
class Statistic:
    """A reduction over the keys a row sees. `body` may use the symbols of earlier statistics.

    Of a root `body` is what its gradients are taken of: see Note [Implicit differentiation] in `roots`.
    """

    symbol: Sym
    kind: str  # sum, amax, amin, root
    body: Sym
    implicit: Implicit | None = None


def symbol(name: str, **assumptions: bool) -> Sym:
    """A real symbol."""
    return sp.Symbol(name, real=True, **assumptions)


def atom(name: str) -> Sym:
    """The symbol of a built-in name or an input."""
    return symbol(name, positive=True) if name in _POSITIVE else symbol(name)


DP = symbol("%dp")  # dO . v of a pair, which flows into the gradients


def twin(original: Sym) -> Sym:
    """See Note [Detached twins]."""
    return sp.Symbol(original.name + "'", **original.assumptions0)


def attach(expr: Sym) -> Sym:
    """Put the originals in the place of their detached twins."""
    twins = [s for s in expr.free_symbols if s.name.endswith("'")]
    return expr.xreplace({s: sp.Symbol(s.name[:-1], **s.assumptions0) for s in twins})


@dataclass
class Thawed:
    """Reductions met so far, innermost first: (kind, body) -> statistic. Their symbols begin with `prefix`.

    Those of a root's residual that don't use its `unknown` are found `outside` of it.
    """

    prefix: str = "r"
    statistics: dict[tuple[str, Sym], Statistic] = field(default_factory=dict)
    outside: "Thawed | None" = None
    unknown: Sym = None

    def reduction(self, kind: str, body: Sym) -> Sym:
        if self.outside is not None and not uses(body, [self.unknown]):
            return self.outside.reduction(kind, body)
        if (kind, body) not in self.statistics:
            known = {"positive": True} if body.is_positive else {"nonnegative": True} if stays_nonnegative(body) else {}
            name = f"{self.prefix}{len(self.statistics) + 1}"
            self.statistics[kind, body] = Statistic(symbol(name, **known), kind, body)
        return self.statistics[kind, body].symbol

    def root(self, implicit: Implicit) -> Sym:
        if self.outside is not None:
            return self.outside.root(implicit)
        key = ("root", sp.Tuple(implicit.unknown, implicit.residual, implicit.low, implicit.high))
        if key not in self.statistics:
            name = f"{self.prefix}{len(self.statistics) + 1}"
            self.statistics[key] = Statistic(symbol(name), "root", implicit.residual, implicit)
        return self.statistics[key].symbol

    def complete(self, root: Sym, body: Sym) -> None:
        """Give a root the summand of its gradients, which is found only when the root itself has a symbol."""
        key = next(k for k, s in self.statistics.items() if s.symbol == root)
        self.statistics[key] = replace(self.statistics[key], body=body)


def thaw(expr: ir.Expr, found: Thawed, detached: bool = False) -> Sym:
    """`expr` as a sympy expression; its reductions become symbols, collected in `found`."""
    match expr:
        case ir.Number(value):
            return sp.Rational(value.numerator, value.denominator)
        case ir.Name("pi"):
            return sp.pi
        case ir.Name(name):
            return twin(atom(name)) if detached else atom(name)
        case ir.Apply("detach", (body,)):
            return thaw(body, found, detached=True)
        case ir.Reduce():
            return twins_of(_reduction(expr, found)) if detached else _reduction(expr, found)
        case ir.Root():
            return twins_of(_root(expr, found)) if detached else _root(expr, found)
        case ir.Apply(op, args):
            return _checked(expr, _THAW[op](*(thaw(argument, found, detached) for argument in args)))
    raise InternalError("not a formula", repr(expr))


def twins_of(expr: Sym) -> Sym:
    """The formula with every symbol detached. See Note [Detached twins]."""
    return expr.xreplace({s: twin(s) for s in expr.free_symbols if not s.name.endswith("'")})


def _reduction(expr: ir.Reduce, found: Thawed) -> Sym:
    if expr.body is None:
        return atom("n")
    body = thaw(expr.body, found)
    if expr.kind == "mean":
        return found.reduction("sum", body) / atom("n")
    return found.reduction(expr.kind, body)


def _root(expr: ir.Root, found: Thawed) -> Sym:
    unknown = atom(expr.variable)
    inside = Thawed(f"{expr.variable}:", outside=found, unknown=unknown)
    residual = thaw(expr.residual, inside)
    trials = tuple(inside.statistics.values())
    return found.root(Implicit(unknown, residual, thaw(expr.low, found), thaw(expr.high, found), trials))


def _checked(expr: ir.Apply, value: Sym) -> Sym:
    if not is_finite(value) or value.has(sp.I):
        raise SpecError((Diagnostic("this formula has no finite real value", expr.span),))
    return value.replace(sp.Abs, absolute) if value.has(sp.Abs) else value


def is_finite(expr: Sym) -> bool:
    """Whether no part of the formula is infinite, or none at all as the slope of 0 ** x is."""
    return not expr.has(sp.zoo, sp.nan, sp.oo, -sp.oo)


def factor_terms(expr: Sym) -> Sym:
    """The factors that all terms of a sum share, outside; numbers stay where they are."""
    if not expr.is_Add:
        return expr
    powers = [_powers(term) for term in expr.args]
    bases = [base for base in powers[0] if not base.is_Number]
    shared = {base: _shared_exponent([of_term.get(base, ZERO) for of_term in powers]) for base in bases}
    inside = ((base ** (e - shared.get(base, ZERO)) for base, e in of_term.items()) for of_term in powers)
    return sp.Mul(*(base**e for base, e in shared.items())) * sp.Add(*(sp.Mul(*factors) for factors in inside))


def _powers(term: Sym) -> dict[Sym, Sym]:
    """The factors of a product: base -> exponent. A power by a formula is a base: sympy wouldn't cancel it again."""
    factors = [f.as_base_exp() if f.is_Pow and f.exp.is_Rational else (f, sp.S.One) for f in sp.Mul.make_args(term)]
    return dict(factors)


def _shared_exponent(exponents: list[Sym]) -> Sym:
    """What can be taken out of powers of one base by all of those exponents without turning any into a quotient."""
    least = min(exponents, key=abs)
    return least if all(e * least > 0 for e in exponents) else ZERO


def derivative(expr: Sym, variable: Sym) -> Sym:
    """d expr / d variable. At a zero of their base powers count as flat: see `power`."""
    found = (p for p in expr.atoms(sp.Pow) if p.base is not sp.E)
    powers = {p: power(*p.args) for p in found if _needs_care(p, variable)}
    return _absorbed(sp.diff(expr.xreplace(powers), variable).replace(power, sp.Pow))


def _needs_care(found: Sym, variable: Sym) -> bool:
    """By sympy's rule the slope of b ** e is e b ** e / b, and 1 / b is infinite where an exponential b underflows."""
    by_formula = not found.exp.is_Number and (variable in found.exp.free_symbols or found.base.has(exp))
    return by_formula or power.is_steep(*found.args)


def _absorbed(expr: Sym) -> Sym:
    """relu(x) where x > 0, else zero, is relu(x); a step is its own square."""
    if not expr.args:
        return expr
    expr = expr.func(*map(_absorbed, expr.args))
    if expr.is_Pow and expr.exp.is_positive and expr.base.func is where and expr.base.args[1:] == (sp.S.One, ZERO):
        return expr.base
    if not expr.is_Mul:
        return expr
    bases = {
        base.args[0] for base, power in map(sp.Expr.as_base_exp, expr.args) if base.func is relu and power.is_positive
    }
    steps = {where(gt(x, ZERO), sp.S.One, ZERO) for x in bases}
    return sp.Mul(*(f for f in expr.args if f.as_base_exp()[0] not in steps))


def uses(expr: Sym, symbols: Iterable[Sym]) -> bool:
    return not expr.free_symbols.isdisjoint(symbols)
