"""Arrangement: formulas -> statements in the places of a kernel where they are cheapest.

Shared subformulas are computed once; what doesn't change inside the tile loop moves in front of it; factors and
addends are grouped such that as much as possible does so; a vector is finished before it is spread over a tile. The
value of a formula doesn't change but for rounding. It knows nothing of any target language; what that wants rewritten
beforehand comes as a function.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from attngen import ir
from attngen.emit.constants import folded
from attngen.ir import Apply, Expr, Name, Number

MOST_NODES = 14  # of one statement; longer formulas are cut into several


@dataclass(frozen=True, slots=True, order=True)
class Place:
    """What a value depends on: the query's row, the key's column, and whether it changes inside the tile loop."""

    row: bool = False
    key: bool = False
    loop: bool = False

    def __or__(self, other: "Place") -> "Place":
        return Place(self.row or other.row, self.key or other.key, self.loop or other.loop)

    @property
    def rank(self) -> int:
        return 4 * self.loop + self.row + self.key


@dataclass(frozen=True, slots=True)
class Statement:
    name: str
    expr: Expr
    place: Place


@dataclass(frozen=True, slots=True)
class Arranged:
    """`outer` stands before the tile loop, `inner` inside it, both in order of dependence."""

    outer: tuple[Statement, ...]
    inner: tuple[Statement, ...]

    def depending_on(self, names: Iterable[str]) -> tuple[Statement, ...]:
        """The inner statements that need one of `names`, directly or not."""
        reached = set(names)
        chosen = []
        for statement in self.inner:
            if not reached.isdisjoint(ir.names(statement.expr)):
                reached.add(statement.name)
                chosen.append(statement)
        return tuple(chosen)


@dataclass
class _Arrangement:
    places: Mapping[str, Place]
    prefix: str
    statements: list[Statement] = field(default_factory=list)
    known: dict[Expr, Name] = field(default_factory=dict)
    uses: Counter[Expr] = field(default_factory=Counter)
    cache: dict[Expr, Place] = field(default_factory=dict)
    grouped: dict[Expr, Expr] = field(default_factory=dict)

    def place(self, expr: Expr) -> Place:
        if isinstance(expr, Name):
            return self.places[expr.id]
        if expr not in self.cache:
            found = Place()
            for child in ir.children(expr):
                found |= self.place(child)
            self.cache[expr] = found
        return self.cache[expr]


def arrange(
    targets: Mapping[str, Expr], places: Mapping[str, Place], lower: Callable[[Expr], Expr], prefix: str = "t"
) -> Arranged:
    """Statements that compute `targets`; temporaries are called `prefix` with a number."""
    state = _Arrangement(dict(places), prefix)
    grouped = {name: _grouped(lowered(expr, lower), state) for name, expr in targets.items()}
    for expr in grouped.values():
        _count(expr, state.uses)
    for name, expr in grouped.items():
        value = _emit(expr, state, top=True)
        place = state.place(value)
        state.statements.append(Statement(name, value, place))
        state.places = {**state.places, name: place}
        if not isinstance(value, Name | Number):
            state.known.setdefault(expr, Name(name))
    outer = tuple(s for s in state.statements if not s.place.loop)
    return Arranged(outer, tuple(s for s in state.statements if s.place.loop))


def lowered(expr: Expr, lower: Callable[[Expr], Expr]) -> Expr:
    """`expr` in the operations that the target has, from the leaves up; what is constant is computed."""
    children = tuple(lowered(child, lower) for child in ir.children(expr))
    constant = folded(ir.with_children(expr, children) if children else expr)
    return constant if isinstance(constant, Number) else lower(constant)


def _grouped(expr: Expr, state: _Arrangement) -> Expr:
    """Sums and products with their operands grouped by place, the ones that change least first."""
    if expr not in state.grouped:  # formulas repeat their parts
        state.grouped[expr] = _regrouped(expr, state)
    return state.grouped[expr]


def _regrouped(expr: Expr, state: _Arrangement) -> Expr:
    if isinstance(expr, Apply) and expr.op in ("add", "sub", "neg"):
        return _grouped_sum(expr, state)
    if isinstance(expr, Apply) and expr.op in ("mul", "div"):
        return _grouped_product(expr, state)
    return ir.with_children(expr, tuple(_grouped(child, state) for child in ir.children(expr)))


def addends(expr: Expr, sign: int = 1) -> list[tuple[int, Expr]]:
    """The terms of a nested sum with their signs."""
    match expr:
        case Apply("add", args):
            return [term for a in args for term in addends(a, sign)]
        case Apply("sub", (a, b)):
            return addends(a, sign) + addends(b, -sign)
        case Apply("neg", (a,)):
            return addends(a, -sign)
    return [(sign, expr)]


def factors(expr: Expr) -> tuple[int, list[Expr], list[Expr]]:
    """Sign, numerator and denominator of a nested product."""
    match expr:
        case Apply("mul", args):
            parts = [factors(a) for a in args]
            sign = 1
            for part in parts:
                sign *= part[0]
            return sign, [f for p in parts for f in p[1]], [f for p in parts for f in p[2]]
        case Apply("div", (a, b)):
            (sign_a, above, below), (sign_b, above_b, below_b) = factors(a), factors(b)
            return sign_a * sign_b, above + below_b, below + above_b
        case Apply("neg", (a,)):
            sign, above, below = factors(a)
            return -sign, above, below
        case Number(value) if value == 1:
            return 1, [], []
    return 1, [expr], []


def _grouped_sum(expr: Apply, state: _Arrangement) -> Expr:
    terms = [(sign, _grouped(term, state)) for sign, term in addends(expr)]
    flat = [(outer * inner, t) for outer, term in terms for inner, t in addends(term)]
    flat.sort(key=lambda term: (state.place(term[1]).rank, state.place(term[1])))
    if flat[0][0] < 0:  # begin with a positive term of the same place, if there is one
        first = next((t for t in flat if t[0] > 0 and state.place(t[1]) == state.place(flat[0][1])), flat[0])
        flat.remove(first)
        flat.insert(0, first)
    sign, total = flat[0]
    total = ir.apply("neg", total) if sign < 0 else total
    for sign, term in flat[1:]:
        total = _joined(total, sign, term)
    return total


def _joined(total: Expr, sign: int, term: Expr) -> Expr:
    match total:
        case Apply("neg", (negated,)) if sign > 0:
            return ir.apply("sub", term, negated)
    return ir.apply("add" if sign > 0 else "sub", total, term)


def _grouped_product(expr: Apply, state: _Arrangement) -> Expr:
    """Row-level denominators become reciprocals, so that a tile is multiplied, not divided.

    A square takes its root's twice, the second behind all else: 1 / z may be near the end of the range, and what it
    multiplies as small as z. So may 1 / sqrt(z).
    """
    sign, above, below = factors(expr)
    above = [_grouped(f, state) for f in above]
    below = [_grouped(f, state) for f in below]
    widest = max(state.place(f).rank for f in [*above, *below, ir.number(1)])
    hoisted = [f for f in below if state.place(f).rank < widest]
    below = [f for f in below if f not in hoisted]
    above += [ir.apply("div", ir.number(1), root) for f in hoisted for root in _roots(f)]
    above.sort(key=lambda f: (state.place(f).rank, state.place(f)))
    product = _product(_apart(above))
    if below:
        product = ir.apply("div", product, _product(below))
    return ir.apply("neg", product) if sign < 0 else product


def _apart(product: list[Expr]) -> list[Expr]:
    """The factors with further reciprocals of the same names behind all others."""
    once: list[Expr] = []
    again: list[Expr] = []
    for factor in product:
        divided = [ir.names(f) for f in once if _is_reciprocal(f)]
        (again if _is_reciprocal(factor) and ir.names(factor) in divided else once).append(factor)
    return once + again


def _is_reciprocal(expr: Expr) -> bool:
    return isinstance(expr, Apply) and expr.op == "div" and expr.args[0] == ir.number(1)


def _roots(expr: Expr) -> list[Expr]:
    """Factors of a square, and those of its root."""
    match expr:
        case Apply("square", (root,)):
            return 2 * _roots(root)
    return [expr]


def _product(parts: list[Expr]) -> Expr:
    if not parts:
        return ir.number(1)
    total = parts[0]
    for part in parts[1:]:
        total = ir.apply("mul", total, part)
    return total


def _count(expr: Expr, uses: Counter[Expr]) -> None:
    uses[expr] += 1
    if uses[expr] == 1:
        for child in ir.children(expr):
            _count(child, uses)


def _size(expr: Expr) -> int:
    return 1 + sum(map(_size, ir.children(expr)))


def _emit(expr: Expr, state: _Arrangement, top: bool = False) -> Expr:
    """`expr` with shared, hoisted and narrower subformulas replaced by names; their statements are appended."""
    if isinstance(expr, Name | Number):
        return expr
    if expr in state.known:
        return state.known[expr]
    here = state.place(expr)
    children = [_emit(child, state) for child in ir.children(expr)]
    for index, child in enumerate(children):
        narrower = state.place(child) != here and here.loop
        too_long = _size(child) > 1 and sum(map(_size, children)) >= MOST_NODES
        if not isinstance(child, Name | Number) and (narrower or too_long):
            children[index] = _bind(ir.children(expr)[index], child, state)
    value = ir.with_children(expr, tuple(children))
    if not top and state.uses[expr] > 1:
        return _bind(expr, value, state)
    return value


def _bind(original: Expr, value: Expr, state: _Arrangement) -> Name:
    if original not in state.known:
        name = f"{state.prefix}{sum(s.name.startswith(state.prefix) for s in state.statements) + 1}"
        place = state.place(value)
        state.statements.append(Statement(name, value, place))
        state.places = {**state.places, name: place}
        state.known[original] = Name(name)
    return state.known[original]
