"""Printers: formulas -> source text of a target language, and the rewrites that a target wants beforehand.

Three languages: Triton, plain torch, and C++ on vectors. Triton has a second table for Hopper, of fewer instructions.
Each numerically delicate function has exactly one spelling per table, here or as a device function of the templates; a
formula is spelled, never changed. Names are printed as they are given.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

from attngen import ir
from attngen.diagnostics import InternalError
from attngen.emit.arrange import Place, addends
from attngen.emit.finite import is_number
from attngen.ir import Apply, Expr, Name, Number

_INFIX = {"add": " + ", "sub": " - ", "mul": " * ", "div": " / ", "gt": " > ", "ge": " >= ", "lt": " < ", "le": " <= ",
          "eq": " == ", "ne": " != ", "and": " & ", "or": " | "}  # fmt: skip
_PRECEDENCE = {"or": 1, "and": 1, "gt": 3, "ge": 3, "lt": 3, "le": 3, "eq": 3, "ne": 3, "add": 4, "sub": 4, "mul": 5,
               "div": 5, "neg": 6, "not": 6}  # fmt: skip
_ATOM = 9

# Formats of the functions, with {0}, {1}, {2} for the arguments. A name that begins with an underscore is a device
# function of the templates.
_TRITON = {
    "exp2": "tl.exp2({0})", "log": "tl.log({0})", "log2": "tl.log2({0})", "expm1": "_expm1({0})",
    "log1p": "_log1p({0})", "sqrt": "tl.sqrt({0})", "abs": "tl.abs({0})", "sign": "_sign({0})", "tanh": "_tanh({0})",
    "softplus": "_softplus({0})", "relu": "tl.maximum({0}, 0.0)", "erf": "tl.erf({0})", "atan": "_atan({0})",
    "sin": "_sin({0}, CUDA)", "cos": "_cos({0}, CUDA)", "min": "tl.minimum({0}, {1})", "max": "tl.maximum({0}, {1})",
    "where": "tl.where({0}, {1}, {2})", "logistic2": "_logistic2({0}, CUDA)",
    "attains": "_attains({0}, {1}, {2})",
}  # fmt: skip
_TORCH = {
    "exp": "torch.exp({0})", "log": "torch.log({0})", "expm1": "torch.expm1({0})", "log1p": "torch.log1p({0})",
    "sqrt": "torch.sqrt({0})", "abs": "torch.abs({0})", "sign": "torch.sign({0})", "tanh": "torch.tanh({0})",
    "sigmoid": "torch.sigmoid({0})", "softplus": "_plain_softplus({0})", "relu": "torch.relu({0})",
    "erf": "torch.erf({0})", "atan": "torch.atan({0})", "sin": "torch.sin({0})", "cos": "torch.cos({0})",
    "min": "_plain_minimum({0}, {1})", "max": "_plain_maximum({0}, {1})", "where": "torch.where({0}, {1}, {2})",
    "pow": "torch.pow({0}, {1})", "attains": "_plain_attains({0}, {1}, {2})",
    "nonzero": "_plain_nonzero({0})",
}  # fmt: skip


def _number(value: Fraction, outer: int) -> str:
    text = repr(float(value))
    return f"({text})" if value < 0 and outer >= _PRECEDENCE["mul"] else text


@dataclass(frozen=True)
class Printer:
    """Prints formulas of one language.

    `spread` says how a vector is written among tiles, from its place, and `column` how a row factor on an accumulator
    is; `blank` is a tile of zeros, `infinity` the language's minus infinity. `positive` are names that are known to be:
    a factor of these can leave a maximum.
    """

    functions: Mapping[str, str]
    lower: Callable[[Expr], Expr]
    spread: Callable[[str, Place], str]
    blank: str
    infinity: str
    number: Callable[[Fraction, int], str] = _number
    column: Callable[[str], str] = "{}".format
    positive: frozenset[str] = frozenset()

    def text(self, expr: Expr, places: Mapping[str, Place], here: Place) -> str:
        """`expr` as source text, in a statement whose own place is `here`."""
        return self._print(expr, places, here, 0)

    def _print(self, expr: Expr, places: Mapping[str, Place], here: Place, outer: int) -> str:
        match expr:
            case Number(value):
                return self.number(value, outer)
            case Name(name):
                narrow = here.row and here.key and places[name].row != places[name].key
                return self.spread(name, places[name]) if narrow else name
            case Apply(op, args):
                return self._apply(op, [(a, places, here) for a in args], outer)
        raise InternalError("a reduction reached a printer", repr(expr))

    def _apply(self, op: str, args: list[tuple[Expr, Mapping[str, Place], Place]], outer: int) -> str:
        if op in self.functions:
            return self.functions[op].format(*(self._print(*a, 0) for a in args))
        if op not in _PRECEDENCE:
            raise InternalError(f"the printer lacks {op}; was it to be lowered?")
        mine = _PRECEDENCE[op]
        if op in ("neg", "not"):
            text = ("-" if op == "neg" else "~") + self._print(*args[0], mine)
        else:
            # what stands right of the operator is bracketed at equal precedence: a - (b - c), a / (b * c)
            # & and | bind tighter than >, so that their operands are bracketed.
            inner = [_ATOM if op in ("and", "or") else mine - (i == 0) for i in range(len(args))]
            text = _INFIX[op].join(self._print(*a, o) for a, o in zip(args, inner, strict=True))
        return f"({text})" if mine <= outer else text


def _column_or_row(name: str, place: Place) -> str:
    return f"{name}[:, None]" if place.row else f"{name}[None, :]"


def _row_or_column(name: str, place: Place) -> str:
    """For tiles that stand transposed, keys by queries."""
    return f"{name}[None, :]" if place.row else f"{name}[:, None]"


LOG2E = Name("LOG2E")


def times(factor: Expr, expr: Expr, sign: int) -> Expr:
    """factor * expr * sign, multiplied into a sum so that the parts that stay the same can leave the loop.

    Names among the addends, such as gates that were summed up over thousands of keys, stay together: their difference
    may be small where each of them, multiplied, would be rounded by more.
    """
    signed = [(s * sign, term) for s, term in addends(expr)]
    names = [(s, term) for s, term in signed if isinstance(term, Name)]
    apart = [(s, ir.apply("mul", factor, term)) for s, term in signed if not isinstance(term, Name)]
    return _total([*apart, (1, ir.apply("mul", factor, _total(names)))] if names else apart)


def _total(signed: Sequence[tuple[int, Expr]]) -> Expr:
    """The sum of terms with their signs, a positive one first."""
    (sign, total), *rest = sorted(signed, key=lambda term: -term[0])
    total = total if sign > 0 else ir.apply("neg", total)
    for sign, term in rest:
        total = ir.apply("add" if sign > 0 else "sub", total, term)
    return total


def _nonzero(x: Expr) -> Expr:
    """A divisor of float32 leaves room: what is divided by it may be ten million times as large as itself."""
    least = ir.number(2**-100)
    return ir.apply("where", ir.apply("lt", ir.apply("abs", x), least), least, x)


def _lower_triton(expr: Expr) -> Expr:
    match expr:
        case Apply("nonzero", (x,)):
            return _nonzero(x)
        case Apply("exp", (x,)):
            return ir.apply("exp2", times(LOG2E, x, 1))
        case Apply("sigmoid", (x,)):
            return ir.apply("logistic2", times(LOG2E, x, -1))
        case Apply("clip", (x, low, high)):
            return ir.apply("min", ir.apply("max", x, low), high)
        case Apply("pow", (base, exponent)):
            return _lower_power(base, exponent, lambda b, p: ir.apply("exp2", ir.apply("mul", p, ir.apply("log2", b))))
    return expr


def _lower_cpp(expr: Expr) -> Expr:
    """As for Triton, but the exponential stays: exact where exponents are large and their difference is small."""
    return expr if isinstance(expr, Apply) and expr.op == "exp" else _lower_triton(expr)


def _lower_torch(expr: Expr) -> Expr:
    match expr:
        case Apply("clip", (x, low, high)):
            return ir.apply("min", ir.apply("max", x, low), high)
        case Apply("where", (condition, Number() as a, Number() as b)):
            return ir.apply("where_numbers", condition, a, b)
        case Apply("pow", (base, exponent)):
            return _lower_power(base, exponent, lambda b, p: ir.apply("pow", b, p))
    return expr


MOST_MULTIPLICATIONS = 64  # exponents up to this are multiplied out


def _lower_power(base: Expr, exponent: Expr, general: Callable[[Expr, Expr], Expr]) -> Expr:
    """Whole and half exponents by multiplication and roots, others by the target's own power."""
    if not isinstance(exponent, Number) or exponent.value.denominator > 2 or exponent.value > MOST_MULTIPLICATIONS:
        return general(base, exponent)
    whole, half = divmod(exponent.value.numerator, exponent.value.denominator)
    parts = ([_repeated(base, whole)] if whole else []) + ([ir.apply("sqrt", base)] if half else [])
    return parts[0] if len(parts) == 1 else Apply("mul", tuple(parts))


def _repeated(base: Expr, times: int) -> Expr:
    """base ** times by squaring; the squares are shared subformulas, hence computed once. See Note [Opaque squares]."""
    if times == 1:
        return base
    square = _repeated(base, times // 2)
    power = ir.apply("square", square)
    return ir.apply("mul", base, power) if times % 2 else power


# Note [Opaque squares]: the arrangement flattens products; as an operation of its own a square stays one.
_TRITON["square"] = "_square({0})"
_TORCH["square"] = "torch.square({0})"

# Of two numbers torch would make float32, whatever the precision of the computation is.
_TORCH["where_numbers"] = "torch.where({0}, {1}, {2}).to(dtype)"


def _vector(value: Fraction, _outer: int) -> str:
    """A number of C++ in all lanes; what float32 can't hold is infinite there."""
    rounded = float(value)
    if abs(rounded) > _LARGEST_FLOAT:
        return f"Vec({'-' if rounded < 0 else ''}INF)"
    return f"Vec({rounded!r}f)"


_LARGEST_FLOAT = 3.4028235e38
_CPP = {
    "exp": "exp({0})", "exp2": "exp2({0})", "log": "log({0})", "log2": "log2({0})", "expm1": "expm1({0})",
    "log1p": "log1p({0})", "sqrt": "sqrt({0})", "abs": "abs({0})", "sign": "sign({0})", "tanh": "tanh({0})",
    "softplus": "softplus({0})", "relu": "relu({0})", "erf": "erf({0})", "atan": "atan({0})", "sin": "sin({0})",
    "cos": "cos({0})", "min": "minimum({0}, {1})", "max": "maximum({0}, {1})", "where": "select({0}, {1}, {2})",
    "logistic2": "logistic2({0})", "attains": "attains({0}, {1}, {2})", "square": "square({0})", "not": "negated({0})",
}  # fmt: skip

# Reciprocals in place of divisions, and polynomials no longer than 16 bits need.
_HOPPER = {
    **_TRITON, "logistic2": "_logistic2({0}, True)", "softplus": "_softplus_short({0})",
    "tanh": "_tanh_short({0})", "erf": "_erf_short({0})", "div": "_quotient({0}, {1})", "log2": "_log2_short({0})",
    "sin": "_sin({0}, True)", "cos": "_cos({0}, True)",
}  # fmt: skip

_INFINITY = 'float("-inf")'
TRITON = Printer(
    _TRITON, _lower_triton, _column_or_row, "tl.zeros([BLOCK_M, BLOCK_N], tl.float32)", _INFINITY,
    column="{}[:, None]".format,
)  # fmt: skip
TRITON_FORWARD = replace(TRITON, positive=frozenset({"scale"}))  # the launcher sees to it
HOPPER = replace(
    TRITON,
    functions=_HOPPER,
    blank="gl.zeros_like(qk)",
    column="_column({}, OUT)".format,
    positive=frozenset({"scale"}),
)
TRITON_TRANSPOSED = Printer(
    _TRITON, _lower_triton, _row_or_column, "tl.zeros([BLOCK_N, BLOCK_M], tl.float32)", _INFINITY
)
HOPPER_TRANSPOSED = replace(HOPPER, spread=_row_or_column)


def searching(printer: Printer) -> Printer:
    """The printer of a search's trials: the search ends when its steps are as small as rounding errors, and an exponent
    makes large ones of those of logarithms."""
    return replace(printer, functions={**printer.functions, "log2": _TRITON["log2"]})


def sharing(printer: Printer, spelling: str, inputs: frozenset[str]) -> Printer:
    """The printer with one reciprocal for several logistic functions. One that isn't a number would spoil the others,
    so that those which may not be keep reciprocals of their own."""

    def lower(expr: Expr) -> Expr:
        lowered = printer.lower(expr)
        match lowered:
            case Apply("logistic2", (x,)) if is_number(x, inputs):
                return ir.apply("logistic2_shared", x)
        return lowered

    return replace(printer, functions={**printer.functions, "logistic2_shared": spelling}, lower=lower)


TORCH = Printer(_TORCH, _lower_torch, lambda name, _: name, "torch.zeros_like(qk)", "-math.inf")
# Vectors of C++ are of one shape, whether they vary with the query, the key or both: nothing is to be spread.
CPP = Printer(_CPP, _lower_cpp, lambda name, _: name, "Vec(0.0f)", "-INF", _vector)
