"""What a generated module says of itself in words and formulas: glossary, forward and backward as derived."""

from attngen import ir, notation
from attngen.analysis.result import Accumulator, Carry, ForwardPass
from attngen.schedule import AuxRow, OpPlan

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
    """The normalizer in one line."""
    lets = [f"{name} = {notation.text(body)}" for name, body in plan.normalizer.lets]
    return "; ".join([f"weights = {_weights(plan)}", *lets])


def _weights(plan: OpPlan) -> str:
    return notation.text(plan.normalizer.weights)


def glossary(plan: OpPlan) -> tuple[str, ...]:
    """One line per quantity that the derivation introduced."""
    lines = [f"{i.name}: an input, {input_doc(i)}" for i in plan.normalizer.inputs]
    for forward_pass in plan.analysis.forward.passes:
        names = {s.name for s in forward_pass.statistics}
        lines += [f"{_both_names(a)}: {_meant(plan, a)}" for a in plan.aux if a.row in names]
        lines += [f"{p.name}: running maximum of {notation.text(p.exponent)}" for p in forward_pass.pivots]
    products = plan.analysis.backward.products
    return (*lines, *(f"{p.name}: do . {p.accumulator}" for p in products))


def aux_doc(plan: OpPlan, row: AuxRow) -> str:
    """The meaning of a row value that a call returns, and what it is where there is nothing to reduce."""
    return f"{_meant(plan, row)}; {row.of_nothing} for rows that see no key"


def _both_names(row: AuxRow) -> str:
    return row.row if row.row == row.name else f"{row.row}, by the spec {row.name}"


def _meant(plan: OpPlan, row: AuxRow) -> str:
    """The meaning in words that the glossary has: statistics by their names."""
    names: dict[str, ir.Expr] = {}
    for forward_pass in plan.analysis.forward.passes:
        for s in forward_pass.statistics:
            names[s.symbol] = ir.apply("exp", ir.Name(s.name)) if s.logarithmic else ir.Name(s.name)
    return f"{row.prefix}{notation.text(ir.substitute(row.meaning, names))}{row.suffix}"


def forward_formulas(plan: OpPlan) -> tuple[str, ...]:
    """The forward as derived, a line per quantity."""
    forward = plan.analysis.forward
    lines = [line for number, this in enumerate(forward.passes, 1) for line in _pass_formulas(number, this)]
    lines += [f"{a.name} = sum({_times('v', a)})" for a in forward.accumulators]
    terms = zip(forward.accumulators, forward.factors, strict=True)
    output = " + ".join(_scaled_name(a, factor) for a, factor in terms)
    return (*lines, f"o = {output}")


def _times(vector: str, carry: Accumulator) -> str:
    return vector if carry.body == ir.number(1) else notation.text(ir.apply("mul", carry.body, ir.Name(vector)))


def _scaled_name(accumulator: Accumulator, factor: ir.Expr) -> str:
    name = ir.Name(accumulator.name)
    return accumulator.name if factor == ir.number(1) else notation.text(ir.apply("mul", name, factor))


def _pass_formulas(number: int, this: ForwardPass) -> list[str]:
    lines = [f"{p.name} = max({notation.text(p.exponent)})" for p in this.pivots]
    lines += [_carry_formula(c) for c in this.carries]
    lines += [f"{s.name} = {notation.text(s.value)}" for s in this.statistics if s.value != ir.Name(s.name)]
    return [f"pass {number}: {line}" for line in lines]


def _carry_formula(carry: Carry) -> str:
    return f"{carry.name} = {carry.kind}({notation.text(carry.body)})"


def backward_formulas(plan: OpPlan) -> tuple[str, ...]:
    """The backward as derived, a line per quantity."""
    backward = plan.analysis.backward
    lines = [f"{s.name} = sum({notation.text(s.body)})" for s in backward.prepass]
    lines += [f"p = {notation.text(backward.weights)}", f"dqk = {notation.text(backward.dqk)}"]
    lines += ["dq = sum over keys of dqk k; dk = sum over queries of dqk q; dv = sum over queries of p do"]
    for gradient in backward.inputs:
        lines += [f"{s.name} = sum({notation.text(s.body)})" for s in gradient.sums]
        over = {"row": "", "key": "sum over queries of ", "pair": ""}[gradient.level]
        lines.append(f"gradient of {gradient.name}: {over}{notation.text(gradient.value)}")
    return tuple(lines)
