"""The kernels for Hopper: their machine code keeps the limits that make them worth their while. Compiled, never run.

What ptxas makes of them differs between Triton's versions: limits are those of the pinned one. Others compile them too.
"""

from functools import cache, partial
from types import ModuleType

import pytest
import torch

from attngen.audit.bars import misses
from attngen.audit.compile import Case, compile_launches
from attngen.audit.launch import launch_forward, launch_kernels, launching_on_cpu
from attngen.audit.module import row_of
from attngen.audit.report import Resources, Row
from attngen.audit.targets import TARGETS
from attngen.build import Build
from attngen.catalog import read
from attngen.ir import Normalizer
from attngen.pipeline import Compilation, compile_spec
from attngen.runtime.loader import load_module
from tests.kernels.test_configs import PINNED
from tests.representative import BEYOND_HOPPER


@cache
def compilation(name: str) -> Compilation:
    spec = read(name)
    return compile_spec(spec.text, spec.path, build=Build("hopper"))


@cache
def op(name: str) -> tuple[ModuleType, Normalizer]:
    return load_module(compilation(name)), compilation(name).normalizer


def row_of_forward(name: str, case: Case) -> Row:
    module, normalizer = op(name)
    (launched,) = compile_launches(TARGETS["sm_90"], case, partial(launch_forward, module, normalizer, case))
    assert launched.constants["enable_fp_fusion"]  # not the default of every Triton
    row = row_of(launched)
    tile = module.HOPPER_TILES["forward_hopper"][case.head_dim, case.value_dim or case.head_dim]
    solo = "_solo" if tile.consumers == 1 else ""
    assert row.kernel == f"{name}_forward_hopper{solo}"
    return row


def needs(row: Row) -> Resources:
    """What the kernel asks of the hardware."""
    assert row.resources is not None, row.error
    return row.resources


# nothing but the weight waits for the second product; a tile that does so in shared memory; nothing runs beside it;
# tiles of 32 queries
@pytest.mark.parametrize(
    ("name", "head_dim", "hidden"),
    [("softmax", 64, 0.9), ("softmax", 128, 0.9), ("l2", 128, 0), ("elu_l1", 64, 0), ("elu_l1", 128, 0.9)],
)
def test_backward_keeps_its_limits(name: str, head_dim: int, hidden: float) -> None:
    module, normalizer = op(name)
    launch = partial(launch_kernels, module, normalizer, Case(head_dim), False)
    _, rows, row = map(row_of, compile_launches(TARGETS["sm_90"], Case(head_dim), launch))
    assert rows.kernel == f"{name}_backward_query"
    assert not needs(rows).matrix  # of its walk nothing is left
    assert row.kernel == f"{name}_backward_hopper"
    assert row.resources is not None, row.error
    if PINNED:
        assert not list(misses(row, name))
        assert row.resources.special_under_products >= hidden


# name, head dim -> instructions per 64 x 128 scores, special functions per score. Beside these the bars hold.
LIMITS = {
    ("softmax", 64): (470, 1.04),
    ("softmax", 128): (510, 1.04),
    ("sigmoid", 64): (560, 1.3),
    ("sigmoid", 128): (560, 1.55),
    ("softplus_l1", 64): (830, 1.04),
    ("softplus_l1", 128): (830, 1.04),
    ("alibi", 128): (960, 1.1),  # positions and slopes beside the scores: half the keys per tile
    ("affine_scaled", 64): (470, 1.04),  # the warpgroup that loads sums up the values that all rows see
    ("affine_scaled", 128): (510, 1.04),
    ("t_softmax", 128): (830, 1.1),  # the last of two walks
    ("additive_bias", 128): (960, 1.1),  # tiles of an input, on their way while the scores are
    ("cosformer", 64): (5300, 0),  # all of a cosine, whose greater part is jumped over
    ("softpick", 64): (2100, 2.1),
    ("softmax", 256): (870, 1.1),
    ("two_temperatures", 128): (1850, 2.3),  # two accumulators: a quarter of the keys per tile
    ("sparsemax", 128): (400, 0),  # the last walk, behind those of the search
    ("alpha_entmax", 64): (520, 2.1),  # a logarithm and an exponential per weight
    ("alpha_entmax", 128): (520, 2.1),
}


@pytest.mark.parametrize(("name", "head_dim"), LIMITS)
def test_machine_code_keeps_its_limits(name: str, head_dim: int) -> None:
    row = row_of_forward(name, Case(head_dim))
    found = needs(row)
    assert found.matrix["HGMMA"] > 0
    if not PINNED:
        return
    instructions, special = LIMITS[name, head_dim]
    assert not list(misses(row, name))
    assert found.stack == 0
    assert found.instructions_per_tile <= instructions
    assert found.special_per_score <= special
    assert found.special_under_products >= 0.95  # at head dim 64 as well


# head dims and instructions per 64 x 128 scores
@pytest.mark.parametrize(
    ("name", "head_dim", "value_dim", "instructions"),
    [("softmax", 128, 64, 440), ("affine_scaled", 64, 128, 470), ("softplus_l1", 256, 64, 880)],
)
def test_values_of_other_head_dims_keep_the_limits(
    name: str, head_dim: int, value_dim: int, instructions: int
) -> None:  # fmt: skip
    found = needs(row_of_forward(name, Case(head_dim, value_dim=value_dim)))
    assert found.matrix["HGMMA"] > 0
    if PINNED:
        assert found.stack == 0
        assert found.waits_per_product <= 0.25
        assert found.instructions_per_tile <= instructions
        assert found.special_under_products >= 0.95


def test_programs_of_one_warpgroup_share_a_multiprocessor() -> None:
    """They serve where special functions are most of the work, and formulas with other numbers keep the other shape."""
    solo, other = row_of_forward("softmax", Case(64)), row_of_forward("sigmoid", Case(64))
    assert solo.kernel.endswith("_solo")
    assert not other.kernel.endswith("_solo")
    if PINNED:
        assert needs(solo).ctas == 3


def test_float16_is_served_where_weights_are_bounded() -> None:
    assert needs(row_of_forward("softmax", Case(128, "float16"))).matrix["HGMMA"] > 0
    types = op("softplus_l1")[0].HOPPER_TYPES
    assert types == (torch.bfloat16,)


@pytest.mark.parametrize("spec", [BEYOND_HOPPER, "name: uniform\nweights: exp(mean(s))\n"])
def test_what_the_kernels_cannot_say_is_left_to_the_others(spec: str) -> None:
    """Formulas that registers don't hold; weights that are the same for all pairs, which take no product."""
    assert compile_spec(spec, "beyond.yaml", build=Build("hopper")).source == compile_spec(spec, "beyond.yaml").source


@pytest.mark.parametrize(
    ("target", "shape", "dtype"),
    [
        ("sm_80", (1, 2, 128, 64), torch.bfloat16),
        ("sm_100", (1, 2, 128, 64), torch.bfloat16),
        ("sm_90", (1, 2, 128, 32), torch.bfloat16),
        ("sm_90", (1, 2, 128, 84), torch.bfloat16),  # rows of results don't begin at multiples of 16 bytes
        ("sm_90", (1, 2, 128, 64), torch.float32),
        ("sm_90", (1, 64, 128, 2), torch.bfloat16),
    ],
)
def test_other_calls_are_left_to_the_others(target: str, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    module, _ = op("softmax")
    query = torch.zeros(shape, dtype=dtype)
    query = query.transpose(1, 3) if shape[-1] == 2 else query  # elements of a row that lie apart

    def launch() -> None:
        with torch.no_grad(), launching_on_cpu(module):
            module.softmax_attention(query, query, query)

    (launched,) = compile_launches(TARGETS[target], Case(64), launch)
    assert launched.name == "softmax_forward"
    assert launched.constants["enable_fp_fusion"]
