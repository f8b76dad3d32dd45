"""The target Hopper: `OpPlan` -> what the templates of its kernels print, or None if they can't say the plan.

The formulas are those of the plain Triton kernels, in a spelling of fewer instructions (`printers.HOPPER`); what is the
kernels' own is their structure: a warp that loads, warpgroups that compute, asynchronous products. They walk over the
keys once and have one accumulator; whatever else a plan asks for is left to the plain kernels.
"""

import re
from collections.abc import Iterable
from dataclasses import replace
from typing import Literal

from attngen import ir
from attngen.emit.configs import HOPPER_BACKWARD, HOPPER_NARROW, HOPPER_WIDE
from attngen.emit.context import ForwardText, HopperText, KeyText, Section
from attngen.emit.printers import HOPPER
from attngen.emit.statements import OVER_KEYS, PassText, Scribe
from attngen.schedule import OpPlan

# Formulas of more lines don't fit into the registers beside the scores and the output, with 64 keys or 128.
MOST_LINES, MOST_LINES_OF_WIDE_TILES, MOST_LINES_OF_BACKWARDS = 6, 3, 3
_LIGHT_FUNCTIONS = {"tl.exp2", "tl.maximum", "_logistic2_shared", "_square"}

Target = Literal["any", "hopper"]  # what a module is built for: every device alike, or Hopper's own kernels as well

# log(1 + u) / u on [0, 1], highest power first: minimax fit of degree 5, relative error below 9e-6. Weights are rounded
# to 16 bits, which is 200 times as much.
LOG1P_SHORT = (-0.02386915, 0.10122229, -0.21004869, 0.3252067, -0.49936134, 0.9999916)


def is_served(plan: OpPlan) -> bool:
    """Whether the kernels for Hopper know this kind of plan."""
    forward = plan.analysis.forward
    walked_once = len(forward.passes) == 1 and forward.passes[0].root is None
    ends_there = plan.analysis.output is None and not plan.saved_accumulators
    pairs = any({"query", "key"} <= set(i.axes) for i in plan.normalizer.inputs)
    in_form = walked_once and ends_there and not pairs and len(forward.accumulators) == 1
    return in_form and not _uses_stack(plan) and _lines(_printed(plan)) <= MOST_LINES


def _printed(plan: OpPlan) -> PassText:
    return Scribe(without_support(plan), HOPPER, OVER_KEYS).forward_pass(0)


def _lines(this: PassText) -> int:
    """A measure of how many tiles of values live at a time."""
    return len(this.before + this.after)


def _uses_stack(plan: OpPlan) -> bool:
    """Triton reduces the arguments of sin and cos there."""
    nodes = ir.walk(plan.analysis.forward.accumulators[0].body)
    return any(isinstance(node, ir.Apply) and node.op in ("sin", "cos") for node in nodes)


def without_support(plan: OpPlan) -> OpPlan:
    """The plan without the test for empty tiles: the kernels load ahead of it."""
    return replace(plan, analysis=replace(plan.analysis, support=None))


def has_five_products(plan: OpPlan) -> bool:
    """Whether a walk over the queries has all that dQ, dK and dV need, so that one kernel gives the three of them.

    Row adjoints other than delta are sums over the keys.
    """
    backward = plan.analysis.backward
    from_delta = set(plan.handed_over) <= {backward.delta} and not backward.products
    return from_delta and not plan.key_gradients and plan.deferred is None


def hopper_text(forward: ForwardText, backward: KeyText | None) -> HopperText:
    """Both are what printers for Hopper made of a plan that is served."""
    tiles = HOPPER_WIDE if _is_light(forward.passes[0]) else HOPPER_NARROW
    backward = backward if backward and _fits_beside_gradients(backward.main) else None
    used = _used(backward) if backward else ()
    return HopperText(
        forward, _given(forward.passes[0]), backward, used, _types(forward), tiles, HOPPER_BACKWARD, LOG1P_SHORT
    )


def _is_light(this: PassText) -> bool:
    """Whether the registers hold a tile of 128 keys beside what its formulas need."""
    bodies = {carry.body for carry in this.carries} | {accumulator.body for accumulator in this.accumulators}
    keys = any(use.level == "key" for use in this.uses.inputs)
    text = "\n".join(this.before + this.after)
    beside_logistic = "_logistic2_shared" in text and text.count("qk") > 1  # the scores wait for their reciprocals
    return _lines(this) <= MOST_LINES_OF_WIDE_TILES and len(bodies) == 1 and not keys and not beside_logistic


def _fits_beside_gradients(main: Section) -> bool:
    """Whether the registers hold dK and dV and, of every score, what its formulas need."""
    functions = set(re.findall(r"[\w.]+(?=\()", "\n".join(main.inner)))
    varying = [use for use in main.uses.inputs if use.level != "uniform"]
    in_registers = functions <= _LIGHT_FUNCTIONS and main.uses.builtins.isdisjoint({"i", "j", "n"})
    return in_registers and len(main.inner) <= MOST_LINES_OF_BACKWARDS and not varying


def _given(this: PassText) -> tuple[str, ...]:
    sizes = {"d": "head_dim", "n_q": "query_count", "n_k": "key_count", "scale": "scale", "i": "i", "n": "n"}
    names = [text for name, text in sizes.items() if name in this.uses.builtins]
    names += [f"{use.name}_in" for use in this.uses.inputs if use.level in ("uniform", "row")]
    for use in this.uses.inputs:
        names += [f"{use.name}_in_base", f"{use.name}_in_stride_key"] if use.level == "key" else []
    return (*names, *_computed(this.outer))


def _computed(lines: Iterable[str]) -> tuple[str, ...]:
    return tuple(line.split(" = ", 1)[0] for line in lines)


def _used(backward: KeyText) -> tuple[str, ...]:
    """What the lines of a tile read beside its products, and don't compute themselves."""
    main = backward.main
    known = {*_computed(main.inner), "qk", "LOG2E", "SHARED", "tl", "float32", "float"}
    words = re.findall(r"(?<![.\w])[a-z]\w*(?![\w(])", "\n".join((*main.inner, main.weight, main.dqk)))
    return tuple(word for word in dict.fromkeys(words) if word not in known)


def _types(forward: ForwardText) -> tuple[str, ...]:
    """Weights that are divided at the end, and that no pivot bounds until then, may leave float16's range."""
    (accumulator,), (term,) = forward.passes[0].accumulators, forward.output.terms
    bounded = accumulator.rescale is not None or term.factor == "1.0"
    return ("bfloat16", "float16") if bounded else ("bfloat16",)
