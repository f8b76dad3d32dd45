"""Formulas as sympy expressions, and back: with `functions`, the door through which sympy enters.

`thaw` turns an `ir.Expr` into a sympy expression in which every reduction has become a symbol, a row statistic;
`freeze` turns a sympy expression into an `ir.Expr`. Functions with a kink or with a numerically delicate form are
sympy functions of our own, so that sympy never rewrites them and their derivatives follow torch's conventions
(relu'(0) = 0, ties of max and min share the gradient). Nothing here calls `simplify`: it would undo stable forms.

# Note [Detached twins]
`detach(x)` is pushed down to the symbols: each symbol has a twin of the same value whose derivative is nowhere taken.
After differentiation `attach` puts the originals back.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from fractions import Fraction
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
    ratio,
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

_THAW: dict[str, Any] = {
    "add": sp.Add, "sub": lambda a, b: a - b, "mul": sp.Mul, "div": lambda a, b: a / b, "pow": sp.Pow,
    "neg": lambda a: -a, "exp": sp.exp, "expm1": expm1, "log": sp.log, "log1p": log1p, "sqrt": sp.sqrt,
    "rsqrt": lambda a: 1 / sp.sqrt(a), "abs": absolute, "sign": sign, "tanh": sp.tanh, "sigmoid": sigmoid,
    "softplus": softplus, "relu": relu, "silu": lambda a: a * sigmoid(a), "erf": sp.erf, "atan": sp.atan,
    "sin": sp.sin, "cos": sp.cos, "min": minimum, "max": maximum, "clip": clip, "where": where,
    "lt": lambda a, b: gt(b, a), "le": lambda a, b: ge(b, a), "gt": gt, "ge": ge, "eq": eq,
    "ne": lambda a, b: not_(eq(a, b)), "and": and_, "or": or_, "not": not_,
}  # fmt: skip

_FREEZE: dict[Any, str] = {
    sp.exp: "exp", bounded_exp: "exp",
    expm1: "expm1", sp.log: "log", logarithm: "log", log1p: "log1p", absolute: "abs", sp.Abs: "abs", sign: "sign",
    sp.sign: "sign", sp.tanh: "tanh", sigmoid: "sigmoid", softplus: "softplus", relu: "relu", sp.erf: "erf",
    sp.atan: "atan", sp.sin: "sin", sp.cos: "cos", minimum: "min", maximum: "max", clip: "clip", where: "where",
    nonzero: "nonzero", gt: "gt", ge: "ge", eq: "eq", attains: "attains", and_: "and", or_: "or", not_: "not",
}  # fmt: skip

# Powers up to this are summed as they are: in fp32 they stay finite for bases up to 10^9.
LARGEST_PLAIN_POWER = 4

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
    if value.has(sp.zoo, sp.nan, sp.oo, -sp.oo) or value.has(sp.I):
        raise SpecError((Diagnostic("this formula has no finite real value", expr.span),))
    return value.replace(sp.Abs, absolute) if value.has(sp.Abs) else value


def freeze(expr: Sym) -> ir.Expr:
    """A sympy expression as a formula. Divisions and square roots are spelled as such."""
    if expr.is_Rational:
        return ir.Number(Fraction(int(expr.p), int(expr.q)))
    if expr.is_Symbol:
        return ir.Name(expr.name)
    if expr is sp.pi:
        return ir.Name("pi")
    if expr is sp.E:
        return ir.apply("exp", ir.number(1))
    if expr.is_Add:
        return _freeze_sum(expr)
    if expr.is_Mul:
        return _freeze_product(expr)
    if expr.is_Pow:
        return _freeze_power(*expr.args)
    if expr.func is ratio:
        return ir.apply("div", *map(freeze, expr.args))
    if expr.func in _FREEZE:
        return ir.Apply(_FREEZE[expr.func], tuple(freeze(argument) for argument in expr.args))
    if expr.has(sp.nan, sp.zoo, sp.oo, -sp.oo):  # such as the slope of 0 ** x
        raise SpecError((Diagnostic("this formula or its gradient has no finite value"),))
    raise InternalError("a sympy expression that the formula language lacks", str(expr))


def _freeze_sum(expr: Sym) -> ir.Expr:
    """Positive terms first, so that a difference reads as one."""
    terms = sorted(expr.args, key=lambda t: (t.could_extract_minus_sign(), t.sort_key()))
    plus = [freeze(t) for t in terms if not t.could_extract_minus_sign()]
    minus = [freeze(-t) for t in terms if t.could_extract_minus_sign()]
    if not plus:
        return ir.apply("neg", _nary("add", minus))
    total = _nary("add", plus)
    return ir.apply("sub", total, _nary("add", minus)) if minus else total


def _freeze_product(expr: Sym) -> ir.Expr:
    """What flows in comes last: a derivative is of ordinary size, its factors need not be."""
    if expr.could_extract_minus_sign():
        return ir.apply("neg", freeze(-expr))
    masks = [f for f in expr.args if f.func is where and _has_zero_branch(f)]
    if masks:
        return _freeze_masked(masks[0], expr / masks[0])
    factors = sorted(expr.args, key=lambda f: (uses(f, [DP]), f.sort_key()))
    below = [f for f in factors if f.is_Pow and f.exp.could_extract_minus_sign()]
    above = [freeze(f) for f in factors if f not in below]
    numerator = _nary("mul", above) if above else ir.number(1)
    return ir.apply("div", numerator, _nary("mul", [freeze(1 / f) for f in below])) if below else numerator


def _has_zero_branch(mask: Sym) -> bool:
    """Whether a `where`, nested ones included, selects among numbers of which one is zero."""
    nested = [b for b in mask.args[1:] if b.func is where]
    numbers = [b for b in mask.args[1:] if b.is_Number]
    if len(nested) + len(numbers) < 2:
        return False
    return ZERO in numbers or any(map(_has_zero_branch, nested))


def _freeze_masked(branch: Sym, rest: Sym) -> ir.Expr:
    """where(c, 1, 0) * x is spelled where(c, x, 0), so that an x that is inf or NaN elsewhere doesn't matter."""
    if branch.func is not where:
        return freeze(branch * rest)
    condition, a, b = branch.args
    return ir.apply("where", freeze(condition), _freeze_masked(a, rest), _freeze_masked(b, rest))


def _freeze_power(base: Sym, exponent: Sym) -> ir.Expr:
    if base is sp.E:
        return ir.apply("exp", freeze(exponent))
    if exponent.could_extract_minus_sign():
        return ir.apply("div", ir.number(1), freeze(base**-exponent))
    if exponent == sp.S.Half:
        return ir.apply("sqrt", freeze(base))
    return ir.apply("pow", freeze(base), freeze(exponent))


def _nary(op: str, parts: list[ir.Expr]) -> ir.Expr:
    return parts[0] if len(parts) == 1 else ir.Apply(op, tuple(parts))


def spell(expr: Sym) -> Sym:
    """Spell 1 / (1 + exp(x)), 1 - sigmoid(x), log(1 + exp(x)), exp(x) - 1 without overflow and cancellation."""
    if not expr.args:
        return expr
    expr = expr.func(*map(spell, expr.args))
    if expr.is_Add:
        return _spell_difference(expr)
    if expr.is_Pow:
        return _spell_power(expr)
    if expr.is_Mul:
        return _spell_sigmoid(expr)
    if expr.func is sp.log:
        return _spell_logarithm(expr.args[0])
    if expr.func is log1p and expr.args[0].func is sp.exp:
        return softplus(expr.args[0].args[0])
    return expr


def _spell_power(expr: Sym) -> Sym:
    """A power that costs an exponential anyway is one, if the logarithm of its base is known: it doesn't underflow."""
    base, exponent = expr.args
    if exponent.is_Integer and exponent < 0 and (x := _one_plus_exp(base)) is not None:
        base, exponent = sigmoid(-x), -exponent
    if base.func in _LOGARITHMS and not (exponent.is_Integer and 0 < exponent <= LARGEST_PLAIN_POWER):
        return exp(exponent * _LOGARITHMS[base.func](*base.args))
    return base**exponent


def _spell_logarithm(expr: Sym) -> Sym:
    if (x := _one_plus_exp(expr)) is not None:
        return softplus(x)
    return _LOGARITHMS[expr.func](*expr.args) if expr.func in _LOGARITHMS else log(expr)


def _log_softplus(x: Sym) -> Sym:
    """Far below zero softplus(x) is exp(x): below -36 in float64 as well."""
    return where(gt(-36, x), x, log(softplus(x)))


_LOGARITHMS: dict[Any, Callable[[Sym], Sym]] = {sigmoid: lambda x: -softplus(-x), softplus: _log_softplus}


def _one_plus_exp(expr: Sym) -> Sym:
    """x if `expr` is 1 + exp(x)."""
    if expr.is_Add and len(expr.args) == 2:
        one, other = sorted(expr.args, key=lambda a: not a.is_Number)
        if one == 1 and other.func is sp.exp:
            return other.args[0]
    return None


def _spell_difference(expr: Sym) -> Sym:
    constant, rest = expr.as_coeff_Add()
    if constant == 1 and (-rest).func is sigmoid:  # exact where sigmoid is one
        return sigmoid(-(-rest).args[0])
    for term in sp.Add.make_args(rest):
        plus, minus = term.func is sp.exp, (-term).func is sp.exp
        if (plus and constant == -1) or (minus and constant == 1):
            spelled = expm1(term.args[0]) if plus else -expm1((-term).args[0])
            return rest - term + spelled
    return expr


def _spell_sigmoid(expr: Sym) -> Sym:
    """exp(x) * sigmoid(-x) = sigmoid(x)."""
    for factor in expr.args:
        if factor.func is sigmoid and sp.exp(-factor.args[0]) in expr.args:
            return expr / factor / sp.exp(-factor.args[0]) * sigmoid(-factor.args[0])
    return expr


def factor_terms(expr: Sym) -> Sym:
    """The factors that all terms of a sum share, outside; numbers stay where they are."""
    if not expr.is_Add:
        return expr
    factors = [dict.fromkeys(sp.Mul.make_args(term)) for term in expr.args]
    shared = [f for f in factors[0] if not f.is_Number and all(f in others for others in factors[1:])]
    outside = sp.Mul(*shared)
    return outside * sp.Add(*(term / outside for term in expr.args))


def derivative(expr: Sym, variable: Sym) -> Sym:
    """d expr / d variable. At a zero of their base powers count as flat: see `power`."""
    found = (p for p in expr.atoms(sp.Pow) if p.base is not sp.E)
    powers = {p: power(*p.args) for p in found if variable in p.exp.free_symbols or power.is_steep(*p.args)}
    return _absorbed(sp.diff(expr.xreplace(powers), variable).replace(power, sp.Pow))


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
