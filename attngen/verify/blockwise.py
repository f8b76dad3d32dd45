"""The float64 meaning of a call at lengths whose scores don't fit in memory: head by head, a block of rows at a time.

It cuts a call into calls of the reference. The rows of a block see the same keys as before and know their positions and
the lengths of the whole call, so that nothing is approximated. Full and causal masks, nothing else; gradients of query,
key and value. It adds no formula of its own.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from attngen import ir
from attngen.verify.draw import Drawn
from attngen.verify.reference import Alignment, Call, Operands, attention
from attngen.verify.tolerance import Results, results

SCORES = 2**22  # of one block; autograd keeps about twenty float64 tensors of this size


@dataclass(frozen=True, slots=True)
class Block:
    """Rows of one head of keys in one batch, with all of the keys that they may see."""

    batch: int
    kv_head: int
    rows: slice
    keys: slice


def one_head(normalizer: ir.Normalizer, drawn: Drawn, is_causal: bool, scores: int = SCORES) -> Results:
    """Output and gradients (`out`, `grad query`, ...) of the first batch and the first head of keys, in float64.

    Shapes: (1, group, Nq, .) and (1, 1, Nk, .). The full result holds the same numbers there.
    """
    first = drawn.with_(*(x[:1] for x in (drawn.operands.query, drawn.operands.key, drawn.operands.value)))
    found = _empty(first, kv_heads=1)
    for block in _blocks(drawn, is_causal, scores, heads=((0, 0),)):
        _add(found, _block_results(normalizer, drawn, is_causal, block), block)
    return found


def all_heads(normalizer: ir.Normalizer, drawn: Drawn, is_causal: bool, scores: int = SCORES) -> Results:
    """As `one_head`, for the whole call."""
    batch, kv_heads = drawn.operands.key.shape[:2]
    found = _empty(drawn, kv_heads)
    heads = tuple((b, h) for b in range(batch) for h in range(kv_heads))
    for block in _blocks(drawn, is_causal, scores, heads):
        _add(found, _block_results(normalizer, drawn, is_causal, block), block)
    return found


def _empty(drawn: Drawn, kv_heads: int) -> Results:
    query, key, value = drawn.operands.query, drawn.operands.key, drawn.operands.value
    batch, group = query.shape[0], query.shape[1] // key.shape[1]
    zeros = partial(torch.zeros, dtype=torch.float64, device=query.device)
    q_shape, k_shape = (batch, group * kv_heads, query.shape[2]), (batch, kv_heads, key.shape[2])
    widths = {"grad query": (q_shape, query), "grad key": (k_shape, key), "grad value": (k_shape, value)}
    return {"out": zeros(*q_shape, value.shape[3])} | {n: zeros(*s, x.shape[3]) for n, (s, x) in widths.items()}


def _blocks(drawn: Drawn, is_causal: bool, scores: int, heads: tuple[tuple[int, int], ...]) -> Iterator[Block]:
    query, key = drawn.operands.query, drawn.operands.key
    n_q, n_k, group = query.shape[2], key.shape[2], query.shape[1] // key.shape[1]
    if is_causal and n_q != n_k:
        raise ValueError(f"a causal mask on {n_q} queries and {n_k} keys: the lengths should be equal")
    step = max(1, scores // (n_k * group))
    for batch, kv_head in heads:
        for first in range(0, n_q, step):
            last = min(first + step, n_q)
            yield Block(batch, kv_head, slice(first, last), slice(0, last if is_causal else n_k))


def _block_results(normalizer: ir.Normalizer, drawn: Drawn, is_causal: bool, block: Block) -> Results:
    old, group = drawn.operands, drawn.operands.query.shape[1] // drawn.operands.key.shape[1]
    places = {
        "batch": slice(block.batch, block.batch + 1),
        "head": slice(block.kv_head * group, (block.kv_head + 1) * group),
        "kv_head": slice(block.kv_head, block.kv_head + 1),
        "query": block.rows,
        "key": block.keys,
    }

    def part(tensor: Tensor, *axes: str) -> Tensor:
        whole = zip(axes, tensor.shape[: len(axes)], strict=True)
        return tensor[tuple(places[axis] if size > 1 else slice(None) for axis, size in whole)].double()

    axes = {source.name: source.axes for source in normalizer.inputs}
    inputs = {name: part(x, *axes[name]) if isinstance(x, Tensor) else x for name, x in old.inputs.items()}
    operands = Operands(
        part(old.query, "batch", "head", "query"), part(old.key, "batch", "kv_head", "key"),
        part(old.value, "batch", "kv_head", "key"), inputs,
    )  # fmt: skip
    # A causal block ends with the keys that its last row sees, and so its rows are the last ones.
    alignment: Alignment = "lower_right" if is_causal else "upper_left"
    meaning = _of_block(normalizer, old, 0 if is_causal else block.rows.start)
    run = partial(_run, meaning)
    return results(run, Drawn(operands, part(drawn.grad_out, "batch", "head", "query")),
                   Call(is_causal=is_causal, alignment=alignment), frozenset())  # fmt: skip


def _run(normalizer: ir.Normalizer, operands: Operands, call: Call) -> Tensor:
    return attention(normalizer, operands, call, torch.float64)


def _of_block(normalizer: ir.Normalizer, whole: Operands, first_row: int) -> ir.Normalizer:
    """The formulas of a block's rows: lengths are those of the whole call, positions begin at `first_row`."""
    values: dict[str, ir.Expr] = {
        "n_q": ir.number(whole.query.shape[2]),
        "n_k": ir.number(whole.key.shape[2]),
        "i": ir.apply("add", ir.Name("i"), ir.number(first_row)),
    }
    inputs = tuple(
        source if source.default is None else replace(source, default=ir.substitute(source.default, values))
        for source in normalizer.inputs
    )
    score, weights, output = (
        ir.substitute(formula, values) for formula in (normalizer.score, normalizer.weights, normalizer.output)
    )
    return replace(normalizer, inputs=inputs, score=score, weights=weights, output=output)


def _add(found: Results, part: Results, block: Block) -> None:
    """Put the rows of a block where they belong, and add what they give to the keys."""
    group = part["out"].shape[1]
    one = found["out"].shape[1] == group
    batch, kv_head = (block.batch, 0) if one else (block.batch, block.kv_head)
    heads = slice(kv_head * group, (kv_head + 1) * group)
    for name in ("out", "grad query"):
        found[name][batch, heads, block.rows] = part[name][0]
    for name in ("grad key", "grad value"):
        found[name][batch, kv_head, block.keys] += part[name][0, 0]
