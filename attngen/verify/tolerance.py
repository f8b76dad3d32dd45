"""What an op may err: the float64 result of a case, and per tensor the largest error that low precision excuses.

    tolerance(x) = 2 * max(E_plain(x), E_moved(x)) + 2 * eps * max|x| + 2 * eps32 * (1 + S) * M(x)

E_plain is the largest error of the same written-out formula in plain torch in the case's dtype (the field's rule).
E_moved is the largest change of the float64 result when every element of the operands moves by a rounding, up or down,
and every operation errs by one of float32 (Note [Luck]). eps is the dtype's and pays for the rounding of the result.
The last term pays for what ops do in float32, whatever the dtype: M is the size of the terms that make up x, so that a
result that cancels to zero is excused the rounding of its terms, and S is the largest score: exp makes the absolute
error of a score, S * eps32, the relative error of a weight, and a saved log-sum-exp carries it even where the weight
does not depend on the score.
Kernels of the fast form are excused 2 * E_fast(x) more: the largest change of the float64 result when logistic
functions and tanh err by all that is allowed, in several patterns of signs (`attngen.verify.approximate`).
A result is a mapping from `out`, `grad query`, `grad key`, `grad value` and `grad NAME` to tensors.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from attngen import ir
from attngen.build import Precision
from attngen.verify.approximate import PATTERNS
from attngen.verify.draw import Drawn
from attngen.verify.reference import PLAINLY, Call, Manner, Operands, attention, output, weights

Results = dict[str, Tensor]
Run = Callable[[Operands, Call], Tensor]


class Undecided(Exception):
    """The case says nothing about the op, because its float64 meaning is not finite or not representable."""


class Violation(Exception):
    """The op breaks the property; the message says where and by how much."""


@dataclass(frozen=True, slots=True)
class Expectation:
    """The float64 results of a case, and the largest error per tensor that an op may have."""

    exact: Results
    tolerance: Mapping[str, float]


def expect(normalizer: ir.Normalizer, drawn: Drawn, call: Call, precision: Precision = "exact") -> Expectation:
    """The float64 results of a case and their tolerances. Raises Undecided where there is no finite result."""
    dtype = drawn.operands.query.dtype
    exact = reference_results(normalizer, drawn, call, torch.float64)
    others = [reference_results(normalizer, drawn, call, dtype)]
    direct = _direct(normalizer, drawn, call)
    for errors, moved in enumerate(_moved(drawn)):
        whole = reference_results(normalizer, moved, call, torch.float64, Manner(errors=errors))
        _check_finite(whole, dtype)
        through_statistics = _difference(whole, _direct(normalizer, moved, call, errors))
        others += [whole, {name: direct[name] + x for name, x in through_statistics.items()}]
    _check_finite(exact, dtype)
    terms, score = _terms(normalizer, drawn, call), _largest_score(normalizer, drawn, call)
    inside = torch.finfo(torch.float32).eps * (1 + score)
    floors = {n: 2 * (inside * max(terms[n], _UNDERFLOW) + _rounding(x, dtype)) for n, x in exact.items()}
    if precision == "fast":
        manners = [Manner(approximate=pattern) for pattern in range(PATTERNS)]
        erring = [reference_results(normalizer, drawn, call, torch.float64, manner) for manner in manners]
        floors = {n: floors[n] + _excused(x, [o[n] for o in erring]) for n, x in exact.items()}
    return Expectation(exact, {n: _excused(x, [o[n] for o in others]) + floors[n] for n, x in exact.items()})


def _rounding(x: Tensor, dtype: torch.dtype) -> float:
    return torch.finfo(dtype).eps * max(float(x.abs().max()), torch.finfo(dtype).smallest_normal)


def _check_finite(found: Results, dtype: torch.dtype) -> None:
    for name, x in found.items():
        if not float(x.abs().max()) < torch.finfo(dtype).max:  # so that NaN is caught as well
            raise Undecided(f"{name} is not finite in float64, or beyond the range of {dtype}")


def _excused(exact: Tensor, others: list[Tensor]) -> float:
    errors = [float((other.double() - exact).abs().max()) for other in others]
    return 2 * max(error for error in errors if math.isfinite(error))  # plain torch may overflow: no excuse for an op


# Note [Luck]
# On a case of a few numbers plain torch may happen to be exact, and twice its error is then no measure of anything. An
# op that errs no more than a rounding of its operands would change the result is right by any standard, and the larger
# of two such changes is rarely small by luck. It also measures cases where plain torch overflows and an op must not.
# A gradient is the sum of a direct part and a part through the row statistics. The second one moves alone as well,
# because ops compute its factor delta = dO . O from the output, which is rounded by then.
_MOVES = 2

_UNDERFLOW = 2.0**-100  # float32 products of numbers this small lose digits, or are flushed to zero on a GPU


def _moved(drawn: Drawn) -> Iterator[Drawn]:
    """Every element of every tensor times 1 + eps/2 or 1 - eps/2, in float64."""
    generator = torch.Generator().manual_seed(0)
    eps = torch.finfo(drawn.operands.query.dtype).eps

    def moved(x: Tensor) -> Tensor:
        sign = torch.randint(2, x.shape, generator=generator, dtype=torch.float64) * 2 - 1
        return x.double() * (1 + eps / 2 * sign.to(x.device))

    old = drawn.operands
    for _ in range(_MOVES):
        inputs = {name: moved(x) if isinstance(x, Tensor) else x for name, x in old.inputs.items()}
        yield Drawn(Operands(moved(old.query), moved(old.key), moved(old.value), inputs), moved(drawn.grad_out))


def _terms(normalizer: ir.Normalizer, drawn: Drawn, call: Call) -> dict[str, float]:
    """M: as `_terms_of_sum` has it; an output formula turns it as it turns small changes (Note [Turned terms])."""
    if normalizer.output == _WEIGHTED_SUM:
        return _terms_of_sum(normalizer, drawn, call)
    plain = replace(normalizer, output=_WEIGHTED_SUM)
    turned = replace(drawn, grad_out=_turned_back(normalizer, drawn, call))
    of_sum, of_whole = _terms_of_sum(plain, turned, call), _terms_of_sum(normalizer, drawn, call)
    absolute = _absolute_sum(plain, drawn.operands, call)
    return {n: max(x, of_whole[n]) for n, x in of_sum.items()} | {"out": _turned(normalizer, drawn, call, absolute)}


# Note [Turned terms]
# An output formula can shrink and enlarge: o / |o| gives a number near 1 whatever the size of the terms that o is the
# sum of, and an error of o grows by 1 / |o|. So terms are taken of the weighted sum, with dO turned back into its
# gradient, and those of the output are what signs drawn at random make of them; what is sensitive to one channel alone
# is sensitive to many sign patterns.
_WEIGHTED_SUM = ir.Name("o")
_SIGNS, _SMALL = 4, 1e-6


def _turned(normalizer: ir.Normalizer, drawn: Drawn, call: Call, change: Tensor) -> float:
    """How far the output moves with the weighted sum, per size of `change`."""
    summed = attention(replace(normalizer, output=_WEIGHTED_SUM), drawn.operands, call, torch.float64)
    generator, moves = torch.Generator().manual_seed(0), []
    before = output(normalizer, replace(drawn.operands, value=summed), call)
    for _ in range(_SIGNS):
        sign = torch.randint(2, change.shape, generator=generator, dtype=torch.float64) * 2 - 1
        moved = summed + _SMALL * change * sign.to(change.device)
        after = output(normalizer, replace(drawn.operands, value=moved), call)
        moves.append(float((after - before).abs().max()) / _SMALL)
    return max(moves)


def _turned_back(normalizer: ir.Normalizer, drawn: Drawn, call: Call) -> Tensor:
    """The size of the weighted sum's gradient: of its direct part, and of its part through sums over the channels."""
    plain = replace(normalizer, output=_WEIGHTED_SUM)
    summed = attention(plain, drawn.operands, call, torch.float64).detach().requires_grad_()
    parts = []
    for hold in (True, False):
        result = output(normalizer, replace(drawn.operands, value=summed), call, Manner(hold_statistics=hold))
        for upstream in (drawn.grad_out.double(), drawn.grad_out.double().abs()):
            (grad,) = _gradients(result, [summed], upstream)
            parts.append(torch.zeros_like(summed) if grad is None else grad)
    direct, direct_of_size, whole, whole_of_size = parts
    through = torch.maximum((whole - direct).abs(), (whole_of_size - direct_of_size).abs())
    return direct_of_size.abs() + through


def _terms_of_sum(normalizer: ir.Normalizer, drawn: Drawn, call: Call) -> dict[str, float]:
    """For the output sum_j |w_j v_j|; for a gradient its direct part and its part through the row statistics.

    These two are what cancels, down to an exact zero where the weights are invariant. Both are taken with |v| and |dO|,
    because each contains dP = dO . v, whose terms cancel as well.
    """
    old = drawn.operands
    signless = replace(drawn.with_(value=old.value.abs()), grad_out=drawn.grad_out.abs())
    whole = reference_results(normalizer, signless, call, torch.float64)
    direct = _direct(normalizer, signless, call)
    through_statistics = _difference(whole, direct)
    terms = {n: float(x.abs().max() + through_statistics[n].abs().max()) for n, x in direct.items()}
    return terms | {"out": float(_absolute_sum(normalizer, old, call).max())}


def _absolute_sum(normalizer: ir.Normalizer, operands: Operands, call: Call) -> Tensor:
    """sum_j |w_j v_j|."""
    weight = weights(normalizer, operands, call, torch.float64).abs()
    return weight @ operands.value.double().abs().repeat_interleave(weight.shape[1] // operands.key.shape[1], dim=1)


def _largest_score(normalizer: ir.Normalizer, drawn: Drawn, call: Call) -> float:
    scores = weights(replace(normalizer, weights=ir.Name("s")), drawn.operands, call, torch.float64)
    return float(scores.abs().max())


def reference_results(
    normalizer: ir.Normalizer, drawn: Drawn, call: Call, dtype: torch.dtype, manner: Manner = PLAINLY
) -> Results:
    """The written-out formula in `dtype` and its gradients by autograd."""

    def run(operands: Operands, call: Call) -> Tensor:
        return attention(normalizer, operands, call, dtype, manner)

    return results(run, drawn, call, differentiable(normalizer))


def _direct(normalizer: ir.Normalizer, drawn: Drawn, call: Call, errors: int | None = None) -> Results:
    """Output and gradients as if the row statistics were constants."""
    return reference_results(normalizer, drawn, call, torch.float64, Manner(hold_statistics=True, errors=errors))


def _difference(one: Results, other: Results) -> Results:
    return {name: x - other[name] for name, x in one.items()}


def differentiable(normalizer: ir.Normalizer) -> frozenset[str]:
    """The inputs that have a gradient."""
    return frozenset(source.name for source in normalizer.inputs if source.grad)


def results(run: Run, drawn: Drawn, call: Call, with_gradient: frozenset[str]) -> Results:
    """The output of `run` and its gradients with respect to query, key, value and the inputs named."""
    old = drawn.operands
    leaves = {"query": _leaf(old.query), "key": _leaf(old.key), "value": _leaf(old.value)}
    inputs = {name: _leaf(x) if isinstance(x, Tensor) else x for name, x in old.inputs.items()}
    leaves |= {name: x for name, x in inputs.items() if isinstance(x, Tensor) and name in with_gradient}
    out = run(Operands(leaves["query"], leaves["key"], leaves["value"], inputs), call)
    grad_out = drawn.grad_out.to(out.dtype)
    grads = _gradients(out, list(leaves.values()), grad_out)
    pairs = zip(leaves.items(), grads, strict=True)
    return {"out": out.detach()} | {f"grad {name}": torch.zeros_like(x) if g is None else g for (name, x), g in pairs}


def _gradients(out: Tensor, leaves: list[Tensor], grad_out: Tensor) -> tuple[Tensor | None, ...]:
    if not out.requires_grad:  # nothing but statistics that are held
        return (None,) * len(leaves)
    return torch.autograd.grad(out, leaves, grad_out, retain_graph=True, allow_unused=True)


def _leaf(tensor: Tensor) -> Tensor:
    return tensor.detach().requires_grad_()


def check(got: Results, expected: Expectation) -> float:
    """The largest error in units of the tolerance. Raises Violation where it is above 1, or an element not finite."""
    return max(check_one(name, got[name], exact, expected.tolerance[name]) for name, exact in expected.exact.items())


def check_one(name: str, got: Tensor, exact: Tensor, tolerance: float) -> float:
    """As `check`, for one tensor."""
    if got.shape != exact.shape:
        raise Violation(f"{name} has the shape {tuple(got.shape)}, should be {tuple(exact.shape)}")
    error = (got.double() - exact.double()).abs().nan_to_num(nan=math.inf)
    ratio = float(error.max()) / tolerance if float(error.max()) > 0 else 0.0
    if ratio > 1:
        raise Violation(_place(name, got, exact, error) + f", {ratio:.3g} times the tolerance of {tolerance:.3g}")
    return ratio


def check_equal(name: str, got: Tensor, other: Tensor, what: str) -> None:
    """Raises Violation unless the two are equal bit by bit, or both NaN; `what` says why they should be."""
    if not bool(((got == other) | (got.isnan() & other.isnan())).all()):
        error = (got.double() - other.double()).abs().nan_to_num(nan=math.inf)
        raise Violation(_place(name, got, other, error) + f": {what}")


def _place(name: str, got: Tensor, exact: Tensor, error: Tensor) -> str:
    flat = int(error.argmax())
    index = ", ".join(str(int(i)) for i in torch.unravel_index(torch.tensor(flat), error.shape))
    values = f"{float(got.flatten()[flat]):.9g}, should be {float(exact.flatten()[flat]):.9g}"
    return f"{name}[{index}] is {values}: the error is {float(error.flatten()[flat]):.3g}"
