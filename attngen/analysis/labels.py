"""The spec's own names for row statistics: a `let` that is a reduction, or the logarithm of one.

Compares what a let means with what the statistics mean, once both are brought into primitive form. A let that is more
than that, such as a mean, which is a sum over a count, names no statistic.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from attngen import ir
from attngen.analysis import symbolic as sy
from attngen.analysis.freeze import freeze
from attngen.analysis.passes import Staged, stage
from attngen.analysis.roots import meaning_of_root


@dataclass(frozen=True, slots=True)
class Label:
    """A let's name, and whether it stands for the logarithm of the statistic."""

    name: str
    logarithmic: bool


def labels(normalizer: ir.Normalizer, staged: Staged) -> dict[str, Label]:
    """Symbols of statistics -> what the first let that is one calls it."""
    known = {meaning: symbol for symbol, meaning in _written_out(staged).items()}
    found: dict[str, Label] = {}
    for label, reduction in _reductions(normalizer):
        alone = stage(replace(normalizer, weights=reduction))
        meaning = _written_out(alone).get(str(alone.weights))
        if meaning in known:
            found.setdefault(known[meaning], label)
    return found


def _reductions(normalizer: ir.Normalizer) -> Iterator[tuple[Label, ir.Expr]]:
    for name, body in normalizer.lets:
        match body:
            case ir.Reduce():
                yield Label(name, False), body
            case ir.Apply("log", (ir.Reduce() as reduction,)):
                yield Label(name, True), reduction


def _written_out(staged: Staged) -> dict[str, ir.Expr]:
    """Each statistic as a reduction, in which the earlier ones are written out."""
    found: dict[str, ir.Expr] = {}
    for statistic in staged.statistics:
        if statistic.implicit is not None:
            found[statistic.symbol.name] = ir.substitute(meaning_of_root(statistic.implicit), found)
            continue
        body = ir.substitute(freeze(sy.attach(statistic.body)), found)
        found[statistic.symbol.name] = ir.Reduce(statistic.kind, body)  # type: ignore[arg-type]
    return found
