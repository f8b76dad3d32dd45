"""The step behind the weighted sum as text: sums over the channels one after the other, then formulas of one channel.

Prints for Triton, whose tiles are rows by channels here, for plain torch, and for C++, row by row. It decides no
mathematics.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from attngen.analysis.result import ChannelSum, Output
from attngen.emit.arrange import Place
from attngen.emit.printers import TORCH, TRITON, Printer
from attngen.emit.statements import OVER_KEYS, Scribe, Uses
from attngen.ir import Expr
from attngen.schedule import OpPlan


@dataclass(frozen=True, slots=True)
class ChannelText:
    """A sum over the channels of a row: lines that lead to it, and its body, spread over a tile."""

    name: str
    lines: tuple[str, ...]
    body: str


@dataclass(frozen=True, slots=True)
class Step:
    """A step over channels: sums in order, then lines and the text of one channel's value."""

    sums: tuple[ChannelText, ...]
    lines: tuple[str, ...]
    value: str


@dataclass(frozen=True, slots=True)
class OutputGradient:
    """The way back through the step behind the weighted sum `name`; `inputs` get a part of their gradient from it."""

    name: str
    d_out: str
    step: Step
    inputs: tuple[tuple[int, str], ...]  # (position, name)
    uses: Uses


_ROW, _CHANNEL = Place(row=True), Place(row=True, key=True)


def last_step(plan: OpPlan, printer: Printer) -> tuple[Step, Uses] | None:
    """What the forward does behind the weighted sum, if anything."""
    output = plan.analysis.output
    if output is None:
        return None
    channels = _Channels(plan, output, printer)
    sums = channels.sums(output.sums)
    return channels.step(sums, {"value": output.value})


def output_gradient(plan: OpPlan) -> OutputGradient | None:
    """The gradient of the weighted sum from that of the output, in plain torch."""
    output = plan.analysis.output
    if output is None:
        return None
    channels = _Channels(plan, output, TORCH)
    sums = channels.sums((*output.sums, *output.adjoints))
    inputs = channels.sums(replace(s, name=f"d_{s.name}_by_output") for s in output.inputs)
    step, uses = channels.step((*sums, *inputs), {"value": output.gradient})
    of_inputs = tuple((channels.scribe.inputs[s.name].position, s.name) for s in output.inputs)
    return OutputGradient(output.name, output.d_out, step, of_inputs, uses)


class _Channels:
    """`uses` grows with every formula that is printed."""

    def __init__(self, plan: OpPlan, output: Output, printer: Printer) -> None:
        blank = _blank(printer, output.name)
        beside = replace(printer, blank=blank, spread=lambda name, _: printer.column(name))
        self.scribe = Scribe(plan, beside, OVER_KEYS)
        rows = (*output.sums, *output.adjoints)
        self.leaves = {**self.scribe.ended(), **dict.fromkeys((s.name for s in rows), _ROW)}
        self.leaves |= {output.name: _CHANNEL, output.d_out: _CHANNEL}
        self.uses = Uses(frozenset(), ())

    def sums(self, sums: Iterable[ChannelSum]) -> tuple[ChannelText, ...]:
        return tuple(map(self._sum, sums))

    def _sum(self, channel_sum: ChannelSum) -> ChannelText:
        lines, text = self._printed({"body": channel_sum.body}, f"{channel_sum.name}_")
        return ChannelText(channel_sum.name, lines, text["body"])

    def step(self, sums: tuple[ChannelText, ...], targets: Mapping[str, Expr]) -> tuple[Step, Uses]:
        lines, text = self._printed(targets, "u")
        return Step(sums, lines, text["value"]), self.uses

    def _printed(self, targets: Mapping[str, Expr], prefix: str) -> tuple[tuple[str, ...], Mapping[str, str]]:
        lines = self.scribe.lines(targets, self.leaves, prefix)
        self.uses |= lines.uses
        return lines.outer + lines.inner, lines.tile


def _blank(printer: Printer, name: str) -> str:
    """Zeros of the shape of what is called `name`."""
    if printer.blank == TRITON.blank:
        return "tl.zeros([BLOCK_M, BLOCK_DV], tl.float32)"
    return printer.blank.replace("(qk)", f"({name})")
