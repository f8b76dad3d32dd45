"""What an explanation says of the forward: formula, class, passes, the row's state and its merge, what is saved."""

from attngen import ir, notation
from attngen.analysis.result import Accumulator, Carry, ForwardPass, Pivot, RowStatistic
from attngen.explain.document import Block, Equation, Equations, Inline, Line, Paragraph, Section, Table
from attngen.explain.output import saved_sum, step_blocks
from attngen.explain.roots import part_of, trial_equations
from attngen.explain.shorten import key, replaced
from attngen.explain.symbols import AXIS_SIZES
from attngen.explain.words import DOT_PRODUCT, SCORE, WEIGHTS, Words, counted, listed, product, total
from attngen.ir import Expr, Name, Reduce, Root
from attngen.schedule import OpPlan

_KINDS = {
    "elementwise": "The weight of a key depends on its own score alone, and no statistic of the row is needed.",
    "ratio": "A ratio: the weights are divided by what one pass over the keys sums up, and nothing has to be rescaled.",
    "shift-invariant ratio": "A ratio of exponentials: numerator and denominator share an exponential factor, so both "
    "are carried relative to a maximum, which cancels in the end.",
    "affine": "A sum of terms: each is accumulated by itself, and its factor of the row is applied when the pass has "
    "ended.",
    "implicit": "Implicit: a value of the row is the root of an equation in which it stands inside of sums. Several "
    "walks over the keys search for it.",
    "staged": "Staged: a statistic of the row is needed before another one, or the output, can be summed.",
}
_EMPTY: dict[str, Expr] = {"sum": ir.number(0), "amax": ir.apply("neg", Name("$inf")), "amin": Name("$inf")}


def formula_section(words: Words) -> Section:
    normalizer = words.plan.normalizer
    lets = [_let(name, body) for name, body in normalizer.lets]
    equations = [Equation(SCORE, normalizer.score), *lets, Equation(WEIGHTS, _by_lets(normalizer))]
    weighted = Reduce("sum", product(WEIGHTS, Name("$v")))
    text = ("Query ", Name("i"), " gives key ", Name("j"), " the weight ", WEIGHTS, "; ")
    sums = ("sums run over the keys that the row sees. ", DOT_PRODUCT, " is the dot product of query and key, ")
    more = (
        Name("scale"),
        " is ",
        ir.apply("div", ir.number(1), ir.apply("sqrt", Name("d"))),
        " unless the call says otherwise.",
    )
    blocks: list[Block] = [Equations((*equations, *_output(normalizer, weighted)))]
    blocks += [Paragraph(_between(body)) for _, body in normalizer.lets if isinstance(body, Root)]
    blocks.append(Paragraph((*text, *sums, *more)))
    return Section("The formula", (*blocks, *_inputs(normalizer)))


def _let(name: str, body: Expr) -> Equation:
    return Equation(body.residual, ir.number(0)) if isinstance(body, Root) else Equation(Name(name), body)


def _between(root: Root) -> Line:
    low, high = root.low, root.high
    return (Name(root.variable), " is the value between ", low, " and ", high, " at which its equation holds.")


def _output(normalizer: ir.Normalizer, weighted: Expr) -> list[Equation]:
    """The weighted sum, and what becomes of its channels."""
    if normalizer.output == Name("o"):
        return [Equation(Name("$o"), weighted)]
    by_channel = Reduce("sum", product(WEIGHTS, Name("$v_c")))
    return [Equation(Name("o"), by_channel), Equation(Name("$out"), normalizer.output)]


def _by_lets(normalizer: ir.Normalizer) -> Expr:
    """The weights as the spec wrote them: with the names of its `let`s."""
    known: dict[str, Expr] = {}
    for name, body in normalizer.lets:
        known[name] = ir.substitute(body, known)
    weights = normalizer.weights
    for name, body in reversed(known.items()):
        weights = replaced(weights, body, Name(name)) if isinstance(body, ir.Apply | Reduce | Root) else weights
    return weights


def _inputs(normalizer: ir.Normalizer) -> list[Block]:
    rows = [
        (
            (Name(i.name),),
            _shape(i.axes),
            ("none",) if i.default is None else (i.default,),
            ("yes" if i.grad else "no",),
        )
        for i in normalizer.inputs
    ]
    statics: list[Line] = [(f"{s.name} = {notation.text(ir.Number(s.value))}",) for s in normalizer.statics]
    blocks: list[Block] = [Table(("Input", "Shape", "Default", "Gradient"), tuple(rows))] if rows else []
    if statics:
        blocks.append(Paragraph(("Known when the op is built: ", *listed(line[0] for line in statics), ".")))
    return blocks


def _shape(axes: tuple[ir.Axis, ...]) -> Line:
    sizes: list[Inline] = []
    for axis in axes:
        sizes += [", "] if sizes else []
        sizes.append(Name(AXIS_SIZES[axis]))
    return ("(", *sizes, ")") if sizes else ("scalar",)


def passes_section(words: Words) -> Section:
    plan = words.plan
    passes = plan.analysis.forward.passes
    blocks: list[Block] = [Paragraph((_KINDS.get(plan.analysis.kind, f"Its class: {plan.analysis.kind}."),))]
    for number, this in enumerate(passes):
        blocks.append(Paragraph(_pass_line(words, number)))
        found = [_found(words, s) for s in this.statistics]
        blocks += [Equations(tuple(found))] if found else []
    if len(passes) == 1 and passes[0].statistics:
        text = "No statistic needs another one before it can be summed, and the output's terms need none until their "
        blocks.append(Paragraph((f"{text}factor is applied at the end: one pass does.",)))
    blocks += _support(words)
    return Section(f"Class, and {counted(len(passes), 'pass', 'passes')} over the keys", tuple(blocks))


def _found(words: Words, statistic: RowStatistic) -> Equation:
    meaning = words.meant(statistic.meaning)
    if isinstance(meaning, Root):
        return Equation(meaning.residual, ir.number(0))
    return Equation(words.reduction(statistic.name), meaning)


def _support(words: Words) -> list[Block]:
    support = words.plan.analysis.support
    if support is None:
        return []
    text: Line = ("Weights and their gradients vanish unless ", ir.apply("gt", words.shown(support), ir.number(0)))
    return [Paragraph((*text, ". Tiles of pairs on which that holds nowhere are passed over, forward and backward."))]


def _pass_line(words: Words, number: int) -> Line:
    """What one pass finds, and what it has to know."""
    forward = words.plan.analysis.forward
    this, last = forward.passes[number], number == len(forward.passes) - 1
    found: list[Expr | str] = [words.reduction(s.name) for s in this.statistics]
    found += ["the output"] if last else []
    bodies = [words.meant(s.meaning) for s in this.statistics]
    bodies += [words.shown(a.body) for a in forward.accumulators] if last else []
    earlier = [s.name for p in forward.passes[:number] for s in p.statistics]
    used = frozenset().union(*map(ir.names, bodies))
    needed = [words.reduction(name) for name in earlier if name in used or f"$r:{name}" in used]
    needs: Line = (", for which it needs ", *listed(needed)) if needed else ()
    walked = ". It is walked once for each trial." if this.root else "."
    return (f"Pass {number + 1} finds ", *listed(found), *needs, walked)


def state_section(words: Words) -> Section:
    rows: list[tuple[Line, ...]] = []
    for forward_pass in words.plan.analysis.forward.passes:
        rows += [_pivot_row(words, p) for p in forward_pass.pivots]
        rows += _carry_rows(words, forward_pass)
        rows += [_statistic_row(words, s) for s in forward_pass.statistics if s.logarithmic]
    for accumulator in words.plan.analysis.forward.accumulators:
        kind = f"accumulator{_relative_to(accumulator)}"
        rows.append(((Name(accumulator.name),), (kind,), (_accumulated(words, accumulator),), ("a row of values",)))
    table = Table(("Name", "Kind", "In the kernel", "Meaning"), tuple(rows))
    text = "What a row keeps while it walks over its keys, and what it is when a pass ends. Carries relative to a "
    text += "pivot hold no exponential that could overflow."
    return Section("The state of a row", (Paragraph((text,)), table))


def _pivot_row(words: Words, pivot: Pivot) -> tuple[Line, ...]:
    largest = "the largest exponent" if pivot.kind == "exponential" else "the largest base; zero counts as one"
    return (Name(pivot.name),), ("pivot",), (Reduce("amax", words.shown(pivot.exponent)),), (largest,)


def _carry_rows(words: Words, this: ForwardPass) -> list[tuple[Line, ...]]:
    if this.root is None:
        return [_carry_row(words, c, s) for c, s in zip(this.carries, this.statistics, strict=True)]
    rows: list[tuple[Line, ...]] = []
    for carry in this.carries:
        body = Reduce(carry.kind, words.shown(carry.body))
        kind = f"carry of a trial{_relative_to(carry)}"
        rows.append(((Name(carry.name),), (kind,), (body,), part_of(this.root, carry.name)))
    zero = ir.apply("eq", Name(f"$F:{this.root.name}"), ir.number(0))
    return [*rows, ((Name(this.root.name),), ("root",), ("by the search",), (zero,))]


def _growth(words: Words, carry: Carry | Accumulator, old: Expr, new: Expr) -> Expr:
    """The factor that makes what is relative to the pivot `old` relative to `new`."""
    if _is_power(words, carry):
        return ir.apply("pow", ir.apply("div", old, new), ir.Number(carry.power))
    change = ir.apply("sub", old, new)
    return ir.apply("exp", change if carry.power == 1 else ir.apply("mul", ir.Number(carry.power), change))


def _carry_row(words: Words, carry: Carry, statistic: RowStatistic) -> tuple[Line, ...]:
    body = (Reduce(carry.kind, words.shown(carry.body)),)
    meaning: Line = (words.meant(statistic.meaning),)
    if carry.pivot is not None:
        meaning = (ir.apply("mul", words.reduction(statistic.name), _relative_factor(words, carry)),)
    return (Name(carry.name),), (f"carry{_relative_to(carry)}",), body, meaning


def _relative_factor(words: Words, carry: Carry) -> Expr:
    """What a sum is multiplied by to be relative to its pivot."""
    pivot = Name(str(carry.pivot))
    if _is_power(words, carry):
        return ir.apply("pow", pivot, ir.Number(-carry.power))
    return ir.apply("exp", ir.apply("neg", product(ir.Number(carry.power), pivot)))


def _is_power(words: Words, carry: Carry | Accumulator) -> bool:
    passes = words.plan.analysis.forward.passes
    return any(p.kind == "power" for this in passes for p in this.pivots if p.name == carry.pivot)


def _statistic_row(words: Words, statistic: RowStatistic) -> tuple[Line, ...]:
    meaning = ir.apply("log", words.reduction(statistic.name))
    return (Name(statistic.name),), ("statistic",), (words.shown(statistic.value),), (meaning,)


def _relative_to(carry: Carry | Accumulator) -> str:
    return "" if carry.pivot is None else ", relative to the pivot"


def _accumulated(words: Words, accumulator: Accumulator) -> Expr:
    return Reduce("sum", product(words.shown(accumulator.body), Name("$v")))


def merge_section(words: Words) -> Section:
    """How two partial results over different keys become one."""
    forward = words.plan.analysis.forward
    rows = [row for p in forward.passes for row in _merge_rows(words, p)]
    for accumulator in forward.accumulators:
        rows.append(((Name(accumulator.name),), (_EMPTY["sum"],), (_merged_sum(words, accumulator),)))
    text = "Keys may be split into parts, each summed by itself. The result of no keys at all leaves the other part as "
    text += "it is; its exponentials count as zero."
    if len(forward.passes) > 1:
        text += " The parts of one pass are merged before the next pass begins"
        text += ", those of a trial before the next trial." if any(p.root for p in forward.passes) else "."
    return Section(
        "Merging two partial results", (Paragraph((text,)), Table(("Name", "No keys", "Merged"), tuple(rows)))
    )


def _merge_rows(words: Words, this: ForwardPass) -> list[tuple[Line, ...]]:
    rows: list[tuple[Line, ...]] = [
        ((Name(p.name),), (_EMPTY["amax" if p.kind == "exponential" else "sum"],), (ir.apply("max", *_parts(p.name)),))
        for p in this.pivots
    ]
    for carry in this.carries:
        merged = _merged_sum(words, carry) if carry.kind == "sum" else ir.apply(carry.kind[1:], *_parts(carry.name))
        rows.append(((Name(carry.name),), (_EMPTY[carry.kind],), (merged,)))
    return rows


def _parts(name: str) -> tuple[Name, Name]:
    return Name(f"{name}@1"), Name(f"{name}@2")


def _merged_sum(words: Words, carry: Carry | Accumulator) -> Expr:
    if carry.pivot is None:
        return total(_parts(carry.name))
    terms = []
    for part, pivot in zip(_parts(carry.name), _parts(carry.pivot), strict=True):
        terms.append(product(part, _growth(words, carry, pivot, Name(carry.pivot))))
    return total(terms)


def saved_section(words: Words) -> Section:
    plan = words.plan
    rows: list[tuple[Line, ...]] = [((Name(name),), ("a number per row",), (ir.number(4),)) for name in plan.saved_rows]
    wide = ir.apply("mul", ir.number(4), Name("$Dv"))
    rows += [((Name(name),), ("a row of values",), (wide,)) for name in plan.saved_accumulators]
    if not rows:
        return Section("What is saved for the backward", (Paragraph(("Nothing beside the op's tensors.",)),))
    count, accumulators = 4 * len(plan.saved_rows), len(plan.saved_accumulators)
    whole = total(
        [ir.number(count), product(ir.number(4 * accumulators), Name("$Dv")) if accumulators else ir.number(0)]
    )
    known = "inputs" if plan.analysis.output else "inputs and output"
    comma = "," if plan.analysis.output is None else " and"
    text = (f"Beside query, key, value{comma} {known}, the forward saves ", whole, " bytes for each row, in 32 bit:")
    table = Table(("Name", "Size", "Bytes per row"), tuple(rows))
    return Section("What is saved for the backward", (Paragraph(text), table, *saved_sum(words), *_returned(plan)))


def _returned(plan: OpPlan) -> list[Block]:
    """What a caller may have of it."""
    names = [a.name if a.name == a.row else f"{a.name}, which is {a.row} here" for a in plan.aux]
    return [Paragraph((f"A call with return_aux=True returns of it: {'; '.join(names)}.",))] if names else []


def forward_section(words: Words) -> Section:
    forward = words.plan.analysis.forward
    blocks: list[Block] = []
    for number, this in enumerate(forward.passes, 1):
        equations = _pass_equations(words, this)
        if number == len(forward.passes):
            equations += [Equation(Name(a.name), _accumulated(words, a)) for a in forward.accumulators]
        each = f", for each trial of {words.symbols[this.root.name].text}" if this.root else ""
        blocks += [Paragraph((f"Pass {number}{each}:",)), Equations(tuple(equations)), *_divisors(words, this)]
    terms = zip(forward.factors, forward.accumulators, strict=True)
    output = total(_scaled(words.shown(factor), Name(a.name)) for factor, a in terms)
    blocks += [Paragraph(("At its end:",)), Equations((Equation(Name("$o"), output),))]
    return Section("Forward", (*blocks, *step_blocks(words)))


def _divisors(words: Words, this: ForwardPass) -> list[Block]:
    kept = [Name(s.name) for s in this.statistics if s.is_kept_from_zero]
    least = ir.apply("pow", ir.number(2), ir.number(-100)), ir.apply("pow", ir.number(2), ir.number(-1000))
    text: Line = (" counts as ", least[0], ", in float64 as ", least[1], ", where it is closer to zero.")
    return [Paragraph(("As a divisor ", name, *text)) for name in kept]


def _scaled(factor: Expr, accumulator: Expr) -> Expr:
    match factor:
        case ir.Apply("div", (over, under)):
            return ir.apply("div", product(over, accumulator), under)
        case ir.Number(value) if value == -1:
            return ir.apply("neg", accumulator)
    return product(factor, accumulator)


def _pass_equations(words: Words, this: ForwardPass) -> list[Equation]:
    equations = [Equation(Name(p.name), Reduce("amax", words.shown(p.exponent))) for p in this.pivots]
    equations += [Equation(Name(c.name), Reduce(c.kind, words.shown(c.body))) for c in this.carries]
    equations += trial_equations(words, this.root) if this.root else []
    values = [Equation(Name(s.name), words.shown(s.value)) for s in this.statistics if not s.is_kept_from_zero]
    return equations + [e for e in values if key(e.right) != key(e.left)]
