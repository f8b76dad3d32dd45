"""The properties that every op must have, whatever its formula: each one a name, a sentence, and a check of one case.

A check takes a subject and a case, returns the largest error that it saw in units of the tolerance (0 where it compares
bits), and raises Violation or Undecided. `prepare` turns any case into one that the property says something about. The
properties that a spec claims for itself are in `claims`; how cases are found, and what is done with failures, is in
`run`.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from attngen import ir
from attngen.verify.case import Case
from attngen.verify.draw import Drawn
from attngen.verify.reference import Operands, visible
from attngen.verify.subject import TILES, Subject
from attngen.verify.tolerance import (
    Undecided,
    Violation,
    check,
    check_equal,
)

Check = Callable[[Subject, Case], float]


@dataclass(frozen=True, slots=True)
class Property:
    """`check` on cases made by `prepare`; `obstacle` says why the property says nothing of a subject, if so."""

    name: str
    sentence: str
    check: Check
    prepare: Callable[[Case], Case]
    obstacle: Callable[[Subject], str | None] = lambda subject: None


def contiguous(case: Case) -> Case:
    return replace(case, layout="contiguous")


def unmasked(case: Case) -> Case:
    return replace(contiguous(case), is_causal=False, window=None)


def _agrees(subject: Subject, case: Case) -> float:
    drawn = subject.draw(case)
    expected = subject.expect(drawn, case.call)
    return check(subject.results(drawn, case.call), expected)


def _with_many_keys(case: Case) -> Case:
    """A few rows that see many keys: long sums of small weights, where what is rounded too early shows."""
    n_k = 512 + 16 * case.n_k + case.n_k % 2
    return replace(unmasked(case), batch=1, kv_heads=1, group=1, n_q=min(case.n_q, 17), n_k=n_k, d=min(case.d, 32))


def _invariant_to_blocks(subject: Subject, case: Case) -> float:
    drawn = subject.draw(case)
    expected = subject.expect(drawn, case.call)
    block_m, block_n = TILES[case.seed % len(TILES)]
    with subject.tiled(block_m, block_n):
        found = subject.results(drawn, case.call)
    try:
        return check(found, expected)
    except Violation as violation:
        raise Violation(f"with tiles of {block_m} rows and {block_n} keys, {violation}") from None


def _without_tiles(subject: Subject) -> str | None:
    return "the op is not a generated module's" if subject.module is None else None


def _masked(case: Case) -> Case:
    case = contiguous(case)
    return case if case.is_causal or case.window is not None else replace(case, is_causal=True)


def _hidden_keys_do_not_matter(subject: Subject, case: Case) -> float:
    """The keys that one row doesn't see become large; rows that see none of them must keep every bit."""
    seen = visible(case.call, case.n_q, case.n_k)
    row = case.seed % case.n_q
    return _unmoved_by(subject, case, ~seen[row])


def _causal(case: Case) -> Case:
    return replace(contiguous(case), is_causal=True)


def _future_does_not_matter(subject: Subject, case: Case) -> float:
    seen = visible(case.call, case.n_q, case.n_k)
    row = case.seed % case.n_q
    reached = torch.arange(case.n_k) * seen[row]
    return _unmoved_by(subject, case, torch.arange(case.n_k) > reached.max())


def _unmoved_by(subject: Subject, case: Case, changed: Tensor) -> float:
    drawn = subject.draw(case)
    rows = ~(visible(case.call, case.n_q, case.n_k) & changed).any(-1)
    key, value = (torch.where(changed.to(x.device)[:, None], x.new_tensor(_LARGE), x) for x in _keyed(drawn))
    before = subject.results(drawn, case.call)
    after = subject.results(drawn.with_(key=key, value=value), case.call)
    for name in ("out", "grad query"):
        what = "it moved when keys changed that the row does not see"
        check_equal(name, after[name][:, :, rows], before[name][:, :, rows], what)
    return 0.0


_LARGE = 1e3


def _keyed(drawn: Drawn) -> tuple[Tensor, Tensor]:
    return drawn.operands.key, drawn.operands.value


def _invariant_to_key_order(subject: Subject, case: Case) -> float:
    drawn = subject.draw(case)
    expected = subject.expect(drawn, case.call)
    order = torch.randperm(case.n_k, generator=torch.Generator().manual_seed(case.seed)).to(subject.device)
    old = drawn.operands
    inputs = {name: _permuted(x, _key_axis(subject.normalizer, name), order) for name, x in old.inputs.items()}
    permuted = replace(drawn, operands=Operands(old.query, old.key[:, :, order], old.value[:, :, order], inputs))
    found = subject.results(permuted, case.call)
    axes = {"grad key": 2, "grad value": 2} | {f"grad {name}": _key_axis(subject.normalizer, name) for name in inputs}
    back = {name: _permuted(x, axes.get(name), order.argsort()) for name, x in found.items()}
    return check({name: x for name, x in back.items() if isinstance(x, Tensor)}, expected)


def _key_axis(normalizer: ir.Normalizer, name: str) -> int | None:
    axes = next(source.axes for source in normalizer.inputs if source.name == name)
    return axes.index("key") if "key" in axes else None


def _permuted(x: Tensor | float, axis: int | None, order: Tensor) -> Tensor | float:
    if axis is None or not isinstance(x, Tensor) or x.shape[axis] == 1:
        return x
    return x.index_select(axis, order)


def _uses_positions(subject: Subject) -> str | None:
    names = ir.names(subject.normalizer.score) | ir.names(subject.normalizer.weights)
    return "the formula depends on the key's position j" if "j" in names else None


def _with_empty_rows(case: Case) -> Case:
    case = contiguous(replace(case, n_q=max(case.n_q, 2)))
    case = replace(case, n_k=min(case.n_k, case.n_q - 1))
    if case.alignment == "lower_right":  # the first rows stand before the first key
        return replace(case, is_causal=True)
    return replace(case, window=0)  # the last rows stand behind the last key


def _empty_rows_are_zero(subject: Subject, case: Case) -> float:
    drawn = subject.draw(case)
    found = subject.results(drawn, case.call)
    empty = ~visible(case.call, case.n_q, case.n_k).any(-1)
    for name in ("out", "grad query"):
        rows = found[name][:, :, empty]
        check_equal(name, rows, torch.zeros_like(rows), "a row that sees no key gives zeros")
    subject.expect(drawn, case.call)  # Undecided where the formula itself is not finite
    for name, x in found.items():
        if not bool(x.isfinite().all()):
            raise Violation(f"{name} is not finite where some rows see no key")
    return 0.0


# Note [Extreme scores]
# exp overflows at 88 in float32 and at 709 in float64. Scores of 200 lie between the two: the written-out formula is
# still finite in float64 and an op that is not stabilized is not finite in float32.
_EXTREME = 200.0


def _in_float32(case: Case) -> Case:
    return replace(contiguous(case), dtype="float32", gain=1.0)


def _finite_at_extreme_scores(subject: Subject, case: Case) -> float:
    extreme = _with_extreme_scores(subject, subject.draw(case), case)
    expected = subject.expect(extreme, case.call)
    return check(subject.results(extreme, case.call), expected)


def _with_extreme_scores(subject: Subject, drawn: Drawn, case: Case) -> Drawn:
    """The query scaled so that the largest |scale * qk| is 200, and by the sign that makes a row's largest positive.

    A row whose scores are all far below zero has weights that underflow, and their ratio is lost unless the formula can
    be shifted: only a normalizer that claims to be shift-invariant is asked for such rows.
    """
    query = drawn.operands.query
    key = drawn.operands.key.double().repeat_interleave(case.group, dim=1)
    scores = query.double() @ key.mT * (case.d**-0.5 if case.scale is None else case.scale)
    scores = scores * visible(case.call, case.n_q, case.n_k).to(scores.device)
    largest = scores.abs().max()
    if float(largest) == 0:
        raise Undecided("all scores are zero")
    top = scores.gather(-1, scores.abs().argmax(-1, keepdim=True))
    sign = 1 if subject.normalizer.claims.shift_invariant else torch.where(top < 0, -1, 1)
    return drawn.with_(query=(query * sign * (_EXTREME / largest)).to(query.dtype))


def _deterministic(subject: Subject, case: Case) -> float:
    drawn = subject.draw(case)
    first, second = (subject.results(drawn, case.call) for _ in range(2))
    for name, x in first.items():
        check_equal(name, second[name], x, "two runs of the same call differ")
    with torch.no_grad():
        check_equal("out", subject.run(drawn.operands, case.call), first["out"], "without gradients the output differs")
    return 0.0


def _several_heads(case: Case) -> Case:
    return contiguous(case if case.batch * case.kv_heads > 1 else replace(case, batch=2))


def _independent_heads(subject: Subject, case: Case) -> float:
    """All but one batch and key head, with its query heads, change; that one must keep every bit."""
    drawn = subject.draw(case)
    batch, head = case.seed % case.batch, case.seed // 2 % case.kv_heads
    kept = {1: slice(head, head + 1), case.group: slice(head * case.group, (head + 1) * case.group)}
    old = drawn.operands
    tensors = ((old.query, case.group), (old.key, 1), (old.value, 1), (drawn.grad_out, case.group))
    query, key, value, grad_out = (_tripled_except(x, batch, kept[heads]) for x, heads in tensors)
    before = subject.results(drawn, case.call)
    after = subject.results(Drawn(Operands(query, key, value, old.inputs), grad_out), case.call)
    for name, heads in {"out": case.group, "grad query": case.group, "grad key": 1, "grad value": 1}.items():
        one = (slice(batch, batch + 1), kept[heads])
        check_equal(name, after[name][one], before[name][one], "it moved when other batches or heads changed")
    return 0.0


def _tripled_except(x: Tensor, batch: int, heads: slice) -> Tensor:
    changed = 3 * x
    changed[batch, heads] = x[batch, heads]
    return changed


def _strided(case: Case) -> Case:
    return case if case.layout != "contiguous" else replace(case, layout="transposed")


UNIVERSAL = (
    Property("forward_and_gradients", "output and gradients agree with the float64 formula", _agrees, contiguous),
    Property("many_keys", "so they do on rows of many keys", _agrees, _with_many_keys),
    Property("invariant_to_blocks", "so they do with any tile size", _invariant_to_blocks, contiguous, _without_tiles),
    Property("strides", "so they do for tensors that are not contiguous", _agrees, _strided),
    Property("hidden_keys", "keys that a row does not see leave it alone", _hidden_keys_do_not_matter, _masked),
    Property("causality", "later keys leave earlier rows alone", _future_does_not_matter, _causal),
    Property("key_order", "the order of the keys is immaterial", _invariant_to_key_order, unmasked, _uses_positions),
    Property("empty_rows", "rows that see no key give zeros, and no NaN", _empty_rows_are_zero, _with_empty_rows),
    Property("extreme_scores", "scores of 200 are finite in float32", _finite_at_extreme_scores, _in_float32),
    Property("determinism", "two runs are equal to the bit", _deterministic, contiguous),
    Property("independence", "other batches and heads leave one alone", _independent_heads, _several_heads),
)
