"""What a generated module says of itself in words and formulas: glossary, forward and backward as derived."""

from collections.abc import Iterable, Iterator
from textwrap import wrap

from attngen import ir, notation
from attngen.analysis.result import Accumulator, Carry, ChannelSum, Deferred, ForwardPass, Root, RowStatistic
from attngen.schedule import AuxRow, OpPlan, pivot_of_output

_WIDTH = 112

_AXIS_SIZES = {"batch": "B", "head": "Hq", "kv_head": "Hkv", "query": "Nq", "key": "Nk"}


def docstring_text(text: str) -> str:
    """A user's line made safe inside a docstring."""
    return text.replace("\\", "\\\\").replace('"""', "'''").rstrip('"')


def input_doc(spec_input: ir.Input) -> str:
    """Shape, default and gradient of an input, in a sentence."""
    shape = ", ".join(_AXIS_SIZES[axis] for axis in spec_input.axes)
    text = f"({shape})" if shape else "a scalar"
    text += ", or what broadcasts to it; a tensor or a number."
    if spec_input.default is not None:
        text += f" {notation.text(spec_input.default)} if None."
    return text if spec_input.grad else f"{text} It gets no gradient."


def formula(plan: OpPlan) -> str:
    """The normalizer in one line, or as few as it takes."""
    normalizer = plan.normalizer
    parts = [f"weights = {notation.text(_by_roots(normalizer.weights))}"]
    parts += [f"{name}{_defined(_by_roots(body, outer=False))}" for name, body in normalizer.lets]
    parts += [f"output = {notation.text(normalizer.output)}"] if normalizer.output != ir.Name("o") else []
    return "\n".join(_folded("; ".join(parts)))


def _folded(line: str) -> list[str]:
    return wrap(line, _WIDTH, subsequent_indent="    ", break_long_words=False, break_on_hyphens=False) or [line]


def _by_roots(expr: ir.Expr, outer: bool = True) -> ir.Expr:
    """Roots by their names, but for `expr` itself unless `outer`."""
    if outer and isinstance(expr, ir.Root):
        return ir.Name(expr.variable)
    return ir.with_children(expr, tuple(map(_by_roots, ir.children(expr))))


def _defined(body: ir.Expr) -> str:
    """What stands behind a name that is `body`."""
    if not isinstance(body, ir.Root):
        return f" = {notation.text(body)}"
    residual, low, high = map(notation.text, (body.residual, body.low, body.high))
    return f" such that {residual} == 0, between {low} and {high}"


def glossary(plan: OpPlan) -> tuple[str, ...]:
    """One line per quantity that the derivation introduced."""
    lines = [f"{i.name}: an input, {input_doc(i)}" for i in plan.normalizer.inputs]
    last = plan.analysis.forward.passes[-1]
    for forward_pass in plan.analysis.forward.passes:
        names = {s.name for s in forward_pass.statistics}
        lines += [f"{_both_names(a)}: {_meant(plan, a)}" for a in plan.aux if a.row in names]
        lines += [f"{s.name}: {_meaning(plan, s.meaning)}" for s in _behind_roots(plan, forward_pass)]
        rests = "; in bfloat16 one over some keys may do" if forward_pass is last and plan.telling else ""
        lines += [f"{p.name}: running maximum of {notation.text(p.exponent)}{rests}" for p in forward_pass.pivots]
    products = plan.analysis.backward.products
    lines += [f"{p.name}: do . {p.accumulator}" for p in products]
    return tuple(folded for line in lines for folded in _folded(line))


def _behind_roots(plan: OpPlan, this: ForwardPass) -> Iterator[RowStatistic]:
    """Statistics that are saved for the backward alone."""
    returned = {a.row for a in plan.aux}
    return (s for s in this.statistics if s.name in plan.saved_rows and s.name not in returned and not s.logarithmic)


def aux_doc(plan: OpPlan, row: AuxRow) -> str:
    """The meaning of a row value that a call returns, and what it is where there is nothing to reduce."""
    in_float64 = ", with 2**-1000 in float64" if "2**-100" in row.of_nothing else ""
    return "\n".join(_folded(f"{_meant(plan, row)}; {row.of_nothing} for rows that see no key{in_float64}"))


def _both_names(row: AuxRow) -> str:
    return row.row if row.row == row.name else f"{row.row}, by the spec {row.name}"


def _meant(plan: OpPlan, row: AuxRow) -> str:
    return f"{row.prefix}{_meaning(plan, row.meaning)}{row.suffix}"


def _meaning(plan: OpPlan, meaning: ir.Expr) -> str:
    """The meaning in words that the glossary has: statistics by their names."""
    names: dict[str, ir.Expr] = {}
    for forward_pass in plan.analysis.forward.passes:
        for s in forward_pass.statistics:
            names[s.symbol] = ir.apply("exp", ir.Name(s.name)) if s.logarithmic else ir.Name(s.name)
    text = ir.substitute(meaning, names)
    return _defined(text).strip() if isinstance(text, ir.Root) else notation.text(text)


def forward_formulas(plan: OpPlan) -> tuple[str, ...]:
    """The forward as derived, a line per quantity."""
    forward = plan.analysis.forward
    lines = [line for number, this in enumerate(forward.passes, 1) for line in _pass_formulas(number, this)]
    lines += [f"{a.name} = sum({_times('v', a)})" for a in forward.accumulators]
    terms = zip(forward.accumulators, forward.factors, strict=True)
    output = " + ".join(_scaled_name(a, factor) for a, factor in terms)
    pivot = pivot_of_output(plan)
    lines.append(f"o = {output}" + (f", relative to {pivot}, which cancels in what follows" if pivot else ""))
    if plan.analysis.output is not None:
        lines += [*_channel_sums(plan.analysis.output.sums), f"out = {notation.text(plan.analysis.output.value)}"]
    if plan.analysis.support is not None:
        lines.append(f"tiles with {notation.text(plan.analysis.support)} <= 0 throughout are passed over")
    return tuple(folded for line in lines for folded in _folded(line))


def _channel_sums(sums: Iterable[ChannelSum]) -> Iterator[str]:
    return (f"{s.name} = csum({notation.text(s.body)})" for s in sums)


def _times(vector: str, carry: Accumulator) -> str:
    return vector if carry.body == ir.number(1) else notation.text(ir.apply("mul", carry.body, ir.Name(vector)))


def _scaled_name(accumulator: Accumulator, factor: ir.Expr) -> str:
    name = ir.Name(accumulator.name)
    return accumulator.name if factor == ir.number(1) else notation.text(ir.apply("mul", name, factor))


def _pass_formulas(number: int, this: ForwardPass) -> list[str]:
    lines = [f"{p.name} = max({notation.text(p.exponent)})" for p in this.pivots]
    lines += [_carry_formula(c) for c in this.carries]
    lines += [line for s in this.statistics for line in _statistic_formula(s)]
    if this.root is None:
        return [f"pass {number}: {line}" for line in lines]
    return [f"pass {number}, for each trial of {this.root.name}: {line}" for line in (*lines, *_trial(this.root))]


def _statistic_formula(statistic: RowStatistic) -> tuple[str, ...]:
    """None for what is its carry."""
    if statistic.is_kept_from_zero:
        return (f"{statistic.name} counts as 2**-100, in float64 as 2**-1000, where it is closer to zero",)
    if statistic.value == ir.Name(statistic.name):
        return ()
    return (f"{statistic.name} = {notation.text(statistic.value)}",)


def _trial(root: Root) -> tuple[str, ...]:
    residual, *derivatives, magnitude = map(notation.text, (root.residual, root.slope, root.curvature, root.magnitude))
    low, high = notation.text(root.low), notation.text(root.high)
    first = f"the first one is {low}" if root.direction else f"the first ones are {high} and {low}"
    return f"residual {residual}, of terms of size {magnitude}", f"its derivatives {' and '.join(derivatives)}", first


def _carry_formula(carry: Carry) -> str:
    return f"{carry.name} = {carry.kind}({notation.text(carry.body)})"


def backward_formulas(plan: OpPlan) -> tuple[str, ...]:
    """The backward as derived, a line per quantity."""
    backward, output = plan.analysis.backward, plan.analysis.output
    lines = [*_channel_sums(output.adjoints), f"do = {notation.text(output.gradient)}"] if output else []
    lines += [f"{s.name} = sum({notation.text(s.body)})" for s in backward.prepass]
    lines += [f"p = {notation.text(backward.weights)}", f"dqk = {notation.text(backward.dqk)}"]
    lines += [_dq(plan.deferred), "dk = sum over queries of dqk q; dv = sum over queries of p do"]
    for gradient in backward.inputs:
        lines += [f"{s.name} = sum({notation.text(s.body)})" for s in gradient.sums]
        over = {"row": "", "key": "sum over queries of ", "pair": ""}[gradient.level]
        by_output = (
            [f"csum({notation.text(s.body)})" for s in output.inputs if s.name == gradient.name] if output else []
        )
        own = [] if by_output and gradient.value == ir.number(0) else [f"{over}{notation.text(gradient.value)}"]
        lines.append(f"gradient of {gradient.name}: {' + '.join([*own, *by_output])}")
    return tuple(folded for line in lines for folded in _folded(line))


def _dq(deferred: Deferred | None) -> str:
    if deferred is None:
        return "dq = sum over keys of dqk k"
    own, slope = notation.text(deferred.own), notation.text(deferred.slope)
    return f"dq = sum over keys of ({own}) k + {deferred.late} * sum over keys of ({slope}) k"
