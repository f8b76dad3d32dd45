"""The checks of large calls, for any device: against float64 at the sizes of the bench, and the same call many times.

The float64 results come head by head, a block of rows at a time. What a result may err: plain torch of the formula in
the same type, which is what people would use, errs on the same head by some amount; twice that is allowed, and a
rounding of the largest element.
"""

from dataclasses import dataclass

import torch

from attngen.verify.blockwise import one_head
from attngen.verify.case import Case
from attngen.verify.draw import Drawn
from attngen.verify.reference import Operands, attention
from attngen.verify.subject import Subject
from attngen.verify.tolerance import Results, results


@dataclass(frozen=True)
class Sizes:
    """Batch, heads and length of the large calls, and how often the same call is repeated."""

    batch: int
    heads: int
    length: int
    repeats: int
    plain: int  # rows of the call that plain torch is measured on


LARGE = Sizes(batch=2, heads=8, length=4096, repeats=200, plain=1024)
TINY = Sizes(batch=1, heads=2, length=48, repeats=3, plain=48)


def case_of(sizes: Sizes, d: int, dtype: str, is_causal: bool) -> Case:
    return Case(batch=sizes.batch, kv_heads=sizes.heads // 2, group=2, n_q=sizes.length, n_k=sizes.length, d=d, d_v=d,
                dtype=dtype, is_causal=is_causal)  # type: ignore[arg-type]  # fmt: skip


def check_against_float64(subject: Subject, case: Case, sizes: Sizes) -> None:
    """Output and gradients of the first head are as near to the formula as plain torch, or nearer, within a factor."""
    drawn = subject.draw(case)
    found = subject.results(drawn, case.call)
    exact = one_head(subject.normalizer, drawn, case.is_causal)
    allowed = plain_errors(subject, case, sizes)
    for name, expected in exact.items():
        got = found[name][:1, : expected.shape[1]].double()
        assert got.isfinite().all(), name
        scale = float(expected.abs().max())
        error = float((got - expected).abs().max()) / scale
        assert error <= 2 * allowed[name] + 4 * torch.finfo(drawn.operands.query.dtype).eps, (
            f"{name} errs by {error:.3g} of its largest element, plain torch by {allowed[name]:.3g}"
        )


def plain_errors(subject: Subject, case: Case, sizes: Sizes) -> dict[str, float]:
    """How far the formula in plain torch, in the case's type, is from float64, relative to the largest element."""
    small = case_of(Sizes(1, 2, sizes.plain, 0, 0), case.d, case.dtype, case.is_causal)
    drawn = subject.draw(small)
    exact = one_head(subject.normalizer, drawn, case.is_causal)
    plain = plain_results(subject, drawn, small)
    return {
        name: float((plain[name][:1, : x.shape[1]].double() - x).abs().max() / x.abs().max())
        for name, x in exact.items()
    }


def plain_results(subject: Subject, drawn: Drawn, case: Case) -> Results:
    def run(operands: Operands, call: object) -> torch.Tensor:
        return attention(subject.normalizer, operands, case.call, drawn.operands.query.dtype)

    return results(run, drawn, case.call, frozenset())


def check_nothing_moves(subject: Subject, case: Case, repeats: int) -> None:
    """The same call again and again, with other work in between: every result is the first one, to the bit."""
    drawn = subject.draw(case)
    first = subject.results(drawn, case.call)
    for number in range(repeats):
        between = torch.randn(64 * (1 + number % 7), 64, device=drawn.operands.query.device)
        again = subject.results(drawn, case.call)
        del between
        for name, expected in first.items():
            assert torch.equal(again[name], expected), f"{name} moved at repeat {number}"
