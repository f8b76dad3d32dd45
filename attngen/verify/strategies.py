"""How hypothesis draws cases: every dimension with its edges, and the small and plain first, so that failures shrink.

Sizes stand around the edges of the blocks that kernels use. `sizes="small"` keeps a case cheap enough for interpreted
kernels. The tensors' values come from the case's seed, not from hypothesis.
"""

from typing import Literal

from hypothesis import strategies as st

from attngen import ir
from attngen.verify.case import Case, DType, Form, Layout
from attngen.verify.reference import Alignment, Window

Sizes = Literal["full", "small"]

_DTYPES: tuple[DType, ...] = ("float32", "bfloat16", "float16")
_LAYOUTS: tuple[Layout, ...] = ("contiguous", "transposed", "sliced", "expanded")
_ALIGNMENTS: tuple[Alignment, ...] = ("upper_left", "lower_right")
_EDGES = {"full": (1, 2, 15, 16, 17, 31, 32, 33, 63, 64, 65), "small": (1, 2, 15, 16, 17, 31, 32, 33)}
_LONGEST = {"full": 70, "small": 40}
_HEAD_DIMS = {"full": (16, 24, 32, 40, 64) * 3 + (80, 128), "small": (16, 24, 32)}
_SCALES = (None, None, None, 1.0, 0.25, -0.5)
_GAINS = (1.0, 1.0, 1.0, 4.0, 0.0)


def cases(normalizer: ir.Normalizer, sizes: Sizes = "full") -> st.SearchStrategy[Case]:
    """Cases for the normalizer's op: shapes, dtype, layout, masks, and the form of each of its inputs."""
    return st.composite(_draw_case)(normalizer, sizes)


def _draw_case(draw: st.DrawFn, normalizer: ir.Normalizer, sizes: Sizes) -> Case:
    batch, kv_heads, group = draw(_heads(sizes))
    n_q, n_k = draw(_length(sizes)), draw(_length(sizes))
    return Case(
        batch=batch, kv_heads=kv_heads, group=group, n_q=n_q, n_k=n_k,
        d=draw(st.sampled_from(_HEAD_DIMS[sizes])), d_v=draw(st.sampled_from(_HEAD_DIMS[sizes])),
        dtype=draw(st.sampled_from(_DTYPES)), layout=draw(st.sampled_from(_LAYOUTS)), is_causal=draw(st.booleans()),
        scale=draw(st.sampled_from(_SCALES)), window=draw(_window(max(n_q, n_k))),
        alignment=draw(st.sampled_from(_ALIGNMENTS)), gain=draw(st.sampled_from(_GAINS)),
        forms=draw(_forms(normalizer)), seed=draw(st.integers(0, 999)),
    )  # fmt: skip


def _heads(sizes: Sizes) -> st.SearchStrategy[tuple[int, int, int]]:
    """Batch, key heads, query heads per key head."""
    counts = [(b, h, g) for b in (1, 2) for h in (1, 2) for g in (1, 2, 4) if sizes == "full" or b * h * g <= 2]
    return st.sampled_from(counts)


def _length(sizes: Sizes) -> st.SearchStrategy[int]:
    return st.one_of(st.sampled_from(_EDGES[sizes]), st.integers(1, _LONGEST[sizes]))


def _window(longest: int) -> st.SearchStrategy[Window]:
    side = st.integers(-1, longest)
    return st.one_of(st.none(), st.none(), st.integers(0, longest), st.tuples(side, side))


def _forms(normalizer: ir.Normalizer) -> st.SearchStrategy[tuple[tuple[str, Form], ...]]:
    """The form of each input; those given in full are not named, so that a shrunk case is short."""
    each = [st.tuples(st.just(source.name), st.sampled_from(_possible(source))) for source in normalizer.inputs]
    return st.tuples(*each).map(lambda forms: tuple(pair for pair in forms if pair[1] != "full"))


def _possible(source: ir.Input) -> tuple[Form, ...]:
    always: tuple[Form, ...] = ("full", "full", "single", "float32", "number")
    return always if source.default is None else (*always, "omitted")
