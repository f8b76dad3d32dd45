"""Long formulas made readable: known formulas are written by their name, and what repeats gets a name.

Sums and products are compared as such, whatever the order of their operands: in `bias + qk * scale - m` the score
`scale * qk + bias` is found. Values don't change; nothing is expanded or simplified.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from attngen import ir, notation
from attngen.emit.arrange import addends, factors
from attngen.ir import Apply, Expr, Name, Number

_SUMS, _PRODUCTS = ("add", "sub", "neg"), ("mul", "div")
LONG = 24  # characters from which on a formula that repeats is worth a name


@lru_cache(maxsize=4096)
def key(expr: Expr) -> Any:
    """Equal for formulas that differ in the order of terms and factors alone."""
    match expr:
        case Apply(op) if op in _SUMS:
            return "sum", tuple(sorted(((sign, key(term)) for sign, term in addends(expr)), key=repr))
        case Apply(op) if op in _PRODUCTS:
            sign, over, under = factors(expr)
            return "product", sign, *(tuple(sorted(map(key, part), key=repr)) for part in (over, under))
        case Apply(op, args):
            return op, *map(key, args)
        case ir.Reduce(kind, body):
            return kind, None if body is None else key(body)
        case ir.Root(variable, residual, low, high):
            return "root", variable, *map(key, (residual, low, high))
        case Name(name):
            return "name", name
        case Number(value):
            return "number", value


def replaced(expr: Expr, target: Expr, name: Expr) -> Expr:
    """`expr` with `target` written as `name`, also where it is a part of a longer sum or product."""
    if key(expr) == key(target):
        return name
    expr = ir.with_children(expr, tuple(replaced(child, target, name) for child in ir.children(expr)))
    if not isinstance(expr, Apply) or not isinstance(target, Apply):
        return expr
    if expr.op in _SUMS and target.op in ("add", "sub"):
        return _in_sum(expr, target, name)
    if expr.op in _PRODUCTS and target.op in _PRODUCTS:
        return _in_product(expr, target, name)
    return expr


def _in_sum(expr: Expr, target: Expr, name: Expr) -> Expr:
    terms = addends(expr)
    for turned in (1, -1):
        rest = _without(terms, [(turned * sign, term) for sign, term in addends(target)])
        if rest is not None:
            return _sum([(turned, name), *rest])
    return expr if terms[0][0] > 0 else _sum(terms)


def _in_product(expr: Expr, target: Expr, name: Expr) -> Expr:
    (sign, over, under), (turned, wanted_over, wanted_under) = factors(expr), factors(target)
    rest_over = _without([(1, f) for f in over], [(1, f) for f in wanted_over])
    rest_under = _without([(1, f) for f in under], [(1, f) for f in wanted_under])
    if rest_over is None or rest_under is None:
        return expr
    product = _product([*(f for _, f in rest_over), name])
    if rest_under:
        product = ir.apply("div", product, _product([f for _, f in rest_under]))
    return product if sign == turned else ir.apply("neg", product)


Terms = list[tuple[int, Expr]]


def _without(terms: Terms, wanted: Terms) -> Terms | None:
    """The terms that are left when the wanted ones are taken away, None if one of them isn't there."""
    missing = Counter((sign, key(term)) for sign, term in wanted)
    rest = []
    for sign, term in terms:
        if missing[sign, key(term)] > 0:
            missing[sign, key(term)] -= 1
        else:
            rest.append((sign, term))
    return None if +missing else rest


def _sum(terms: Terms) -> Expr:
    ordered = [t for t in terms if t[0] > 0] + [t for t in terms if t[0] < 0]
    sign, total = ordered[0]
    total = total if sign > 0 else ir.apply("neg", total)
    for sign, term in ordered[1:]:
        total = ir.apply("add" if sign > 0 else "sub", total, term)
    return total


def _product(parts: list[Expr]) -> Expr:
    return parts[0] if len(parts) == 1 else ir.apply("mul", *parts)


@dataclass(frozen=True, slots=True)
class Shared:
    """Formulas over names for what repeats, and what the names stand for, each using earlier ones only."""

    formulas: tuple[Expr, ...]
    definitions: tuple[tuple[str, Expr], ...]


def share(formulas: Iterable[Expr]) -> Shared:
    """Names `$x1`, `$x2`, ... for long subformulas that occur more than once, longest first."""
    exprs, names = list(formulas), list[str]()
    own = len(exprs)
    while (repeated := _longest_repeated(exprs)) is not None:
        names.append(f"$x{len(names) + 1}")
        exprs = [replaced(expr, repeated, Name(names[-1])) for expr in exprs] + [repeated]
    return _numbered(exprs[:own], dict(zip(names, exprs[own:], strict=True)))


def _longest_repeated(exprs: list[Expr]) -> Expr | None:
    found = Counter[Any]()
    first: dict[Any, Expr] = {}
    for expr in exprs:
        for node in ir.walk(expr):
            if isinstance(node, Apply) and node.op not in ir.CONDITIONS:
                found[key(node)] += 1
                first.setdefault(key(node), node)
    repeated = [first[k] for k, count in found.items() if count > 1 and is_long(first[k])]
    return max(repeated, key=_length, default=None)


def is_long(expr: Expr) -> bool:
    """Whether a formula is worth a name."""
    return _length(expr) >= LONG


def _length(expr: Expr) -> int:
    return len(notation.text(expr))


def _numbered(exprs: list[Expr], definitions: dict[str, Expr]) -> Shared:
    """The definitions in an order in which each uses earlier ones, numbered in that order."""
    order: list[str] = []
    while len(order) < len(definitions):
        order += [
            n for n, e in definitions.items() if n not in order and ir.names(e) & definitions.keys() <= set(order)
        ]
    new: dict[str, Expr] = {old: Name(f"$x{number}") for number, old in enumerate(order, 1)}
    renamed = tuple((f"$x{n}", ir.substitute(definitions[old], new)) for n, old in enumerate(order, 1))
    return Shared(tuple(ir.substitute(expr, new) for expr in exprs), renamed)
