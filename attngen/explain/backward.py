"""What an explanation says of the backward: the rows' adjoints and how each is found, then all gradients."""

from attngen import ir
from attngen.analysis.result import Adjoint, InputGradient
from attngen.explain.document import Block, Equation, Equations, Line, Paragraph, Section
from attngen.explain.output import input_terms
from attngen.explain.roots import implicit_blocks
from attngen.explain.words import WEIGHTS, Words, listed, product, total
from attngen.ir import Expr, Name, Reduce
from attngen.schedule import Costs

_DQK, _DO = Name("$dqk"), Name("$do")
_LETTERS = {"batch": "b", "head": "h", "query": "i"}


def adjoints_section(words: Words) -> Section:
    """The derivative of the loss with respect to every statistic of a row."""
    analysis = words.plan.analysis
    if not analysis.adjoints:
        text = "The weights use no statistic of the row, so that no sum over the keys is needed before the gradients."
        return Section("Row adjoints", (Paragraph((text,)),))
    backward = analysis.backward
    equations = [Equation(Name(backward.dp), ir.apply("dot", _DO, Name("$v")))]
    if backward.delta:
        equations.append(Equation(Name(backward.delta), ir.apply("dot", _DO, Name("$o"))))
    equations += [Equation(Name(p.name), ir.apply("dot", _DO, Name(p.accumulator))) for p in backward.products]
    equations += [Equation(Name(s.name), Reduce("sum", words.weighted(s.body))) for s in backward.prepass]
    constant = [a for a in analysis.adjoints if a.value == ir.number(0)]
    varying = [a for a in analysis.adjoints if a not in constant]
    found = [Equation(_bar(words, a), words.meant(a.value)) for a in varying]
    text = "The loss depends on a row's statistics through all of its weights. Their adjoints, last one first:"
    ways: list[Block] = [Paragraph(_way(words, a)) for a in varying]
    if constant:
        ways.append(
            Paragraph((*listed([_bar(words, a) for a in constant]), f" {'is' if len(constant) == 1 else 'are'} zero."))
        )
    ways += implicit_blocks(words)
    blocks = (Paragraph((text,)), Equations((*equations, *found)), *ways, *_counted(words.plan.costs))
    return Section("Row adjoints", blocks)


_WAYS = {
    "deferred": "kept outside of the gradients until one walk over the keys has ended",
    "walk": "by a walk over the keys of its own",
    "saved": "from accumulators more in the forward, which are saved",
}


def _counted(costs: Costs) -> tuple[Block, ...]:
    """What each way to the sums of the backward's own would cost."""
    if costs.adjoint_way is None:
        return ()
    ways = [f"{_WAYS[way]}, {count} product{'s' if count != 1 else ''}" for way, count in costs.adjoints]
    text = f"Sums of the backward's own could be had: {'; '.join(ways)}. Taken: {_WAYS[costs.adjoint_way]}."
    return (Paragraph((text,)),)


def _bar(words: Words, adjoint: Adjoint) -> Expr:
    return Name(f"$bar:{words.statistic_of[adjoint.statistic]}")


def _way(words: Words, adjoint: Adjoint) -> Line:
    """By which of the three ways the sum over the keys in an adjoint is found."""
    backward, used = words.plan.analysis.backward, ir.names(adjoint.value)
    products = [p for p in backward.products if p.name in used]
    prepass: list[Expr | str] = [Name(s.name) for s in backward.prepass if s.name in used]
    ways: list[Line] = []
    if backward.delta in used:
        ways.append((Name(backward.delta or ""), ", from the output"))
    if products:
        names = listed([Name(p.name) for p in products])
        ways.append((*names, ", from ", *listed([Name(p.accumulator) for p in products]), " that the forward saved"))
    if prepass:
        ways.append((*listed(prepass), ", a sum of the backward's own"))
    if not ways:
        return (_bar(words, adjoint), " needs no sum.")
    line: Line = (_bar(words, adjoint), " is found by ")
    for position, way in enumerate(ways):
        line += ("; and by ", *way) if position else way
    return (*line, ".")


def gradients_section(words: Words) -> Section:
    backward = words.plan.analysis.backward
    core = [Equation(WEIGHTS, words.shown(backward.weights)), Equation(_DQK, words.weighted(backward.dqk))]
    if not words.plan.analysis.adjoints:
        core.insert(1, Equation(Name(backward.dp), ir.apply("dot", _DO, Name("$v"))))
    tensors = [
        Equation(Name("$dq"), Reduce("sum", product(_DQK, Name("$k")))),
        Equation(Name("$dk"), ir.apply("sum_i", product(_DQK, Name("$q")))),
        Equation(Name("$dv"), ir.apply("sum_i", product(WEIGHTS, _DO))),
    ]
    text = "The weights are computed again, from the saved statistics if there are any."
    heads = "If query heads share a key head, the last two sums run over these heads too."
    blocks: list[Block] = [Paragraph((text,)), Equations((*core, *tensors)), Paragraph((heads,))]
    attained = next(filter(_is_attained, ir.walk(words.shown(backward.dqk))), None)
    if attained is not None:
        blocks.append(Paragraph(("A key attains a maximum or minimum, as in ", attained, ", up to rounding.")))
    for gradient in backward.inputs:
        blocks += _input_blocks(words, gradient)
    return Section("Gradients", (*blocks, *_without_gradient(words)))


def _is_attained(expr: Expr) -> bool:
    return isinstance(expr, ir.Apply) and expr.op == "attains"


def _input_blocks(words: Words, gradient: InputGradient) -> list[Block]:
    axes = next(i.axes for i in words.plan.normalizer.inputs if i.name == gradient.name)
    equations = [Equation(Name(s.name), Reduce("sum", words.weighted(s.body))) for s in gradient.sums]
    letters = "".join(_LETTERS[axis] for axis in ("batch", "head", "query") if axis not in axes)
    value = total([words.weighted(gradient.value), *input_terms(words, gradient.name)])
    right = ir.apply(f"sum_{letters}", value) if letters else value
    level = {"row": "the row", "key": "the key", "pair": "query and key"}[gradient.level]
    heads = "the query heads that share a key head" if "kv_head" in axes else "the heads"
    over = [{"b": "the batch", "h": heads, "i": "the queries"}[letter] for letter in letters]
    line: Line = (Name(gradient.name), f" belongs to {level}: its gradient is ")
    line += ("summed over ", *listed(over), ":") if over else ("not summed further:",)
    return [Paragraph(line), Equations((*equations, Equation(Name(f"$grad:{gradient.name}"), right)))]


def _without_gradient(words: Words) -> list[Block]:
    given = {g.name for g in words.plan.analysis.backward.inputs}
    without = [Name(i.name) for i in words.plan.normalizer.inputs if i.name not in given]
    return (
        [Paragraph((*listed(without), " gets no gradient." if len(without) == 1 else " get no gradient."))]
        if without
        else []
    )
