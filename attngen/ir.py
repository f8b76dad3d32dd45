"""Formulas as typed trees, and the normalizer that a spec describes.

The same `Expr` serves every stage: as the user wrote it, as the analysis leaves it, and as the printers spell it. It
knows nothing of YAML, sympy, torch or Triton. The whole grammar:

    Expr   = Number(value) | Name(id) | Apply(op, args) | Reduce(kind, body) | Root(variable, residual, low, high)

A `Name` is one of `BUILTINS`, an input of the spec, the variable of the root around it, or, behind the analysis, a row
statistic. `let` names do not occur: they are replaced by their formulas when a spec is lowered.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Literal

from attngen.diagnostics import Span

Axis = Literal["batch", "head", "kv_head", "query", "key"]
AXES: tuple[Axis, ...] = ("batch", "head", "kv_head", "query", "key")

ReductionKind = Literal["sum", "mean", "amax", "amin", "count", "csum"]
REDUCTIONS: tuple[ReductionKind, ...] = ("sum", "mean", "amax", "amin", "count")  # over the keys; csum over channels

BUILTINS: dict[str, str] = {
    "qk": "the dot product of the query and the key",
    "scale": "the call's scale, 1/sqrt(d) unless it says otherwise",
    "s": "the score: the spec's `score`, or scale * qk",
    "d": "the head dim of query and key",
    "i": "the query's position",
    "j": "the key's position",
    "n_q": "the number of queries",
    "n_k": "the number of keys",
    "n": "the number of keys that the row sees",
    "pi": "3.14159...",
}
SIZES = ("d", "n_q", "n_k", "pi")  # what the default of an input may use

# Kernels compute in float32: its largest number, and a little more than its smallest normal one.
SMALLEST_NUMBER, LARGEST_NUMBER = Fraction(1, 10**37), Fraction(2**128 - 2**104)
RANGE = "0, or a size between 1e-37 and 3.4e38: kernels compute in float32"

# Operation -> number of arguments; those of VARIADIC take that many or more.
ARITY: dict[str, int] = {
    "add": 2, "sub": 2, "mul": 2, "div": 2, "pow": 2, "neg": 1,
    "exp": 1, "expm1": 1, "log": 1, "log1p": 1, "sqrt": 1, "rsqrt": 1, "abs": 1, "sign": 1, "tanh": 1, "sigmoid": 1,
    "softplus": 1, "relu": 1, "silu": 1, "erf": 1, "atan": 1, "sin": 1, "cos": 1,
    "min": 2, "max": 2, "clip": 3, "where": 3, "detach": 1,
    "lt": 2, "le": 2, "gt": 2, "ge": 2, "eq": 2, "ne": 2, "and": 2, "or": 2, "not": 1,
    "nonzero": 1,  # x, or the least divisor where it is closer to zero; only the analysis writes it
    "attains": 3,  # a is b up to the rounding of both and of c; only the analysis writes it
}  # fmt: skip
VARIADIC = frozenset({"add", "mul", "and", "or"})
FUNCTIONS: tuple[str, ...] = (
    "exp", "expm1", "log", "log1p", "sqrt", "rsqrt", "abs", "sign", "tanh", "sigmoid", "softplus", "relu", "silu",
    "erf", "atan", "sin", "cos", "min", "max", "clip", "where", "detach",
)  # fmt: skip
CONDITIONS = frozenset({"attains", "lt", "le", "gt", "ge", "eq", "ne", "and", "or", "not"})


@dataclass(frozen=True, slots=True)
class Number:
    value: Fraction
    span: Span | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Name:
    id: str
    span: Span | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Apply:
    op: str
    args: tuple["Expr", ...]
    span: Span | None = field(default=None, compare=False, repr=False)
    hash: int = field(init=False, compare=False, repr=False)  # kept, since formulas are deep and keys of many tables

    def __post_init__(self) -> None:
        object.__setattr__(self, "hash", hash((self.op, self.args)))

    def __hash__(self) -> int:
        return self.hash


@dataclass(frozen=True, slots=True)
class Reduce:
    """A reduction over the keys that the row sees, or of kind `csum` over the channels of `o`. `count` has no body."""

    kind: ReductionKind
    body: "Expr | None"
    span: Span | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Root:
    """The row value between `low` and `high` at which `residual`, a monotone formula of `variable`, is zero.

    `variable` is the name of the let that the spec defines it by; it occurs in `residual` alone. Where the residual has
    no zero between the bounds, the value is the bound that comes nearest to one.
    """

    variable: str
    residual: "Expr"
    low: "Expr"
    high: "Expr"
    span: Span | None = field(default=None, compare=False, repr=False)


Expr = Number | Name | Apply | Reduce | Root


@dataclass(frozen=True, slots=True)
class Input:
    """A tensor that the formula uses beside query, key and value.

    `axes` is an ordered subset of `AXES`, empty for a scalar; an axis that is missing is broadcast. `default` is a
    formula of `SIZES` and numbers. `grad` says whether a gradient is wanted.
    """

    name: str
    axes: tuple[Axis, ...]
    default: Expr | None = None
    grad: bool = True


@dataclass(frozen=True, slots=True)
class Static:
    """An input whose value is known when the kernel is compiled; the formulas already contain the number."""

    name: str
    value: Fraction


@dataclass(frozen=True, slots=True)
class Claims:
    """What the spec says of its weights, for verification to hold the kernel to."""

    rows_sum_to: Fraction | None = None
    shift_invariant: bool = False
    nonnegative: bool = False
    sparse: bool = False


@dataclass(frozen=True, slots=True)
class Normalizer:
    """What a spec means: the weights of one row of attention, as formulas.

    `score` is a formula without reductions that does not use `s`. `weights` and the bodies of `lets` may use `s` and
    hold reductions; `weights` has the lets inlined, `lets` are kept as written, for people. `output` is what becomes of
    a channel `o` of the weighted sum: a formula of `o`, of `csum`, and of names that don't vary with the key.
    """

    name: str
    title: str
    reference: str
    inputs: tuple[Input, ...]
    statics: tuple[Static, ...]
    score: Expr
    lets: tuple[tuple[str, Expr], ...]
    weights: Expr
    claims: Claims
    output: Expr = Name("o")


def number(value: int | float | str | Fraction) -> Number:
    """An exact number."""
    return Number(Fraction(value))


def apply(op: str, *args: Expr) -> Apply:
    """`op` of formulas; that their number fits `ARITY` is not checked."""
    return Apply(op, args)


def children(expr: Expr) -> tuple[Expr, ...]:
    """The formulas right below a node, in order."""
    match expr:
        case Apply(args=args):
            return args
        case Reduce(body=body) if body is not None:
            return (body,)
        case Root(_, residual, low, high):
            return residual, low, high
        case _:
            return ()


def walk(expr: Expr) -> Iterator[Expr]:
    """Every node of the tree, parents before children."""
    yield expr
    for child in children(expr):
        yield from walk(child)


def names(expr: Expr) -> frozenset[str]:
    """The names that the formula uses."""
    return frozenset(node.id for node in walk(expr) if isinstance(node, Name))


def with_children(expr: Expr, new: tuple[Expr, ...]) -> Expr:
    """The node over other children, as many as it has; its place in the spec stays."""
    match expr:
        case Apply(op, _, span):
            return Apply(op, new, span)
        case Reduce(kind, body, span) if body is not None:
            return Reduce(kind, new[0], span)
        case Root(variable, _, _, _, span):
            residual, low, high = new
            return Root(variable, residual, low, high, span)
        case _:
            return expr


def in_range(value: Fraction) -> bool:
    """Whether float32 holds the number without overflow or underflow."""
    return value == 0 or SMALLEST_NUMBER <= abs(value) <= LARGEST_NUMBER


def substitute(expr: Expr, values: dict[str, Expr]) -> Expr:
    """The formula with names replaced by formulas; the replacements are not searched again."""
    if isinstance(expr, Name):
        return values.get(expr.id, expr)
    return with_children(expr, tuple(substitute(child, values) for child in children(expr)))
