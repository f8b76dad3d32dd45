"""Ops against oracles written by hand: output and every gradient, on the portable path and in Triton's interpreter."""

import pytest
import torch

from tests.ops.formulas import FORMULAS
from tests.ops.oracle import Mask
from tests.ops.subject import Case, Load, Subject, check

CAUSAL = Mask(is_causal=True)
LOWER_RIGHT = Mask(is_causal=True, alignment="lower_right")

# Two calls for every formula: everything visible, and a mask with empty and partial rows.
EVERY = (
    Case(n_q=17, n_k=33, d=24, d_v=16, kv_heads=2, batch=2, blocks=(32, 16)),
    Case(n_q=33, n_k=17, d=16, d_v=40, kv_heads=2, group=2, mask=LOWER_RIGHT, blocks=(16, 32), scale=0.4),
)
# More for those that stand for a kind of kernel.
SOME = ("sigmoid", "softmax", "affine_scaled", "tile_gate", "lssar_like")
SOME_KERNELS = ("affine_scaled", "tile_gate", "lssar_like")
MASKS = (
    CAUSAL,
    Mask(window=0),
    Mask(window=(3, -1)),
    Mask(window=(-1, 5)),
    Mask(window=(20, 2), alignment="lower_right"),
    Mask(is_causal=True, window=(4, 9)),
    Mask(is_causal=True, window=0, alignment="lower_right"),
)
MASKED = [
    Case(n_q=n_q, n_k=n_k, mask=mask, blocks=(32, 16) if number % 2 else (16, 16))
    for number, mask in enumerate(MASKS)
    for n_q, n_k in ((17, 33), (33, 17))
]
SHAPES = (
    Case(n_q=1, n_k=1),
    Case(n_q=1, n_k=33, mask=LOWER_RIGHT, group=4),
    Case(n_q=33, n_k=1, mask=CAUSAL),
    Case(n_q=65, n_k=65, mask=CAUSAL, blocks=(32, 32)),
    Case(n_q=16, n_k=32, kv_heads=2, batch=2, blocks=(16, 32)),
    Case(group=4, d=20, d_v=16),
    Case(layout="transposed", batch=2, group=2),
    Case(layout="expanded", batch=3),
    Case(layout="sliced", batch=2, kv_heads=2, mask=CAUSAL),
    Case(n_q=33, n_k=17, mask=LOWER_RIGHT, scale=-0.4),
    Case(n_q=33, n_k=17, mask=LOWER_RIGHT, scale=0.0),  # all weights are the same; no key times zero is no number
)
WIDTHS = tuple(
    Case(n_q=17, n_k=17, d=d, d_v=d_v, mask=CAUSAL, blocks=(32, 32))
    for d, d_v in ((1, 1), (40, 80), (80, 96), (96, 24), (128, 192), (192, 128), (256, 256))
)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
@pytest.mark.parametrize("case", EVERY, ids=str)
@pytest.mark.parametrize("name", FORMULAS)
def test_every_formula_portable(name: str, case: Case, dtype: torch.dtype, load: Load) -> None:
    check(Subject(load, FORMULAS[name]), case, dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=["fp32", "fp16", "bf16"])
@pytest.mark.parametrize("case", EVERY, ids=str)
@pytest.mark.parametrize("name", FORMULAS)
def test_every_formula_in_kernels(name: str, case: Case, dtype: torch.dtype, load: Load) -> None:
    check(Subject(load, FORMULAS[name], kernels=True), case, dtype)


@pytest.mark.parametrize("case", [*MASKED, *SHAPES], ids=str)
@pytest.mark.parametrize("name", SOME)
def test_masks_and_shapes_portable(name: str, case: Case, load: Load) -> None:
    check(Subject(load, FORMULAS[name]), case, torch.float64)


@pytest.mark.parametrize("case", [*MASKED, *SHAPES], ids=str)
@pytest.mark.parametrize("name", SOME_KERNELS)
def test_masks_and_shapes_in_kernels(name: str, case: Case, load: Load) -> None:
    check(Subject(load, FORMULAS[name], kernels=True), case, torch.float32)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("case", WIDTHS, ids=str)
def test_head_dims_in_kernels(case: Case, dtype: torch.dtype, load: Load) -> None:
    check(Subject(load, FORMULAS["affine_scaled"], kernels=True), case, dtype)
