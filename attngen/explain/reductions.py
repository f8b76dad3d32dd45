"""Which reduction each row statistic stands for, so that meanings and adjoints can speak of statistics.

The analysis numbers the reductions of a formula in the order in which it met them, and its `meaning`s and adjoints use
those names. Statistics are listed pass by pass; their names end in that number if several of a kind are there. This
finds the order of the statistics that agrees with the numbers and with the passes.
"""

import re
from collections.abc import Iterator

from attngen import ir
from attngen.analysis.result import Analysis, RowStatistic

Order = tuple[RowStatistic, ...]


def statistic_of(analysis: Analysis) -> dict[str, str]:
    """The analysis' name of each reduction -> its statistic."""
    names = [adjoint.statistic for adjoint in reversed(analysis.adjoints)]
    queues = tuple(tuple(p.statistics) for p in analysis.forward.passes)
    order = next(_orders(names, queues, {}), tuple(s for queue in queues for s in queue))
    return {name: statistic.name for name, statistic in zip(names, order, strict=True)}


def _orders(names: list[str], queues: tuple[Order, ...], placed: dict[str, int]) -> Iterator[Order]:
    """Every way to hand out the names: in order within a pass, each reduction in the first pass that it can be in."""
    if len(placed) == len(names):
        yield ()
        return
    for number, queue in enumerate(queues):
        if queue and _may_be(queue[0], len(placed) + 1) and _first_pass(queue[0], names, placed) == number:
            rest = (*queues[:number], queue[1:], *queues[number + 1 :])
            for order in _orders(names, rest, placed | {names[len(placed)]: number}):
                yield (queue[0], *order)


def _may_be(statistic: RowStatistic, position: int) -> bool:
    numbered = re.search(r"(\d+)_*$", statistic.name)
    return numbered is None or int(numbered[1]) == position


def _first_pass(statistic: RowStatistic, names: list[str], placed: dict[str, int]) -> int | None:
    """The pass behind those of the reductions that this one uses; None if one of them has no pass yet."""
    used = ir.names(statistic.meaning) & set(names)
    if not used <= placed.keys():
        return None
    return max((placed[name] + 1 for name in used), default=0)
