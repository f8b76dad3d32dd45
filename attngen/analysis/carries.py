"""Carries: the stable form of each pass, and by what names its statistics are known afterwards.

Turns the primitive statistics and the output's terms into pivots, carries and accumulators. Exponents that are
proportional to each other share a pivot. An accumulator uses a pivot only if a statistic does too, since nothing else
could make up for the factor. # Note [Empty rows] a row without keys has pivot -inf; its carries are never used.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

from attngen.analysis import symbolic as sy
from attngen.analysis.passes import Staged
from attngen.analysis.stabilize import Scaled, plain, scaled
from attngen.analysis.symbolic import Statistic, Sym


@dataclass(frozen=True)
class PivotGroup:
    """m = max over keys of `exponent`."""

    symbol: Sym
    exponent: Sym
    pass_index: int


@dataclass(frozen=True)
class SymbolicCarry:
    """One carry; `statistic` is None for an accumulator. `body` is relative to the pivot if there is one."""

    symbol: Sym
    kind: str
    body: Sym
    pass_index: int
    pivot: PivotGroup | None
    power: Sym
    statistic: Statistic | None

    @property
    def total(self) -> Sym:
        """The reduction's value, from the carry as it stands when its pass ends."""
        return self.symbol if self.pivot is None else self.symbol * sy.exp(self.power * self.pivot.symbol)


@dataclass
class Carries:
    """`known`: statistic -> its value under the names that outlive its pass (and its twin likewise)."""

    groups: list[PivotGroup] = field(default_factory=list)
    carries: list[SymbolicCarry] = field(default_factory=list)
    accumulators: list[SymbolicCarry] = field(default_factory=list)
    known: dict[Sym, Sym] = field(default_factory=dict)
    logarithms: dict[Sym, Sym] = field(default_factory=dict)  # statistic -> symbol of its logarithm

    def settled(self, expr: Sym) -> Sym:
        """`expr` with statistics replaced by what is known of them after their pass, and twins attached."""
        return sy.attach(expr).xreplace(self.known)

    def fresh(self, expr: Sym) -> Sym:
        """`expr` in terms of the carries themselves, more exact than by logarithms, for the end of the last pass."""
        return sy.attach(expr).xreplace({c.statistic.symbol: c.total for c in self.carries if c.statistic})


def derive_carries(staged: Staged) -> Carries:
    result = Carries()
    for index, statistic in enumerate(staged.statistics, 1):
        _add_statistic(result, statistic, index, staged)
    last = staged.n_passes - 1
    for index, term in enumerate(staged.terms, 1):
        form = scaled(result.settled(term.f))
        group, power = _existing_group(result.groups, form.exponent, last)
        symbol = sy.symbol(f"%acc{index}")
        body = _relative(form, group, power)
        result.accumulators.append(SymbolicCarry(symbol, "sum", body, last, group, power, None))
    return result


def _add_statistic(result: Carries, statistic: Statistic, index: int, staged: Staged) -> None:
    pass_index = staged.pass_of[statistic.symbol]
    body = result.settled(statistic.body)
    if statistic.kind != "sum":
        _add_plain(result, statistic, f"%extreme{index}", plain(body), pass_index)
        return
    form = scaled(body)
    if staged.scope.is_row(form.exponent):
        _add_plain(result, statistic, f"%z{index}", form.value, pass_index)
        return
    group, power = _group(result.groups, form.exponent, pass_index)
    symbol = sy.symbol(f"%row_sum{index}", **_sign_of(statistic))
    carry = SymbolicCarry(symbol, "sum", _relative(form, group, power), pass_index, group, power, statistic)
    result.carries.append(carry)
    if statistic.symbol.is_nonnegative:
        logarithm = sy.symbol(f"%lse{index}")
        result.logarithms[statistic.symbol] = logarithm
        result.known[statistic.symbol] = sy.exp(logarithm)
    else:
        result.known[statistic.symbol] = carry.total


def _add_plain(result: Carries, statistic: Statistic, name: str, body: Sym, pass_index: int) -> None:
    symbol = sy.symbol(name, **_sign_of(statistic))
    result.known[statistic.symbol] = symbol
    carry = SymbolicCarry(symbol, statistic.kind, body, pass_index, None, sy.ZERO, statistic)
    result.carries.append(carry)


def _sign_of(statistic: Statistic) -> dict[str, bool]:
    if statistic.symbol.is_positive:
        return {"positive": True}
    return {"nonnegative": True} if statistic.symbol.is_nonnegative else {}


def _relative(form: Scaled, group: PivotGroup | None, power: Sym) -> Sym:
    if group is None:
        return form.value
    return form.mantissa * sy.exp(sy.expand_mul(form.exponent - power * group.symbol))


def _group(groups: list[PivotGroup], exponent: Sym, pass_index: int) -> tuple[PivotGroup, Sym]:
    group, power = _existing_group(groups, exponent, pass_index)
    if group is None:
        group, power = PivotGroup(sy.symbol(f"%row_max{len(groups) + 1}"), exponent, pass_index), sy.ONE
        groups.append(group)
    return group, power


def _existing_group(groups: Iterable[PivotGroup], exponent: Sym, pass_index: int) -> tuple[PivotGroup | None, Sym]:
    """The pivot whose exponent is a positive number times less than this one, in the same pass."""
    for group in groups:
        ratio = sy.cancel(exponent / group.exponent)
        if group.pass_index == pass_index and ratio.is_Rational and ratio.is_positive:
            return group, ratio
    return None, sy.ZERO
