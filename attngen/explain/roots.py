"""What an explanation says of roots: the equation, its bracket and derivatives as sums, how trials are chosen.

Speaks of one root after the other. The symbols $F:ROOT, $F1:ROOT and $F2:ROOT are its residual and the first two
derivatives of that by the trial value.
"""

from collections.abc import Iterator

from attngen import ir
from attngen.analysis.result import ForwardPass, Root
from attngen.explain.document import Block, Equation, Equations, Line, Paragraph, Section
from attngen.explain.words import Words, listed
from attngen.ir import Expr, Name, Reduce
from attngen.schedule import ROOT_TRIALS

_DIRECTIONS = {
    1: "falls as the value grows",
    -1: "rises as the value grows",
    0: "may rise or fall, which its signs at the bounds tell",
}


def search_section(words: Words) -> Section | None:
    """How the roots are found; None where there are none."""
    blocks = [block for this in words.plan.analysis.forward.passes if this.root for block in _search(words, this)]
    if not blocks:
        return None
    text = (
        "A search is over when its residual is zero up to rounding or a step would change the last digits alone, and "
    )
    text += (
        f"after {ROOT_TRIALS} walks in any case; 3 to 8 are the rule for sums of powers. A block of rows goes on until "
    )
    text += "all of its rows have settled."
    return Section("The search for roots", (*blocks, Paragraph((text,))))


def _search(words: Words, this: ForwardPass) -> list[Block]:
    root = this.root
    assert root is not None
    name, residual = Name(root.name), Name(f"$F:{root.name}")
    derivatives = [root.residual, root.slope, *([root.curvature] if root.curvature != ir.number(0) else [])]
    symbols = [Name(f"${letter}:{root.name}") for letter in ("F", "F1", "F2")]
    equations = [Equation(left, written_out(words, this, d)) for left, d in zip(symbols, derivatives, strict=False)]
    text: Line = (name, " is looked for between ", words.shown(root.low), " and ", words.shown(root.high))
    which = "two derivatives" if len(equations) > 2 else "derivative"
    begin = "from the lower one on" if root.direction else "the upper one first, then the lower one"
    text += (f", {begin}. A walk over the keys gives a trial value's residual and its {which}, by sums:",)
    found: Line = (residual, " has the zero and the signs of the equation. It ") if this.pivots else (residual, " ")
    found += (f"{_DIRECTIONS[root.direction]}. So its sign tells which bound a trial replaces. The next ",)
    found += ("trial is ", _step(root), ", unless that leaves the bracket, the last step didn't halve ", residual)
    found += (" or this one is more than two thirds of it: then it is the middle of the bracket.", *_method(root))
    return [Paragraph(text), Equations(tuple(equations)), Paragraph(found)]


def _method(root: Root) -> Line:
    if root.curvature == ir.number(0):
        return (" The step is Newton's.",)
    return (" The step is Halley's, at most four times longer or shorter than Newton's.",)


def _step(root: Root) -> Expr:
    """Newton's step, or Halley's where there is a second derivative."""
    residual, slope, curvature = (Name(f"${letter}:{root.name}") for letter in ("F", "F1", "F2"))
    newton = ir.apply("div", residual, slope)
    if root.curvature == ir.number(0):
        return ir.apply("sub", Name(root.name), newton)
    square = ir.apply("mul", ir.number(2), ir.apply("pow", slope, ir.number(2)))
    bend = ir.apply("sub", ir.number(1), ir.apply("div", ir.apply("mul", residual, curvature), square))
    return ir.apply("sub", Name(root.name), ir.apply("div", newton, bend))


def written_out(words: Words, this: ForwardPass, expr: Expr) -> Expr:
    """A formula of a trial's carries, with their sums in place of them."""
    sums: dict[str, Expr] = {c.name: Reduce(c.kind, words.shown(c.body)) for c in this.carries}
    return ir.substitute(words.shown(expr), sums)


def trial_equations(words: Words, root: Root) -> list[Equation]:
    """The residual and its derivatives from a trial's sums, as the kernel has them."""
    parts = (("F", root.residual), ("F1", root.slope), ("F2", root.curvature))
    shown = [(letter, part) for letter, part in parts if letter != "F2" or part != ir.number(0)]
    return [Equation(Name(f"${letter}:{root.name}"), words.shown(part)) for letter, part in shown]


def part_of(root: Root, carry: str) -> Line:
    """What a trial's sum is there for."""
    parts = (("F", root.residual), ("F1", root.slope), ("F2", root.curvature))
    return ("part of ", *listed(Name(f"${letter}:{root.name}") for letter, part in parts if carry in ir.names(part)))


def implicit_blocks(words: Words) -> Iterator[Block]:
    """Why a root has a gradient: that of the implicit function."""
    for number, this in enumerate(words.plan.analysis.forward.passes):
        if this.root:
            root, later = Name(this.root.name), words.plan.analysis.forward.passes[number + 1 :]
            residual, slope = Name(f"$F:{this.root.name}"), Name(f"$F1:{this.root.name}")
            line: Line = (root, " moves so that ", residual, " stays zero: its derivative by anything is that of ")
            line += (residual, " with ", root, " kept, over ", ir.apply("neg", slope), ". So ", root, " gets ")
            line += ("its gradients like a sum over the keys, in which ", slope, " and the bounds count as constants")
            sums = [s.name for p in later for s in p.statistics if s.name.startswith(f"{root.id}_slope")]
            line += ("; ", slope, " at the root is made of ", *listed(map(Name, sums))) if sums else ()
            yield Paragraph((*line, "."))
