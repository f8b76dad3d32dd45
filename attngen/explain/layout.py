"""Formulas as boxes: fractions, roots, exponents, sums, with no more parentheses than a reader needs.

Decides nothing about LaTeX or MathML, and doesn't simplify.
"""

from collections.abc import Callable
from fractions import Fraction as Rational

from attngen import ir, notation
from attngen.explain import boxes as bx
from attngen.explain.boxes import Box, Digits, Function, Letter, Row, Script, Sign, fenced, row
from attngen.explain.symbols import Symbols
from attngen.ir import Apply, Expr, Name, Number, Reduce, Root

_LOGIC, _RELATION, _SUM, _REDUCTION, _PRODUCT, _POWER, _ATOM = range(7)
_RELATIONS = {"lt": "<", "le": "≤", "gt": ">", "ge": "≥", "eq": "=", "ne": "≠"}
_OPPOSITE = {"lt": "ge", "le": "gt", "gt": "le", "ge": "lt", "eq": "ne", "ne": "eq"}
_NAMES = {"sign": "sgn", "atan": "arctan"}
_PLACES = 4  # a number smaller than this many decimals is a power of ten
Placed = tuple[Box, int]


def typeset(expr: Expr, symbols: Symbols) -> Box:
    return _Typesetter(symbols).place(expr)[0]


class _Typesetter:
    def __init__(self, symbols: Symbols) -> None:
        self.symbols = symbols

    def place(self, expr: Expr) -> Placed:
        """The box of a formula, and how tightly its outermost operation binds."""
        match expr:
            case Number(value):
                return _number(value)
            case Name(name):
                symbol = self.symbols[name]
                return symbol.box, _ATOM if symbol.atomic else _PRODUCT
            case Reduce(kind, body):
                return self.reduction(kind, body)
            case Root(variable, residual, low, high):
                bounds = bx.Fence("[", self.listed((low, high)), "]")
                looked_for = row(self.place(Name(variable))[0], Sign("∈"), bounds)
                return row(Script(Function("root"), below=looked_for), fenced(self.place(residual)[0])), _ATOM
            case Apply(op, args):
                return self.operation(op, args)

    def at(self, expr: Expr, wanted: int) -> Box:
        """The box of an operand, in parentheses if it binds less tightly than `wanted`."""
        box, level = self.place(expr)
        return box if level >= wanted else fenced(box)

    def operation(self, op: str, args: tuple[Expr, ...]) -> Placed:
        if op in _RELATIONS:
            left, right = (self.at(arg, _SUM) for arg in args)
            return row(left, Sign(_RELATIONS[op]), right), _RELATION
        if op.startswith("sum_"):
            return self.big("∑", Row(tuple(Letter(letter) for letter in op[4:])), args[0])
        special: Callable[..., Placed] | None = getattr(self, f"op_{op}", None)
        return special(*args) if special else (self.call(_NAMES.get(op, op), args), _ATOM)

    def call(self, name: str, args: tuple[Expr, ...]) -> Box:
        return row(Function(name), fenced(self.listed(args)))

    def listed(self, args: tuple[Expr, ...]) -> Box:
        inside: list[Box] = []
        for arg in args:
            inside += [Sign(",")] if inside else []
            inside.append(self.at(arg, _LOGIC))
        return Row(tuple(inside))

    def reduction(self, kind: str, body: Expr | None) -> Placed:
        if body is None:
            return self.place(Name("n"))
        if kind in ("amax", "amin"):
            return self.big(kind[1:], Letter("j"), body)
        total, level = self.big("∑", Letter("c" if kind == "csum" else "j"), body)
        if kind in ("sum", "csum"):
            return total, level
        return row(bx.Fraction(Digits("1"), self.at(Name("n"), _SUM)), total), level

    def big(self, operator: str, index: Box, body: Expr) -> Placed:
        return row(bx.Big(operator, index), self.at(body, _REDUCTION)), _REDUCTION

    def op_add(self, *args: Expr) -> Placed:
        head, *rest = args
        parts = [self.at(head, _SUM)]
        for arg in rest:
            negative = isinstance(arg, Apply) and arg.op == "neg"
            shown = arg.args[0] if isinstance(arg, Apply) and negative else arg
            parts += [Sign("−" if negative else "+"), self.at(shown, _REDUCTION)]
        return Row(tuple(parts)), _SUM

    def op_sub(self, left: Expr, right: Expr) -> Placed:
        return row(self.at(left, _SUM), Sign("−"), self.at(right, _REDUCTION)), _SUM

    def op_neg(self, body: Expr) -> Placed:
        return row(Sign("−"), self.at(body, _REDUCTION)), _SUM

    def op_mul(self, *args: Expr) -> Placed:
        numbers = [arg for arg in args if isinstance(arg, Number)]
        factors = [*numbers, *(arg for arg in args if not isinstance(arg, Number))]
        parts: list[Box] = []
        for position, factor in enumerate(factors):
            if parts:
                parts.append(Sign("·" if isinstance(factor, Number) else " "))
            last = position == len(factors) - 1
            parts.append(self.at(factor, _REDUCTION if last else _PRODUCT))
        return Row(tuple(parts)), _PRODUCT if self.place(factors[-1])[1] != _REDUCTION else _REDUCTION

    def op_div(self, over: Expr, under: Expr) -> Placed:
        return bx.Fraction(self.place(over)[0], self.place(under)[0]), _PRODUCT

    def op_pow(self, base: Expr, exponent: Expr) -> Placed:
        if exponent == ir.number("1/2"):
            return self.op_sqrt(base)
        box, level = self.place(base)
        return Script(box if level == _ATOM else fenced(box), above=self.place(exponent)[0]), _POWER

    def op_exp(self, body: Expr) -> Placed:
        inside = self.place(body)[0]
        if _is_tall(inside):
            return row(Function("exp"), fenced(inside)), _ATOM
        return Script(Letter("e", upright=True), above=inside), _POWER

    def op_expm1(self, body: Expr) -> Placed:
        return row(self.op_exp(body)[0], Sign("−"), Digits("1")), _SUM

    def op_log1p(self, body: Expr) -> Placed:
        return row(Function("log"), fenced(row(Digits("1"), Sign("+"), self.at(body, _REDUCTION)))), _ATOM

    def op_sqrt(self, body: Expr) -> Placed:
        return bx.Root(self.place(body)[0]), _ATOM

    def op_rsqrt(self, body: Expr) -> Placed:
        return bx.Fraction(Digits("1"), bx.Root(self.place(body)[0])), _PRODUCT

    def op_abs(self, body: Expr) -> Placed:
        return bx.Fence("|", self.place(body)[0], "|"), _ATOM

    def op_dot(self, left: Expr, right: Expr) -> Placed:
        box = self.at(left, _ATOM)
        turned = Script(box.base, box.below, Letter("⊤")) if isinstance(box, Script) else Script(box, above=Letter("⊤"))
        return row(turned, self.at(right, _ATOM)), _PRODUCT

    def op_and(self, *args: Expr) -> Placed:
        return self.joined("∧", args)

    def op_or(self, *args: Expr) -> Placed:
        return self.joined("∨", args)

    def joined(self, sign: str, args: tuple[Expr, ...]) -> Placed:
        parts: list[Box] = [self.at(args[0], _RELATION)]
        for arg in args[1:]:
            parts += [Sign(sign), self.at(arg, _RELATION)]
        return Row(tuple(parts)), _LOGIC

    def op_not(self, body: Expr) -> Placed:
        return row(Sign("¬"), self.at(body, _ATOM)), _RELATION

    def op_attains(self, value: Expr, extremum: Expr, _: Expr) -> Placed:
        return row(self.at(value, _SUM), Sign("≐"), self.at(extremum, _SUM)), _RELATION

    def op_where(self, condition: Expr, value: Expr, otherwise: Expr) -> Placed:
        zero = ir.number(0)
        if otherwise == zero:
            return self.indicated(condition, value)
        if value == zero and isinstance(condition, Apply) and condition.op in _OPPOSITE:
            return self.indicated(Apply(_OPPOSITE[condition.op], condition.args), otherwise)
        parts = (self.place(part)[0] for part in (condition, value, otherwise))
        return bx.Choice(*parts), _SUM

    def indicated(self, condition: Expr, value: Expr) -> Placed:
        indicator = row(Letter("1", upright=True), bx.Fence("[", self.place(condition)[0], "]"))
        if value == ir.number(1):
            return indicator, _ATOM
        return row(indicator, Sign(" "), self.at(value, _PRODUCT)), _PRODUCT


def _is_tall(box: Box) -> bool:
    match box:
        case bx.Fraction() | bx.Choice() | bx.Big() | bx.Root():
            return True
        case Script(base, _, above):
            return _is_tall(base) or (above is not None and not isinstance(above, Letter | Digits))
        case Row(items):
            return any(map(_is_tall, items))
        case bx.Fence(_, body, _):
            return _is_tall(body)
    return False


def _number(value: Rational) -> Placed:
    if value < 0:
        return row(Sign("−"), _number(-value)[0]), _SUM
    small = 1 / value if value else Rational(1)
    if small.denominator == 1 and str(small.numerator).strip("0") == "1" and small >= 10**_PLACES:
        return Script(Digits("10"), above=row(Sign("−"), Digits(str(len(str(small)) - 1)))), _POWER
    text = notation.text(Number(value))
    if "/" in text:
        return bx.Fraction(Digits(str(value.numerator)), Digits(str(value.denominator))), _PRODUCT
    digits, _, power = text.partition("e")
    if not power:
        return Digits(text), _ATOM
    above = row(Sign("−"), Digits(power[1:])) if power.startswith("-") else Digits(power)
    return row(Digits(digits), Sign("·"), Script(Digits("10"), above=above)), _PRODUCT
