"""Carries: the stable form of each pass, and by what names its statistics are known afterwards.

Turns the primitive statistics and the output's terms into pivots, carries and accumulators. Exponents that are
proportional to each other share a pivot; high powers of one base share one as well. An accumulator uses a pivot only if
its factor holds a statistic, or a step follows, since nothing else could make up for the pivot.
"""

from dataclasses import dataclass, field
from typing import Literal

from attngen.analysis import functions as fn
from attngen.analysis import symbolic as sy
from attngen.analysis.divisors import divisors
from attngen.analysis.functions import Sym
from attngen.analysis.passes import Staged
from attngen.analysis.roots import root_name
from attngen.analysis.separate import Scope
from attngen.analysis.spelling import LARGEST_PLAIN_POWER, is_complement, spell_complement
from attngen.analysis.stabilize import PIVOT, Scaled, plain, scaled
from attngen.analysis.symbolic import Statistic


@dataclass(frozen=True)
class PivotGroup:
    """m = max over keys of `exponent`; of kind "power", of the base of powers that are carried as ratios to m."""

    symbol: Sym
    exponent: Sym
    pass_index: int
    kind: Literal["exponential", "power"] = "exponential"

    def factor(self, power: Sym) -> Sym:
        """What a carry relative to the pivot lacks."""
        return sy.exp(power * self.symbol) if self.kind == "exponential" else self.symbol**power

    def relative(self, form: Scaled, power: Sym) -> Sym:
        """`form` without that factor."""
        if self.kind == "exponential":
            return form.mantissa * sy.exp(sy.expand_mul(form.exponent - power * self.symbol))
        return form.mantissa.xreplace(self.normalized_base) / self.symbol**power

    @property
    def normalized_base(self) -> dict[Sym, Sym]:
        return {self.exponent: self.symbol * fn.ratio(self.exponent, self.symbol)}


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
        return self.of(self.symbol)

    def of(self, carried: Sym) -> Sym:
        return carried if self.pivot is None else carried * self.pivot.factor(self.power)


@dataclass
class Carries:
    """`known`: statistic -> its value under the names that outlive its pass (and its twin likewise)."""

    scope: Scope
    groups: list[PivotGroup] = field(default_factory=list)
    carries: list[SymbolicCarry] = field(default_factory=list)
    accumulators: list[SymbolicCarry] = field(default_factory=list)
    known: dict[Sym, Sym] = field(default_factory=dict)
    output_unit: Sym = fn.ONE  # what the weighted sum lacks before the step that follows it
    logarithms: dict[Sym, Sym] = field(default_factory=dict)  # statistic -> symbol of its logarithm
    bounds: list[Sym] = field(default_factory=list)  # exponents that are never positive: s - lse
    divisors: frozenset[Sym] = frozenset()  # statistics that must not be zero
    stem: str = PIVOT  # of the pivots' names

    def settled(self, expr: Sym) -> Sym:
        """`expr` with statistics replaced by what is known of them after their pass, and twins attached."""
        return self._bounded(self._divided(self._opened(sy.attach(expr)).xreplace(self.known)))

    def _divided(self, expr: Sym) -> Sym:
        """Positive sums that are carried plainly may underflow: where they divide, they are kept from zero."""
        sums = [c for c in self.carries if c.kind == "sum" and c.pivot is None and c.symbol.is_positive]
        kept = {c.symbol for c in sums if c.statistic and c.statistic.symbol in self.divisors}
        mine = {c.symbol for c in sums if c.symbol in expr.free_symbols} - kept

        def divides(node: Sym) -> bool:
            return bool(node.is_Pow and node.base in mine and node.exp.could_extract_minus_sign())

        return expr.replace(divides, lambda node: fn.nonzero(node.base) ** node.exp) if mine else expr

    def _opened(self, expr: Sym) -> Sym:
        """sigmoid(r) of a statistic as exp(min(r, 0)) sigmoid(|r|): what may be small shows its exponential.

        So may 1 - sigmoid(r): as a difference of opened ones, its terms would be far larger than itself.
        """

        def of_statistic(node: Sym) -> bool:
            return self.scope.is_row(node) and self.scope.uses_statistics(node)

        def opened(node: Sym) -> Sym:
            (r,) = node.args
            return sy.exp(-fn.maximum(-r, fn.ZERO)) * fn.sigmoid(fn.absolute(r))

        spelled = expr.replace(lambda node: is_complement(node) and of_statistic(node), spell_complement)
        return spelled.replace(lambda node: node.func is fn.sigmoid and of_statistic(node), opened)

    def _bounded(self, expr: Sym) -> Sym:
        """Mark exp(s - lse) and its powers as bounded: nothing can overflow in a formula of probabilities."""
        if not expr.args or not self.bounds:
            return expr
        expr = expr.func(*map(self._bounded, expr.args))
        exponent = sy.expand_mul(sy.Add(*(f.args[0] for f in sy.Mul.make_args(expr) if f.func is sy.exp)))
        if exponent == 0 or not any(_is_multiple(exponent, bound) for bound in self.bounds):
            return expr
        others = sy.Mul(*(f for f in sy.Mul.make_args(expr) if f.func is not sy.exp))
        return others * fn.bounded_exp(exponent)

    def normalized(self, expr: Sym) -> Sym:
        """`settled`, with the bases of powers as ratios to their pivots: for formulas behind all passes."""
        settled = self.settled(expr)
        for group in self.groups:
            settled = settled.xreplace(group.normalized_base) if group.kind == "power" else settled
        return settled

    def unit(self, statistic: Sym) -> Sym:
        """What the statistic is measured in: itself if it is positive, else its pivot's factor; never zero."""
        if statistic in self.logarithms or statistic.is_positive:
            return statistic
        units = [c.total / c.symbol for c in self.carries if c.statistic and c.statistic.symbol == statistic]
        return units[0]

    def kept(self, carry: SymbolicCarry) -> Sym:
        """The carry, kept from zero if it is to divide, or if it is positive and will be known by its logarithm.

        Relative to a pivot a sum of exponentials is at least one.
        """
        statistic = carry.statistic
        if statistic is None or not (statistic.symbol in self.divisors or self._may_underflow(statistic.symbol)):
            return carry.symbol
        bounded = statistic.symbol in self.logarithms and scaled(self.settled(statistic.body)).mantissa.is_number
        return carry.symbol if bounded else fn.nonzero(carry.symbol)

    def _may_underflow(self, statistic: Sym) -> bool:
        """Whether the logarithm is one of a sum of positive terms, which only in floating point may be zero."""
        return bool(statistic in self.logarithms and statistic.is_positive)

    def fresh(self, expr: Sym) -> Sym:
        """`expr` in terms of the carries themselves, more exact than by logarithms, for the end of the last pass.

        What is kept from zero is so by then, unless it is known by its logarithm.
        """
        totals = {
            c.statistic.symbol: c.of(self.kept(c)) if c.statistic.symbol in self.logarithms else c.total
            for c in self.carries
            if c.statistic
        }
        return self._divided(self._opened(sy.attach(expr)).xreplace(totals))

    def group_of(self, form: Scaled, pass_index: int) -> tuple[PivotGroup | None, Sym]:
        """The known pivot of this pass that `form` can be carried relative to, and the power of its factor."""
        for group in self.groups:
            power = self._power_in(group, form)
            if group.pass_index == pass_index and power.is_Rational and power.is_positive:
                return group, power
        return None, fn.ZERO

    def _power_in(self, group: PivotGroup, form: Scaled) -> Sym:
        if group.kind == "power":
            return sy.Add(*(f.exp for f in sy.Mul.make_args(form.mantissa) if f.is_Pow and f.base == group.exponent))
        mine, other = self._varying(form.exponent), self._varying(group.exponent)
        return sy.cancel(mine / other)

    def _varying(self, exponent: Sym) -> Sym:
        """The addends that vary from key to key; those of the row may differ among the members of a group."""
        addends = sy.Add.make_args(sy.expand_mul(exponent))
        return sy.Add(*(a for a in addends if not self.scope.is_row(a)))


def derive_carries(staged: Staged) -> Carries:
    result = Carries(staged.scope, divisors=divisors(staged))
    for index, statistic in enumerate(staged.statistics, 1):
        _add_statistic(result, statistic, index, staged)
    last = staged.n_passes - 1
    for index, term in enumerate(staged.terms, 1):
        form = scaled(result.settled(term.f))
        made_up = staged.has_output or staged.scope.uses_statistics(term.h)
        group, power = pivot_for(result, form, last) if made_up else (None, fn.ZERO)
        symbol = sy.symbol(f"%acc{index}")
        body = group.relative(form, power) if group else form.value
        result.accumulators.append(SymbolicCarry(symbol, "sum", body, last, group, power, None))
    if staged.has_output and not any(staged.scope.uses_statistics(t.h) for t in staged.terms):
        (accumulator,) = result.accumulators
        result.output_unit = accumulator.total / accumulator.symbol
    return result


def _add_statistic(result: Carries, statistic: Statistic, index: int, staged: Staged) -> None:
    pass_index = staged.pass_of[statistic.symbol]
    if statistic.implicit is not None:
        result.known[statistic.symbol] = root_name(statistic.implicit)
        carry = SymbolicCarry(root_name(statistic.implicit), "root", fn.ZERO, pass_index, None, fn.ZERO, statistic)
        result.carries.append(carry)
        return
    body = result.settled(statistic.body)
    if statistic.kind != "sum":
        _add_plain(result, statistic, f"%extreme{index}", plain(body), pass_index)
        return
    form = scaled(body)
    group, power = pivot_for(result, form, pass_index)
    if group is None:
        root = staged.slope_of.get(statistic.symbol)
        name = f"%{root}_slope{index}" if root else f"%z{index}"
        _add_plain(result, statistic, name, form.value, pass_index)
        return
    symbol = sy.symbol(f"%row_sum{index}", **_sign_of(statistic))
    carry = SymbolicCarry(symbol, "sum", group.relative(form, power), pass_index, group, power, statistic)
    result.carries.append(carry)
    if statistic.symbol.is_nonnegative and group.kind == "exponential":
        logarithm = sy.symbol(f"%lse{index}")
        if form.mantissa == 1:
            result.bounds.append(form.exponent - logarithm)
        result.logarithms[statistic.symbol] = logarithm
        result.known[statistic.symbol] = sy.exp(logarithm)
    else:
        result.known[statistic.symbol] = carry.total


def _add_plain(result: Carries, statistic: Statistic, name: str, body: Sym, pass_index: int) -> None:
    symbol = sy.symbol(name, **_sign_of(statistic))
    result.known[statistic.symbol] = symbol
    carry = SymbolicCarry(symbol, statistic.kind, body, pass_index, None, fn.ZERO, statistic)
    result.carries.append(carry)


def _sign_of(statistic: Statistic) -> dict[str, bool]:
    if statistic.symbol.is_positive:
        return {"positive": True}
    return {"nonnegative": True} if statistic.symbol.is_nonnegative else {}


def pivot_for(result: Carries, form: Scaled, pass_index: int) -> tuple[PivotGroup | None, Sym]:
    """The pivot to carry `form` by, a new one for the first that needs it; none for what can be summed as it is."""
    group, power = result.group_of(form, pass_index)
    if group is not None:
        return group, power
    number = len(result.groups) + 1
    if not result.scope.is_row(form.exponent):
        group, power = PivotGroup(sy.symbol(f"{result.stem}{number}"), form.exponent, pass_index), fn.ONE
    elif (large := _large_power(form, result.scope)) is not None:
        symbol = sy.symbol(f"{result.stem}{number}", positive=True)
        group, power = PivotGroup(symbol, large.base, pass_index, "power"), large.exp
    if group is not None:
        result.groups.append(group)
    return group, power


def _is_multiple(exponent: Sym, bound: Sym) -> bool:
    factor = sy.cancel(exponent / bound)
    return bool(factor.is_Rational and factor.is_positive)


def _large_power(form: Scaled, scope: Scope) -> Sym | None:
    """A factor base ** p that may overflow although base doesn't."""
    for factor in sy.Mul.make_args(form.mantissa):
        varies = factor.is_Pow and factor.exp.is_Rational and not scope.is_row(factor.base)
        if varies and factor.exp > LARGEST_PLAIN_POWER and factor.base.is_nonnegative:
            return factor
    return None
