"""A normalizer that takes a mask as a tensor: the formula of another one in which hidden keys take no part.

Calls of an op know causal masks and windows alone. Where a mask is a tensor, such as that of padding, it becomes the
input `seen`, 1 where the row sees the key and 0 elsewhere: hidden keys are left out of every reduction and get weight
zero. A row that sees no key is zero.
"""

import dataclasses

from attngen import ir, notation
from attngen.ir import Apply, Expr, Input, Name, Normalizer, Reduce, apply, number

SEEN = "seen"
_SHOWN = apply("gt", Name(SEEN), number("0.5"))
_HIDDEN = number(-(10**30))  # in the place of minus infinity: its exponential is zero
_FIELDS = ("score", "weights", "output")
_NEUTRAL = {"sum": number(0), "amax": _HIDDEN, "amin": number(10**30)}


def masked(normalizer: Normalizer, axes: tuple[ir.Axis, ...]) -> str:
    """The spec's text, with `seen` over the axes. Numbers stand for static inputs.

    Raises ValueError for a spec that has an input of this name itself.
    """
    if SEEN in {source.name for source in normalizer.inputs}:
        raise ValueError(f"'{normalizer.name}' has an input named '{SEEN}' itself")
    weights = _masked(ir.substitute(normalizer.weights, {"n": _COUNT}))
    seen = Input(SEEN, axes, grad=False)
    changed = dataclasses.replace(
        normalizer,
        inputs=(*normalizer.inputs, seen),
        weights=_shown(weights, number(0)),
        output=_zero_for_nothing(normalizer.output),
    )
    return spec_text(changed, f"{normalizer.name}_seen_by_{'_'.join(axes)}")


def spec_text(normalizer: Normalizer, name: str) -> str:
    """A spec of the normalizer's formulas under another name."""
    lines = [f"name: {name}", "inputs:" if normalizer.inputs else ""]
    lines += [_entry(source) for source in normalizer.inputs]
    roots = {root.variable: root for root in _roots(normalizer.weights)}
    lines += ["let:" if roots else "", *(_let(root) for root in roots.values())]
    lines += [f"{field}: {notation.text(_named(getattr(normalizer, field)))}" for field in _FIELDS]
    return "\n".join(line for line in lines if line) + "\n"


def _roots(expr: Expr) -> list[ir.Root]:
    """The roots in a formula, each behind those that it is made of."""
    inner = [root for child in ir.children(expr) for root in _roots(child)]
    return [*inner, expr] if isinstance(expr, ir.Root) else inner


def _named(expr: Expr) -> Expr:
    """The formula with names in the place of roots."""
    if isinstance(expr, ir.Root):
        return Name(expr.variable)
    return ir.with_children(expr, tuple(_named(child) for child in ir.children(expr)))


def _let(root: ir.Root) -> str:
    low, high, residual = (notation.text(_named(part)) for part in (root.low, root.high, root.residual))
    return f'  {root.variable}: {{root: "{residual}", between: ["{low}", "{high}"]}}'


def _zero_for_nothing(output: Expr) -> Expr:
    """The step behind the weighted sum, but for zeros: an op that knows the mask leaves such rows alone."""
    if output == Name("o"):
        return output
    nothing = apply("eq", Reduce("csum", apply("abs", Name("o"))), number(0))
    return apply("where", nothing, number(0), output)


def _entry(source: Input) -> str:
    default = f', default: "{notation.text(source.default)}"' if source.default is not None else ""
    grad = "" if source.grad else ", grad: false"
    return f"  {source.name}: {{shape: [{', '.join(source.axes)}]{default}{grad}}}"


def _shown(expr: Expr, otherwise: Expr) -> Expr:
    return apply("where", _SHOWN, expr, otherwise)


_COUNT = Reduce("sum", number(1))


def _masked(expr: Expr) -> Expr:
    """Reductions over the keys that are seen, and exponentials that are zero at all others."""
    match expr:
        case Reduce("count", _):
            return _masked(_COUNT)
        case Reduce("mean", body) if body is not None:
            return apply("div", _masked(Reduce("sum", body)), _masked(_COUNT))
        case Reduce(kind, body) if body is not None:
            inside = _masked(body)
            return Reduce(kind, inside if kind == "sum" and _vanishes(inside) else _shown(inside, _NEUTRAL[kind]))
        case Apply("div", (a, b)) if any(_may_be_nothing(part) for part in ir.walk(_masked(b))):
            below = _masked(b)  # 0 in a row that sees no key
            return apply("div", _masked(a), apply("where", apply("eq", below, number(0)), number(1), below))
        case Apply("exp", (x,)):
            return apply("exp", _shown(_masked(x), _HIDDEN))
    return ir.with_children(expr, tuple(_masked(child) for child in ir.children(expr)))


def _may_be_nothing(expr: Expr) -> bool:
    """Whether it is a sum that is zero in a row that sees no key. Sums of exponentials are not: see `_HIDDEN`."""
    return isinstance(expr, Reduce) and expr.kind == "sum" and expr.body is not None and not _vanishes(expr.body)


def _vanishes(expr: Expr) -> bool:
    """Whether a hidden key adds nothing, because an exponential is a factor."""
    match expr:
        case Apply("exp", (Apply("where", (condition, _, otherwise)),)):
            return condition == _SHOWN and otherwise == _HIDDEN
        case Apply("mul", (a, b)):
            return _vanishes(a) or _vanishes(b)
        case Apply("div" | "neg" | "abs", (a, *_)):
            return _vanishes(a)
        case Apply("add" | "sub", (a, b)):
            return _vanishes(a) and _vanishes(b)
    return False
