"""What an explanation says of the step behind the weighted sum: its sums over the channels, and the way back.

Says nothing of the keys. Behind this step's gradient all is as if the weighted sum were the output.
"""

from attngen.explain.document import Block, Equation, Equations, Line, Paragraph, Section
from attngen.explain.words import Words
from attngen.ir import Expr, Name, Reduce
from attngen.schedule import pivot_of_output


def step_blocks(words: Words) -> list[Block]:
    """From the weighted sum to the output."""
    output = words.plan.analysis.output
    if output is None:
        return []
    sums = [Equation(Name(s.name), Reduce("csum", s.body)) for s in output.sums]
    text = "Then, for each row, by sums over the channels:"
    return [Paragraph((text,)), Equations((*sums, Equation(Name("$out"), output.value))), *_relative(words)]


def _relative(words: Words) -> list[Block]:
    pivot = pivot_of_output(words.plan)
    if pivot is None:
        return []
    line: Line = (
        Name("o"),
        " is relative to ",
        Name(pivot),
        ": what the pivot alone changes cancels in these formulas",
    )
    return [Paragraph((*line, ", so that nothing overflows."))]


def saved_sum(words: Words) -> list[Block]:
    """What is saved in place of the output."""
    output = words.plan.analysis.output
    if output is None:
        return []
    text = (
        " is the weighted sum before the step that makes the output of it, from which the backward takes the sums over "
    )
    return [Paragraph((Name(output.name), text, "the channels again. The output itself isn't needed."))]


def step_back_section(words: Words) -> Section | None:
    """The gradient of the weighted sum from that of the output."""
    output = words.plan.analysis.output
    if output is None:
        return None
    equations = [Equation(Name(s.name), Reduce("csum", s.body)) for s in output.adjoints]
    equations.append(Equation(Name("$d_sum"), output.gradient))
    adjoints = (
        "The adjoints of the sums over the channels come first, the last sum's before others, "
        "those of positive sums times the sum. "
        if output.adjoints
        else ""
    )
    text: Line = (
        f"{adjoints}",
        Name("$do_c"),
        " is the gradient of the output, ",
        Name("$d_sum"),
        " that of the weighted ",
    )
    after: Line = ("From here on all is as if the weighted sum ", Name("$o"), " were the output and ", Name("$do"))
    blocks = (Paragraph((*text, "sum:")), Equations(tuple(equations)), Paragraph((*after, " its gradient.")))
    return Section("Back through the step behind the weighted sum", blocks)


def input_terms(words: Words, name: str) -> list[Expr]:
    """The part of an input's gradient that comes from this step."""
    output = words.plan.analysis.output
    return [Reduce("csum", s.body) for s in output.inputs if s.name == name] if output else []
