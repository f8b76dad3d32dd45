"""Gradients of inputs as sums that the backward kernel for Hopper makes on its way: `OpPlan` -> sums over the queries.

That kernel has the gradients of a tile's products q . k anyway, keys by queries. What is a multiple of these it sums up
over the queries of a head, for keys each; of an input without a key axis torch adds up the rest. What varies with the
query is left to the plain query kernel.
"""

from dataclasses import dataclass

from attngen import ir
from attngen.analysis.result import InputGradient
from attngen.emit.multiples import multiple
from attngen.emit.statements import split_uniform
from attngen.ir import Expr
from attngen.schedule import OpPlan

_OF_ALL_QUERIES = frozenset({"scale", "d", "n_q", "n_k", "pi", "j"})


@dataclass(frozen=True, slots=True)
class KeySum:
    """The gradient of the input `name`: `factor` times the sum over the queries of the gradients of q . k."""

    name: str
    factor: Expr


def sums_by_keys(plan: OpPlan) -> tuple[KeySum, ...]:
    """Those gradients of inputs that the backward kernel sums up. What needs no walk over the keys isn't among them."""
    _, dqk = split_uniform(plan.analysis.backward.dqk)
    known = _OF_ALL_QUERIES | {i.name for i in plan.normalizer.inputs if "query" not in i.axes}
    found = ((gradient.name, multiple(_of_pairs(gradient), dqk)) for gradient in _candidates(plan))
    return tuple(KeySum(name, factor) for name, factor in found if factor is not None and ir.names(factor) <= known)


def _candidates(plan: OpPlan) -> tuple[InputGradient, ...]:
    axes = {i.name: i.axes for i in plan.normalizer.inputs}
    summed = (g for g in plan.row_gradients if g.sums and "query" not in axes[g.name])
    return *summed, *plan.key_gradients


def _of_pairs(gradient: InputGradient) -> Expr:
    """Of an input without a query axis sums over keys and queries may change places: `value` is linear in its sum."""
    return ir.substitute(gradient.value, {total.name: total.body for total in gradient.sums})
