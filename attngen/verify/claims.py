"""The properties that a spec claims for its weights, each held against the formula in float64 and against the op.

A claim that the formula itself breaks is a violation as well: the spec says something untrue. The properties that need
no claim are in `properties`.
"""

from dataclasses import replace

import torch
from torch import Tensor

from attngen import ir
from attngen.verify.case import Case
from attngen.verify.draw import Drawn
from attngen.verify.properties import Property, contiguous, unmasked
from attngen.verify.reference import attention, visible, weights
from attngen.verify.subject import Subject
from attngen.verify.tolerance import Undecided, Violation, check_one

_EXACT = 1e-9  # what float64 may miss a claim by, relative to the claimed value


def claimed(normalizer: ir.Normalizer) -> tuple[Property, ...]:
    """A property for each claim of the spec."""
    claims = normalizer.claims
    wanted = {
        _ROWS_SUM: claims.rows_sum_to is not None,
        _SHIFT: claims.shift_invariant,
        _NONNEGATIVE: claims.nonnegative,
        _SPARSE: claims.sparse,
    }
    return tuple(prop for prop, is_claimed in wanted.items() if is_claimed)


def _weights(subject: Subject, drawn: Drawn, case: Case) -> Tensor:
    """The formula's weights in float64. Raises Undecided where they are not finite."""
    exact = weights(subject.normalizer, drawn.operands, case.call, torch.float64)
    if not bool(exact.isfinite().all()):
        raise Undecided("the weights are not finite in float64")
    return exact


def _forward(subject: Subject, drawn: Drawn, case: Case) -> tuple[Tensor, Tensor, float]:
    """The op's output, the float64 output, and the tolerance."""
    expected = subject.expect(drawn, case.call)
    with torch.no_grad():
        return subject.run(drawn.operands, case.call), expected.exact["out"], expected.tolerance["out"]


def _false(claim: str, value: float) -> Violation:
    return Violation(f"the formula itself breaks the claim {claim}: in float64 it gives {value:.9g}")


def _rows_sum(subject: Subject, case: Case) -> float:
    """With v = 1 the output is the sum of a row's weights."""
    drawn = subject.draw(case)
    total = float(subject.normalizer.claims.rows_sum_to or 0)
    seen = visible(case.call, case.n_q, case.n_k).any(-1).to(subject.device)
    error = (_weights(subject, drawn, case).sum(-1)[:, :, seen] - total).abs()
    if error.numel() and float(error.max()) > _EXACT * max(1.0, abs(total)):
        raise _false(f"rows_sum_to: {total:g}", total + float(error.max()))
    ones = drawn.with_(value=torch.ones_like(drawn.operands.value))
    got, exact, tolerance = _forward(subject, ones, case)
    return check_one("sum of the row's weights", got, total * seen[:, None].expand_as(exact).to(exact), tolerance)


def _shift(subject: Subject, case: Case) -> float:
    """A constant on all scores of a row changes nothing: in the formula, and in the op through one more channel.

    The last channel of every key is 1, and the last one of the query 0 or a constant. Where the spec's score is not
    additive in that (a soft cap), the op is not asked.
    """
    drawn = subject.draw(case)
    shifted = replace(subject.normalizer, weights=_shifted(subject.normalizer.weights))
    exact = _shown(subject, drawn, case)
    error = float((_shown(replace(subject, normalizer=shifted), drawn, case) - exact).abs().max())
    if error > _EXACT * max(1.0, float(exact.abs().max())):
        raise _false("shift_invariant", error)
    old = drawn.operands
    key = torch.cat([old.key[..., :-1], torch.ones_like(old.key[..., -1:])], dim=-1)
    low, high = (torch.cat([old.query[..., :-1], torch.full_like(old.query[..., -1:], x)], dim=-1) for x in (0.0, 8.0))
    _, exact_low, _ = _forward(subject, drawn.with_(query=low, key=key), case)
    got, exact_high, tolerance = _forward(subject, drawn.with_(query=high, key=key), case)
    if float((exact_low - exact_high).abs().max()) > _EXACT * max(1.0, float(exact_low.abs().max())):
        return 0.0
    return check_one("out with shifted scores", got, exact_low, tolerance)


def _shown(subject: Subject, drawn: Drawn, case: Case) -> Tensor:
    """The formula's weights in float64, or its output where a step follows, which may make up for the weights."""
    if subject.normalizer.output == ir.Name("o"):
        return _weights(subject, drawn, case)
    exact = attention(subject.normalizer, drawn.operands, case.call, torch.float64)
    if not bool(exact.isfinite().all()):
        raise Undecided("the output is not finite in float64")
    return exact


def _shifted(formula: ir.Expr) -> ir.Expr:
    return ir.substitute(formula, {"s": ir.apply("add", ir.Name("s"), ir.number(3))})


def _nonnegative(subject: Subject, case: Case) -> float:
    drawn = subject.draw(case)
    lowest = float(_weights(subject, drawn, case).min())
    if lowest < 0:
        raise _false("nonnegative", lowest)
    got, _, tolerance = _forward(subject, drawn.with_(value=drawn.operands.value.abs()), case)
    return check_one("negative part of out", got.clamp(max=0), torch.zeros_like(got), tolerance)


def _readable(case: Case) -> Case:
    """As many keys as value channels, so that a value of unit vectors reads the weights off."""
    return replace(unmasked(case), n_k=case.d_v)


def _spread(case: Case) -> Case:
    """Scores so far from each other that a sparse formula has zeros among its weights."""
    return replace(_readable(case), gain=max(case.gain, 8.0))


def _sparse(subject: Subject, case: Case) -> float:
    """Where the formula gives an exact zero, so does the op; and it gives some."""
    drawn = subject.draw(case)
    unit = torch.eye(case.n_k, dtype=drawn.operands.value.dtype, device=subject.device)
    read = drawn.with_(value=unit.expand_as(drawn.operands.value).contiguous())
    got, exact, tolerance = _forward(subject, read, case)
    if not bool((exact == 0).any()):
        raise Violation(f"the formula itself breaks the claim sparse: none of {exact.numel()} weights is zero")
    # A score within rounding of the threshold may fall on either side of it, with a weight within the tolerance.
    surplus = torch.where(exact == 0, got, torch.zeros_like(got))
    check_one("a weight that should be zero", surplus, torch.zeros_like(got), tolerance)
    if int((surplus != 0).sum()) > 0.01 * surplus.numel() + 1:
        raise Violation(f"{int((surplus != 0).sum())} weights are not zero that should be, though they are small")
    return 0.0


_ROWS_SUM = Property("rows_sum_to", "claimed: the weights of a row have this sum", _rows_sum, contiguous)
_SHIFT = Property("shift_invariant", "claimed: a constant on a row's scores changes nothing", _shift, contiguous)
_NONNEGATIVE = Property("nonnegative", "claimed: no weight is negative", _nonnegative, contiguous)
_SPARSE = Property("sparse", "claimed: weights that should be zero are exactly zero", _sparse, _spread)
