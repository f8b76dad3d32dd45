"""Passes: which reductions a formula really needs, and in which pass over the keys each can be computed.

Turns the weights with all their nested reductions into primitive row statistics, each a reduction over the keys with
the number of its pass, and the output's terms. A statistic that depends on an earlier one is rewritten by separation
where possible; homogeneous stages cancel by themselves, since sympy then divides equal powers. Knows nothing of
numerical stability.
"""

from dataclasses import dataclass

from attngen import ir
from attngen.analysis import functions as fn
from attngen.analysis import symbolic as sy
from attngen.analysis.functions import Sym
from attngen.analysis.roots import formulas_of, gradient_summand, rewritten
from attngen.analysis.separate import PAIR_NAMES, Scope, Term, offset_and_factor, separate
from attngen.analysis.spelling import spell
from attngen.analysis.symbolic import Implicit, Statistic

# A term of the output costs a product with the values; recomputing the scores with all statistics known costs one
# product more than a single term. Three terms are where the second pass begins to pay.
MOST_OUTPUT_TERMS = 2


@dataclass(frozen=True)
class Staged:
    """The reductions of a formula in order of their passes; `weights` uses their symbols."""

    statistics: tuple[Statistic, ...]
    pass_of: dict[Sym, int]  # statistic's symbol -> pass
    weights: Sym
    terms: tuple[Term, ...]  # of the output, all accumulated in the last pass
    score: Sym
    scope: Scope
    has_output: bool  # whether a last step follows the weighted sum
    slope_of: dict[Sym, str]  # symbol of a sum that a root's gradients need -> name of the root

    @property
    def n_passes(self) -> int:
        """The last pass accumulates the output; it comes behind all roots, whose passes are walked for every trial."""
        behind = [self.pass_of[s.symbol] + 1 for s in self.statistics if s.implicit]
        return 1 + max([0, *self.pass_of.values(), *behind, *(self._pass_needed(t.f) for t in self.terms)])

    def _pass_needed(self, expr: Sym) -> int:
        return pass_needed(expr, self.pass_of)


def pass_needed(expr: Sym, pass_of: dict[Sym, int]) -> int:
    """The first pass in which every statistic that `expr` uses is known."""
    return max((pass_of[s] + 1 for s in attached_symbols(expr) if s in pass_of), default=0)


def attached_symbols(expr: Sym) -> set[Sym]:
    """What `expr` uses, twins as their originals; attached as a whole, a statistic would cancel against its twin."""
    return {sy.attach(symbol) for symbol in expr.free_symbols}


def pair_symbols(normalizer: ir.Normalizer) -> frozenset[Sym]:
    """Symbols that vary from key to key, with their twins."""
    names = PAIR_NAMES | {i.name for i in normalizer.inputs if "key" in i.axes}
    return frozenset(s for name in names for s in (sy.atom(name), sy.twin(sy.atom(name))))


def stage(normalizer: ir.Normalizer) -> Staged:
    """The statistics, their passes and the output's terms of a normalizer."""
    found = sy.Thawed()
    score = sy.thaw(normalizer.score, sy.Thawed())
    weights = sy.thaw(normalizer.weights, found)
    pair = pair_symbols(normalizer)
    s = sy.atom("s")
    scores = {s: score, sy.twin(s): sy.twins_of(score)}
    primitives = _Primitives(pair)
    definitions: dict[Sym, Sym] = dict(scores)
    for statistic in found.statistics.values():
        value = primitives.defined(statistic, definitions)
        definitions[statistic.symbol] = value
        definitions[sy.twin(statistic.symbol)] = sy.twins_of(value)
    weights = spell(weights.xreplace(definitions))
    return _finish(weights, score, primitives, normalizer.output != ir.Name("o"))


def _finish(weights: Sym, score: Sym, primitives: "_Primitives", has_output: bool) -> Staged:
    scope = primitives.scope()
    terms = separate(weights, scope) or (Term(fn.ONE, fn.ZERO),)  # weights of zero are a term as well
    together = has_output and not any(scope.uses_statistics(t.h) for t in terms)  # so as to share a pivot
    if together or sum(not scope.is_row(t.f) for t in terms) > MOST_OUTPUT_TERMS:
        terms = (Term(fn.ONE, weights),)
    weights = sy.Add(*(t.h * t.f for t in terms))  # separated, so that what cancels is gone
    used = _needed(weights, primitives.statistics)
    pass_of = {s.symbol: primitives.pass_of[s.symbol] for s in used}
    return Staged(used, pass_of, weights, terms, score, scope, has_output, primitives.slope_of)


def _needed(weights: Sym, statistics: tuple[Statistic, ...]) -> tuple[Statistic, ...]:
    """Cancellation leaves statistics that nothing uses any more. A root uses some behind it, for its gradients."""
    wanted, size = attached_symbols(weights), -1
    while len(wanted) > size:
        size = len(wanted)
        for statistic in statistics:
            if statistic.symbol in wanted:
                wanted |= used_by(statistic)
    return tuple(s for s in statistics if s.symbol in wanted)


def used_by(statistic: Statistic) -> set[Sym]:
    """The symbols that a statistic is made of, those of the trials of a root among them."""
    formulas = [statistic.body, *(formulas_of(statistic.implicit) if statistic.implicit else ())]
    return set().union(*map(attached_symbols, formulas))


class _Primitives:
    """The primitive statistics found so far."""

    def __init__(self, pair: frozenset[Sym]) -> None:
        self.pair = pair
        self.found = sy.Thawed("%z")
        self.pass_of: dict[Sym, int] = {}
        self.root_passes: set[int] = set()
        self.slope_of: dict[Sym, str] = {}

    @property
    def statistics(self) -> tuple[Statistic, ...]:
        return tuple(self.found.statistics.values())

    def scope(self) -> Scope:
        symbols = [s.symbol for s in self.statistics]
        return Scope(self.pair, frozenset([*symbols, *map(sy.twin, symbols)]))

    def defined(self, statistic: Statistic, definitions: dict[Sym, Sym]) -> Sym:
        """A statistic of the formula in terms of primitive statistics; `definitions` are those of earlier ones."""
        if statistic.implicit is None:
            return self.value(statistic.kind, spell(statistic.body.xreplace(definitions)))
        return self._root(rewritten(statistic.implicit, lambda formula: spell(formula.xreplace(definitions))))

    def _root(self, implicit: Implicit) -> Sym:
        """A pass of its own, which is walked again for every trial; then the sums that its gradients need."""
        needed = max(pass_needed(formula, self.pass_of) for formula in formulas_of(implicit))
        while needed in self.pass_of.values():
            needed += 1
        symbol = self.found.root(implicit)
        self.root_passes.add(needed)
        self.pass_of[symbol] = needed
        before = set(self.pass_of)
        gradient = gradient_summand(implicit, symbol, lambda body: self.value("sum", body))
        self.slope_of |= {s: implicit.unknown.name for s in self.pass_of if s not in before}
        self.found.complete(symbol, gradient)
        return symbol

    def value(self, kind: str, body: Sym) -> Sym:
        """The reduction of `body` in terms of primitive statistics."""
        scope = self.scope()
        if kind == "sum":
            return sy.Add(*(t.h * self._sum(t.f) for t in separate(body, scope)))
        offset, factor, rest = offset_and_factor(body, scope)
        if rest.func is sy.exp:  # the exponent's extremum stays finite where the exponential doesn't
            return offset + factor * sy.exp(self.value(kind, rest.args[0]))
        return offset if rest == 0 else offset + factor * self._primitive(kind, rest)

    def _sum(self, body: Sym) -> Sym:
        return sy.atom("n") if body == 1 else self._primitive("sum", body)

    def _primitive(self, kind: str, body: Sym) -> Sym:
        needed = pass_needed(body, self.pass_of)
        while needed in self.root_passes:
            needed += 1
        symbol = self.found.reduction(kind, body)
        self.pass_of.setdefault(symbol, needed)
        return symbol
