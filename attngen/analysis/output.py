"""The last step of a row: what becomes of a channel of its weighted sum, and the gradient of that.

Turns the formula of `output` into sums over the channels and formulas of one channel, and differentiates them. The sum
may be known relative to the pivot of its weights: then all formulas are of that relative sum, and whatever depends on
the pivot alone cancels before it is taken. Knows nothing of the keys.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

from attngen import ir
from attngen.analysis import symbolic as sy
from attngen.analysis.freeze import freeze
from attngen.analysis.functions import ONE, ZERO, Sym
from attngen.analysis.result import ChannelSum, Output
from attngen.analysis.spelling import spell
from attngen.analysis.stabilize import Scaled, plain, scaled

WEIGHTED, D_OUT = sy.symbol("%o"), sy.symbol("%d_out")


def derive_output(normalizer: ir.Normalizer, unit: Sym) -> Output | None:
    """The last step on o / unit, None if there is none."""
    if normalizer.output == ir.Name("o"):
        return None
    step = _Step()
    return step.derived(normalizer, unit)


@dataclass
class _Step:
    """Sums over the channels: symbol -> body, in the order in which they are taken."""

    sums: dict[Sym, Sym] = field(default_factory=dict)
    adjoints: dict[Sym, Sym] = field(default_factory=dict)  # sum -> symbol of its adjoint
    bodies: dict[Sym, Sym] = field(default_factory=dict)  # adjoint, or gradient of an input -> summand

    def derived(self, normalizer: ir.Normalizer, unit: Sym) -> Output:
        value = self._value(normalizer.output, unit)
        for symbol in reversed(self.sums):
            summand = self._slope(value, symbol, _unit(symbol))
            if summand != 0 and not self.sums[symbol].is_Number:
                self.adjoints[symbol] = sy.symbol(f"%d_{symbol.name[1:]}")
                self.bodies[self.adjoints[symbol]] = summand
        gradient = self._slope(value, WEIGHTED)
        inputs = {i.name: self._slope(value, sy.atom(i.name)) for i in normalizer.inputs if i.grad}
        used = {name: summand for name, summand in inputs.items() if summand != 0}
        return Output(
            name=WEIGHTED.name,
            sums=tuple(_channel_sums(self.sums)),
            value=freeze(sy.attach(value)),
            d_out=D_OUT.name,
            adjoints=tuple(_channel_sums(self.bodies)),
            gradient=freeze(sy.attach(gradient)),
            inputs=tuple(ChannelSum(name, freeze(sy.attach(summand))) for name, summand in used.items()),
        )

    def _value(self, output: ir.Expr, unit: Sym) -> Sym:
        """A channel of the output in terms of the relative sum and of sums over the channels, relative as well."""
        found = sy.Thawed("c")
        value = sy.thaw(output, found)
        known = _with_twins({sy.atom("o"): WEIGHTED * unit})
        for number, statistic in enumerate(found.statistics.values(), 1):
            form = scaled(spell(statistic.body.xreplace(known)))
            form = Scaled(form.value, ZERO) if sy.uses(form.exponent, [WEIGHTED]) else form
            symbol = sy.symbol(f"%channels{number}", **_sign(statistic.symbol))
            self.sums[symbol] = plain(form.mantissa)
            known |= _with_twins({statistic.symbol: Scaled(symbol, form.exponent).value})
        return plain(spell(value.xreplace(known)))

    def _slope(self, value: Sym, variable: Sym, unit: Sym = ONE) -> Sym:
        """d loss / d variable of one channel, times `unit`; the variable's gradient is its sum over the channels."""
        total = D_OUT * sy.derivative(value, variable)
        for symbol, adjoint in self.adjoints.items():
            total += adjoint / _unit(symbol) * sy.derivative(self.sums[symbol], variable)
        return sy.factor_terms(plain(total * unit))


def _with_twins(known: dict[Sym, Sym]) -> dict[Sym, Sym]:
    return known | {sy.twin(symbol): sy.twins_of(value) for symbol, value in known.items()}


def _unit(channel_sum: Sym) -> Sym:
    """What an adjoint is the reciprocal of: a positive sum may be small, and its square too small to divide by."""
    return channel_sum if channel_sum.is_positive else ONE


def _sign(symbol: Sym) -> dict[str, bool]:
    return {"positive": True} if symbol.is_positive else {"nonnegative": True} if symbol.is_nonnegative else {}


def _channel_sums(bodies: dict[Sym, Sym]) -> Iterator[ChannelSum]:
    return (ChannelSum(symbol.name, freeze(sy.attach(body))) for symbol, body in bodies.items())
