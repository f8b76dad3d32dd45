"""Formulas back into the spec language's own text, with no more parentheses than the grammar needs.

What is printed can be read again and gives the same tree; chains of `+`, `*`, `and`, `or` come back as one operation.
A root alone has no text in formulas, since it is a `let` of its own: it is printed for people.
Numbers are exact: decimals where they end, quotients of whole numbers where they don't. It doesn't simplify.
"""

from collections.abc import Iterator
from fractions import Fraction

from attngen.ir import VARIADIC, Apply, Expr, Name, Number, Reduce, Root

_WHERE, _OR, _AND, _NOT, _COMPARE, _SUM, _PRODUCT, _SIGN, _POWER, _ATOM = range(10)
# Operation -> symbol, how tightly it binds, and how tightly its first and its further operands must.
_INFIX = {
    "or": ("or", _OR, _AND, _AND),
    "and": ("and", _AND, _NOT, _NOT),
    "lt": ("<", _COMPARE, _SUM, _SUM),
    "le": ("<=", _COMPARE, _SUM, _SUM),
    "gt": (">", _COMPARE, _SUM, _SUM),
    "ge": (">=", _COMPARE, _SUM, _SUM),
    "eq": ("==", _COMPARE, _SUM, _SUM),
    "ne": ("!=", _COMPARE, _SUM, _SUM),
    "add": ("+", _SUM, _SUM, _PRODUCT),
    "sub": ("-", _SUM, _SUM, _PRODUCT),
    "mul": ("*", _PRODUCT, _PRODUCT, _SIGN),
    "div": ("/", _PRODUCT, _PRODUCT, _SIGN),
    "pow": ("**", _POWER, _ATOM, _SIGN),
}
_PREFIX = {"neg": ("-", _SIGN), "not": ("not ", _NOT)}
_PLAIN_ZEROS = 6  # more zeros than this at an end of a number are written as a power of ten


def text(expr: Expr) -> str:
    """The formula as a spec would write it, such as `exp(s) / sum(exp(s))`."""
    return _text(expr)[0]


def _text(expr: Expr) -> tuple[str, int]:
    """The text, and how tightly its outermost operation binds."""
    match expr:
        case Number(value):
            return _number(value)
        case Name(id):
            return id, _ATOM
        case Reduce(kind, body):
            return f"{kind}({'' if body is None else text(body)})", _ATOM
        case Root(variable, residual, low, high):
            bounds = f"{_operand(low, _OR)} and {_operand(high, _OR)}"
            return f"{variable} where {_operand(residual, _SUM)} == 0 between {bounds}", _WHERE
        case Apply(op, (body,)) if op in _PREFIX:
            symbol, level = _PREFIX[op]
            return symbol + _operand(body, level), level
        case Apply(op) if op in _INFIX:
            return _infix(expr)
        case Apply(op, args):
            return f"{op}({', '.join(text(arg) for arg in args)})", _ATOM


def _infix(expr: Apply) -> tuple[str, int]:
    symbol, level, first, further = _INFIX[expr.op]
    head, *rest = _chain(expr, expr.op) if expr.op in VARIADIC else expr.args
    return f" {symbol} ".join([_operand(head, first), *(_operand(arg, further) for arg in rest)]), level


def _chain(expr: Expr, op: str) -> Iterator[Expr]:
    """The operands of a chain of one operation: a + (b + c) has three."""
    if isinstance(expr, Apply) and expr.op == op:
        for arg in expr.args:
            yield from _chain(arg, op)
    else:
        yield expr


def _operand(expr: Expr, wanted: int) -> str:
    written, level = _text(expr)
    return written if level >= wanted else f"({written})"


def _number(value: Fraction) -> tuple[str, int]:
    sign = "-" if value < 0 else ""
    digits = _decimal(abs(value))
    if digits is None:
        return f"{value.numerator}/{value.denominator}", _PRODUCT
    return sign + digits, _SIGN if sign else _ATOM


def _decimal(value: Fraction) -> str | None:
    """The decimal notation of a number that is not negative, None if it never ends."""
    twos, rest = _without_factor(value.denominator, 2)
    fives, rest = _without_factor(rest, 5)
    if rest != 1:
        return None
    places = max(twos, fives)
    whole = int(value * 10**places)
    zeros, digits = _without_factor(whole, 10) if whole else (0, 0)
    if zeros - places > _PLAIN_ZEROS or places - zeros - len(str(digits)) > _PLAIN_ZEROS:
        return f"{digits}e{zeros - places}"
    if places == 0:
        return str(whole)
    padded = str(whole).rjust(places + 1, "0")
    return f"{padded[:-places]}.{padded[-places:]}"


def _without_factor(value: int, factor: int) -> tuple[int, int]:
    """How often a factor divides a whole number, and what is left of it."""
    count = 0
    while value % factor == 0:
        value //= factor
        count += 1
    return count, value
