"""The names and formulas of one explanation, and small pieces of wording that its sections share."""

from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction

from attngen import ir
from attngen.explain.document import Inline, Line
from attngen.explain.shorten import replaced
from attngen.explain.symbols import Symbols, relative, symbols_of
from attngen.ir import Expr, Name
from attngen.schedule import OpPlan

DOT_PRODUCT, SCORE, WEIGHTS = Name("qk"), Name("s"), Name("$p")
NUMBER_WORDS = ("no", "one", "two", "three", "four", "five", "six")


@dataclass(frozen=True, slots=True)
class Words:
    """`statistic_of`: the name under which the analysis speaks of a reduction -> the statistic's."""

    plan: OpPlan
    symbols: Symbols
    statistic_of: dict[str, str]

    def reduction(self, statistic: str) -> Name:
        """What a statistic reduces to: the statistic itself, unless it is a logarithm or relative to a pivot."""
        return Name(f"$r:{statistic}" if statistic in relative(self.plan) else statistic)

    def meant(self, expr: Expr) -> Expr:
        """A `meaning` or an adjoint, which speak of reductions."""
        return self.shown(ir.substitute(expr, {old: self.reduction(name) for old, name in self.statistic_of.items()}))

    def shown(self, expr: Expr) -> Expr:
        """A formula of the analysis over the score."""
        score = self.plan.analysis.score
        return replaced(expr, score, SCORE) if "qk" in ir.names(score) else expr

    def weighted(self, expr: Expr) -> Expr:
        """The same for the backward, where the weights may occur."""
        weights = self.shown(self.plan.analysis.backward.weights)
        shown = self.shown(expr)
        return replaced(shown, weights, WEIGHTS) if isinstance(weights, ir.Apply) else shown


def words_of(plan: OpPlan) -> Words:
    return Words(plan, symbols_of(plan), _statistic_of(plan))


def product(*factors: Expr) -> Expr:
    """The product, without factors of one."""
    kept = [f for f in factors if f != ir.number(1)]
    if not kept:
        return ir.number(1)
    return kept[0] if len(kept) == 1 else ir.apply("mul", *kept)


def total(terms: Iterable[Expr]) -> Expr:
    """The sum of what isn't zero."""
    kept = [t for t in terms if t != ir.number(0)]
    if not kept:
        return ir.number(0)
    return kept[0] if len(kept) == 1 else ir.apply("add", *kept)


def multiple(count: int | Fraction, factor: Expr) -> Expr:
    return ir.number(0) if count == 0 else product(ir.number(count), factor)


def listed(items: Iterable[Inline]) -> Line:
    """Items as a sentence lists them: a, b and c."""
    line: list[Inline] = []
    parts = list(items)
    for position, item in enumerate(parts):
        if position:
            line.append(" and " if position == len(parts) - 1 else ", ")
        line.append(item)
    return tuple(line)


def counted(count: int, singular: str, plural: str) -> str:
    word = NUMBER_WORDS[count] if count < len(NUMBER_WORDS) else str(count)
    return f"{word} {singular if count == 1 else plural}"


def _statistic_of(plan: OpPlan) -> dict[str, str]:
    return {s.symbol: s.name for this in plan.analysis.forward.passes for s in this.statistics}
