"""Statements: the formulas of a plan as lines of source text, kernel by kernel.

For each loop over tiles it arranges the formulas, prints them, and says which builtins and inputs the lines use, so
that a template loads just those. It decides nothing that a template could see otherwise: templates hold structure,
these hold mathematics.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fractions import Fraction

from attngen import ir
from attngen.analysis.result import Accumulator, Carry, ForwardPass, Pivot, Root
from attngen.emit.arrange import Arranged, Place, Statement, arrange, factors, lowered
from attngen.emit.lines import computed
from attngen.emit.printers import Printer
from attngen.ir import Apply, Expr, Name, Number
from attngen.schedule import OpPlan

SUPPORT = "support"  # the target that says whether a tile adds anything
UNIFORM, PAIR = Place(), Place(row=True, key=True, loop=True)
_BUILTIN_PLACES = {"scale": UNIFORM, "d": UNIFORM, "n_q": UNIFORM, "n_k": UNIFORM, "pi": UNIFORM, "LOG2E": UNIFORM}


@dataclass(frozen=True, slots=True)
class Loop:
    """Which side of a tile stays while the other is walked over."""

    keys_move: bool

    @property
    def row(self) -> Place:
        return Place(row=True, loop=not self.keys_move)

    @property
    def key(self) -> Place:
        return Place(key=True, loop=self.keys_move)


OVER_KEYS, OVER_QUERIES = Loop(keys_move=True), Loop(keys_move=False)


@dataclass(frozen=True, slots=True)
class InputUse:
    """An input as a kernel sees it: its place among the op's inputs, its axes, its level: uniform, row, key or pair."""

    name: str
    position: int
    axes: tuple[str, ...]
    level: str


@dataclass(frozen=True, slots=True)
class Uses:
    """What the lines of a loop refer to, besides carries and row values."""

    builtins: frozenset[str]
    inputs: tuple[InputUse, ...]

    def __or__(self, other: "Uses") -> "Uses":
        return Uses(self.builtins | other.builtins, tuple(dict.fromkeys((*self.inputs, *other.inputs))))


@dataclass(frozen=True, slots=True)
class Lines:
    """Source lines before the tile loop and inside it, and the text of each target.

    `leading` are those of the inner lines that lead to the target `support`, which must be the first.
    """

    outer: tuple[str, ...]
    leading: tuple[str, ...]
    inner: tuple[str, ...]
    text: Mapping[str, str]
    tile: Mapping[str, str]  # the same, spread over a whole tile of scores
    uses: Uses
    places: Mapping[str, Place]  # of what each line computes


@dataclass(frozen=True, slots=True)
class PivotText:
    """`least` is what a row without keys has; formulas see `neutral` in its place.

    `factor` is what was taken out of the exponent, to be multiplied to its maximum, or empty.
    """

    name: str
    exponent: str
    factor: str
    least: str
    neutral: str
    rescales: tuple[tuple[str, str], ...]  # (name, text) of the factors on what was carried so far


@dataclass(frozen=True, slots=True)
class CarryText:
    """`rescale` is the name of the factor for a grown pivot, or None. `kind` is sum, amax or amin."""

    name: str
    kind: str
    body: str
    rescale: str | None


@dataclass(frozen=True, slots=True)
class AccumulatorText:
    """`by_columns`: the weight, then `column`, is the same for all rows; a full tile needs a column sum alone."""

    name: str
    body: str
    column: str
    rescale: str | None
    by_columns: bool


@dataclass(frozen=True, slots=True)
class RootText:
    """The search of a pass: lines and text of the bounds, and what of a walk's carries leads to the next trial."""

    name: str
    bounds: tuple[str, ...]
    low: str
    high: str
    lines: tuple[str, ...]
    residual: str
    slope: str
    curvature: str
    magnitude: str
    size: str
    direction: float
    uses: Uses


@dataclass(frozen=True, slots=True)
class PassText:
    """One pass over the keys. Lines `before` lead to the pivots' exponents, lines `after` need the new pivots.

    A tile on which `support` is nowhere positive adds nothing to the accumulators.
    """

    outer: tuple[str, ...]
    before: tuple[str, ...]
    pivots: tuple[PivotText, ...]
    after: tuple[str, ...]
    carries: tuple[CarryText, ...]
    accumulators: tuple[AccumulatorText, ...]
    statistics: tuple[str, ...]
    uses: Uses
    root: RootText | None
    support: str


def input_level(spec_input: ir.Input) -> str:
    """What an input varies with inside one head: uniform, row, key or pair."""
    row, key = "query" in spec_input.axes, "key" in spec_input.axes
    return "pair" if row and key else "row" if row else "key" if key else "uniform"


class Scribe:
    """Prints a plan's formulas for one printer and one direction of the tile loop."""

    def __init__(self, plan: OpPlan, printer: Printer, loop: Loop) -> None:
        self.plan, self.printer, self.loop = plan, printer, loop
        self.inputs = {
            i.name: InputUse(i.name, n, tuple(i.axes), input_level(i)) for n, i in enumerate(plan.normalizer.inputs)
        }
        self.leaves = self._leaves()

    def _leaves(self) -> dict[str, Place]:
        row, key = self.loop.row, self.loop.key
        levels = {"uniform": UNIFORM, "row": row, "key": key, "pair": PAIR}
        backward = self.plan.analysis.backward
        leaves = {**_BUILTIN_PLACES, "qk": PAIR, backward.dp: PAIR, "i": row, "n": row, "j": key}
        leaves |= {name: levels[use.level] for name, use in self.inputs.items()}
        rows = [*self.plan.saved_rows, *([backward.delta] if backward.delta else [])]
        rows += [p.name for p in backward.products] + [p.name for p in backward.prepass]
        rows += [s.name for p in self.plan.analysis.forward.passes for s in p.statistics]
        rows += [self.plan.deferred.late] if self.plan.deferred else []
        return leaves | dict.fromkeys(rows, row)

    def support(self) -> dict[str, Expr]:
        """The first target of a loop that may pass over tiles."""
        support = self.plan.analysis.support
        return {} if support is None else {SUPPORT: support}

    def lines(self, targets: Mapping[str, Expr], leaves: Mapping[str, Place] | None = None, prefix: str = "t") -> Lines:
        """Lines that compute `targets`; `leaves` are places of further names."""
        return self._print(self._arranged(targets, leaves or {}, prefix), targets, leaves or {})

    def _arranged(self, targets: Mapping[str, Expr], leaves: Mapping[str, Place], prefix: str) -> Arranged:
        return arrange(targets, {**self.leaves, **leaves}, self.printer.lower, prefix)

    def _print(self, arranged: Arranged, targets: Mapping[str, Expr], leaves: Mapping[str, Place]) -> Lines:
        statements = arranged.outer + arranged.inner
        places = {**self.leaves, **leaves, **{s.name: s.place for s in statements}}
        aliases = {s.name: s.expr for s in statements if isinstance(s.expr, Name | Number)}
        shown = {s.name: self._line(s, places, aliases) for s in statements if s.name not in aliases}
        text = {name: self._text(_resolved(Name(name), aliases), places, places[name]) for name in targets}
        inner = tuple(s.name for s in arranged.inner)
        first = inner.index(SUPPORT) + 1 if next(iter(targets), None) == SUPPORT else 0
        return Lines(
            tuple(shown[s.name] for s in arranged.outer if s.name in shown),
            tuple(shown[name] for name in inner[:first] if name in shown),
            tuple(shown[name] for name in inner[first:] if name in shown),
            text,
            {name: self._spread(_resolved(Name(name), aliases), text[name], places) for name in targets},
            self._uses(s.expr for s in statements),
            {s.name: s.place for s in statements},
        )

    def _line(self, statement: Statement, places: Mapping[str, Place], aliases: Mapping[str, Expr]) -> str:
        return f"{statement.name} = {self._text(ir.substitute(statement.expr, dict(aliases)), places, statement.place)}"

    def _text(self, expr: Expr, places: Mapping[str, Place], here: Place) -> str:
        renamed = {name: _variable(name, name in self.inputs) for name in ir.names(expr)}
        moved = {renamed[name]: places[name] for name in ir.names(expr)}
        return self.printer.text(ir.substitute(expr, {k: Name(v) for k, v in renamed.items()}), moved, here)

    def _spread(self, value: Expr, text: str, places: Mapping[str, Place]) -> str:
        if isinstance(value, Name):
            place = places[value.id]
            if place.row and place.key:
                return text
            text = self.printer.spread(text, place) if place.row or place.key else text
        return f"{text} + {self.printer.blank}"

    def _uses(self, exprs: Iterable[Expr]) -> Uses:
        found = frozenset().union(*map(ir.names, exprs))
        return Uses(
            found & (frozenset(ir.BUILTINS) | {"LOG2E"}),
            tuple(use for name, use in self.inputs.items() if name in found),
        )

    def inline(self, expr: Expr) -> str:
        """One formula as one expression."""
        return self._text(lowered(expr, self.printer.lower), self.leaves, UNIFORM)

    def pass_places(self, index: int) -> Mapping[str, Place]:
        """What each line of a pass of the forward varies with."""
        arranged, _ = self._arranged_pass(index)
        return {s.name: s.place for s in (*arranged.outer, *arranged.inner)}

    def _arranged_pass(self, index: int) -> tuple[Arranged, Lines]:
        this, accumulators = self.plan.analysis.forward.passes[index], self._accumulators(index)
        targets = {_exponent(p): self._split(p.exponent)[1] for p in this.pivots}
        targets |= {_term(c): c.body for c in this.carries} | {_term(a): a.body for a in accumulators}
        targets |= self.support() if accumulators else {}
        pivots = {p.name: Place(row=True, loop=True) for p in this.pivots}
        arranged = self._arranged(targets, pivots, f"{this.root.name}_t" if this.root else "t")
        return arranged, self._print(arranged, targets, pivots)

    def _split(self, exponent: Expr) -> tuple[Expr, Expr]:
        """A positive factor that is the same in the whole call, and the rest."""
        factor, rest = split_uniform(exponent)
        return (factor, rest) if _is_positive(factor, self.printer.positive) else (ir.number(1), exponent)

    def _accumulators(self, index: int) -> tuple[Accumulator, ...]:
        forward = self.plan.analysis.forward
        return forward.accumulators if index == len(forward.passes) - 1 else ()

    def forward_pass(self, index: int) -> PassText:
        this, accumulators = self.plan.analysis.forward.passes[index], self._accumulators(index)
        carried: list[Carry | Accumulator] = [*this.carries, *accumulators]
        pivots = [p.name for p in this.pivots]
        arranged, lines = self._arranged_pass(index)
        late = {s.name for s in arranged.depending_on(pivots)}
        names = list(map(computed, lines.inner))
        root = self._root(this.root, (*this.carries, *this.pivots)) if this.root else None
        return PassText(
            lines.outer,
            tuple(line for name, line in zip(names, lines.inner, strict=True) if name not in late),
            tuple(self._pivot(p, carried, lines) for p in this.pivots),
            tuple(line for name, line in zip(names, lines.inner, strict=True) if name in late),
            tuple(CarryText(c.name, c.kind, lines.tile[_term(c)], _rescale(c)) for c in this.carries),
            tuple(self._accumulator(a, lines, arranged) for a in accumulators),
            self._statistics(this),
            lines.uses | root.uses if root else lines.uses,
            root,
            lines.tile.get(SUPPORT, ""),
        )

    def _root(self, root: Root, trial: Iterable[Carry | Pivot]) -> RootText:
        """`trial` is what a walk leaves behind. Names of their own: a loop's variables may not change their shapes."""
        bounds = self.lines({"low": root.low, "high": root.high}, self.ended(), "u")
        formulas = root.residual, root.slope, root.curvature, root.magnitude, root.size
        names = [f"{root.name}_{what}" for what in ("residual", "slope", "curvature", "magnitude", "size")]
        places = {x.name: Place(row=True) for x in trial}
        lines = self.lines(dict(zip(names, formulas, strict=True)), places, f"{root.name}_u")
        residual, slope, curvature, magnitude, size = (lines.text[name] for name in names)
        before = bounds.outer + bounds.inner, bounds.text["low"], bounds.text["high"], lines.outer + lines.inner
        uses, direction = bounds.uses | lines.uses, float(root.direction)
        return RootText(root.name, *before, residual, slope, curvature, magnitude, size, direction, uses)

    def ended(self) -> dict[str, Place]:
        """The names that passes leave behind beside their statistics."""
        passes = self.plan.analysis.forward.passes
        names = [x.name for p in passes for group in (p.carries, p.pivots) for x in group]
        return dict.fromkeys(names, Place(row=True))

    def _pivot(self, pivot: Pivot, carries: Iterable[Carry | Accumulator], lines: Lines) -> PivotText:
        old, new = Name(f"{pivot.name}_old"), Name(pivot.name)
        row = Place(row=True, loop=True)
        places = {**self.leaves, old.id: row, new.id: row}
        factors_on_old = {}
        for carry in carries:
            if carry.pivot == pivot.name:
                factor = lowered(_growth(pivot, carry.power, old, new), self.printer.lower)
                factors_on_old[str(_rescale(carry))] = self._text(factor, places, row)
        least, neutral = (self.printer.infinity, "0.0") if pivot.kind == "exponential" else ("0.0", "1.0")
        factor = self._split(pivot.exponent)[0]
        shown = "" if factor == ir.number(1) else self.inline(factor)
        rescales = tuple(factors_on_old.items())
        return PivotText(pivot.name, lines.tile[_exponent(pivot)], shown, least, neutral, rescales)

    def _accumulator(self, accumulator: Accumulator, lines: Lines, arranged: Arranged) -> AccumulatorText:
        place = next(s.place for s in (*arranged.outer, *arranged.inner) if s.name == _term(accumulator))
        by_columns = not place.row and accumulator.pivot is None
        name = _term(accumulator)
        return AccumulatorText(accumulator.name, lines.tile[name], lines.text[name], _rescale(accumulator), by_columns)

    def _statistics(self, this: ForwardPass) -> tuple[str, ...]:
        """Lines behind the loop; what a name is equal to anyway needs none."""
        row = Place(row=True)
        values = {s.name: s.value for s in this.statistics if s.value != Name(s.name)}
        leaves = {c.name: row for c in this.carries} | {p.name: row for p in this.pivots}
        lines = self.lines(values, leaves, "u")
        return lines.outer + lines.inner

    def output(self) -> Lines:
        """Row factors on the accumulators, by the names `<accumulator>_factor`."""
        forward = self.plan.analysis.forward
        targets = {f"{a.name}_factor": f for a, f in zip(forward.accumulators, forward.factors, strict=True)}
        return self.lines(targets, self.ended(), "u")


def _growth(pivot: Pivot, power: Fraction, old: Expr, new: Expr) -> Expr:
    """The factor on what was carried relative to the pivot's old value."""
    if pivot.kind == "power":
        return ir.apply("pow", ir.apply("div", old, new), Number(power))
    change = ir.apply("sub", old, new)
    return ir.apply("exp", change if power == 1 else ir.apply("mul", Number(power), change))


def _exponent(pivot: Pivot) -> str:
    return f"{pivot.name}_exponent"


def _term(carry: Carry | Accumulator) -> str:
    return f"{carry.name}_weight" if isinstance(carry, Accumulator) else f"{carry.name}_term"


def _rescale(carry: Carry | Accumulator) -> str | None:
    if carry.pivot is None:
        return None
    return (
        f"{carry.pivot}_rescale" if carry.power == 1 else f"{carry.pivot}_rescale_{str(carry.power).replace('/', '_')}"
    )


def _resolved(expr: Expr, aliases: Mapping[str, Expr]) -> Expr:
    while isinstance(expr, Name) and expr.id in aliases:
        expr = aliases[expr.id]
    return expr


def _variable(name: str, is_input: bool) -> str:
    """The kernel's variable for a name of a formula."""
    if is_input:
        return f"{name}_in"
    return {"d": "head_dim", "n_q": "query_count", "n_k": "key_count"}.get(name, name)


def split_uniform(expr: Expr) -> tuple[Expr, Expr]:
    """expr = factor * rest: what is the same in the whole call is applied once, when a sum is complete."""
    sign, above, below = factors(expr)
    outside = [f for f in above if _is_constant(f)]
    under = [f for f in below if _is_constant(f)]
    inside, inside_below = [f for f in above if f not in outside], [f for f in below if f not in under]
    rest = _quotient(inside, inside_below)
    return _quotient(outside, under), ir.apply("neg", rest) if sign < 0 else rest


def _is_positive(expr: Expr, names: frozenset[str]) -> bool:
    """Whether a product of numbers and of `names`, at least one of them, is known to be positive."""
    numbers = all(f.value > 0 for part in factors(expr)[1:] for f in part if isinstance(f, Number))
    return numbers and bool(ir.names(expr)) and ir.names(expr) <= names


def _is_constant(expr: Expr) -> bool:
    return all(name in _BUILTIN_PLACES for name in ir.names(expr))


def _quotient(above: list[Expr], below: list[Expr]) -> Expr:
    def product(parts: list[Expr]) -> Expr:
        return parts[0] if len(parts) == 1 else Apply("mul", tuple(parts)) if parts else ir.number(1)

    return ir.apply("div", product(above), product(below)) if below else product(above)
