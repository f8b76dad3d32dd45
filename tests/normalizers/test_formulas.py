"""Every shipped op against its paper's formula: output and every gradient, portable and in Triton's interpreter."""

import pytest
import torch

from attngen.catalog import shipped
from tests.normalizers.formulas import FORMULAS
from tests.normalizers.test_implicit import FORMULAS as IMPLICIT
from tests.normalizers.test_output import RIGHT as NORMALIZED
from tests.ops.oracle import Mask
from tests.ops.subject import Case, Load, Subject, check

CAUSAL = Mask(is_causal=True)
LOWER_RIGHT = Mask(is_causal=True, alignment="lower_right")

# Ragged lengths, grouped heads, more queries than keys and fewer, windows on one side and on both.
CASES = (
    Case(n_q=19, n_k=35, d=12, d_v=20, batch=2, kv_heads=2, group=2, blocks=(16, 32)),
    Case(n_q=35, n_k=19, d=16, d_v=8, kv_heads=2, group=3, mask=CAUSAL, blocks=(32, 16)),
    Case(n_q=21, n_k=37, batch=2, mask=Mask(window=(6, 3), alignment="lower_right")),
)
IN_KERNELS = Case(n_q=19, n_k=35, d=16, d_v=24, group=2, mask=LOWER_RIGHT, blocks=(16, 16))
# Names that bring something of their own to kernels: 16-bit types run for these.
LOW_PRECISION = (
    "additive_bias", "affine_visible", "cog", "forgetting", "gaussian", "hstu_scaled", "lssar", "power", "retention",
    "softmax_n", "softpick", "stablemax", "t_softmax", "two_temperatures",
)  # fmt: skip
DISTANCES = {"temperature_alibi": 2.0}  # the slope's gradient is a sum of terms as large as distances are


def test_every_spec_has_a_formula() -> None:
    """Here, or beside the oracles that thresholds and outputs have."""
    assert {path.stem for path in shipped()} == {*FORMULAS, *IMPLICIT, *NORMALIZED}


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("name", FORMULAS)
def test_portable_in_float64(name: str, case: Case, load: Load) -> None:
    check(Subject(load, FORMULAS[name]), case, torch.float64)


@pytest.mark.parametrize("name", FORMULAS)
def test_kernels_in_fp32(name: str, load: Load) -> None:
    check(Subject(load, FORMULAS[name], kernels=True), IN_KERNELS, torch.float32, DISTANCES.get(name, 1.0))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=["fp16", "bf16"])
@pytest.mark.parametrize("name", LOW_PRECISION)
def test_kernels_in_16_bit(name: str, dtype: torch.dtype, load: Load) -> None:
    check(Subject(load, FORMULAS[name], kernels=True), IN_KERNELS, dtype)
