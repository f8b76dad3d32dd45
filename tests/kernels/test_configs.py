"""Tile configurations hold in the machine code: kernels compile, fit, don't spill, and keep their matrix products in
flight. Compiled, never run. What ptxas makes of a tile differs between Triton's versions: limits that depend on it are
those of the pinned version."""

from functools import cache, partial
from pathlib import Path
from types import ModuleType

import pytest
import triton

from attngen.audit.compile import Case, compile_launches
from attngen.audit.known import read_known, worse_than_known
from attngen.audit.launch import launch_kernels
from attngen.audit.module import row_of
from attngen.audit.report import Row
from attngen.audit.targets import TARGETS
from attngen.emit.configs import configs, is_heavy
from attngen.ir import Normalizer
from attngen.paths import data_dir
from attngen.pipeline import Compilation, compile_spec
from attngen.runtime.loader import load_module

PINNED = triton.__version__.startswith("3.7.1")
NAMED = ("sigmoid", "softmax", "softplus_l1", "affine_scaled")
KNOWN = read_known(Path(__file__).parents[2] / "benchmarks" / "known_misses.json")
SHIPPED = sorted(path.stem for path in (data_dir() / "specs").glob("*.yaml"))


@cache
def compilation(name: str) -> Compilation:
    path = data_dir() / "specs" / f"{name}.yaml"
    return compile_spec(path.read_text("utf-8"), str(path))


@cache
def op(name: str) -> tuple[ModuleType, Normalizer]:
    return load_module(compilation(name)), compilation(name).normalizer


def rows(name: str, target: str, case: Case) -> dict[str, Row]:
    module, normalizer = op(name)
    launched = compile_launches(TARGETS[target], case, partial(launch_kernels, module, normalizer, case))
    return {row.kernel.removeprefix(f"{name}_"): row for row in map(row_of, launched)}


def wrong(row: Row) -> tuple[str, ...]:
    """Findings, without spills where another version of Triton made the code."""
    return tuple(text for text in row.findings if PINNED or not text.startswith("spills"))


@pytest.mark.parametrize("head_dim", [64, 128])
@pytest.mark.parametrize("name", NAMED)
def test_hopper(name: str, head_dim: int) -> None:
    found = rows(name, "sm_90", Case(head_dim))
    assert set(found) == {"forward", "backward_query", "backward_key"}
    for row in found.values():
        assert not wrong(row), row.title
        assert not PINNED or not list(worse_than_known(row, name, KNOWN)), row.title


def test_full_masks_and_bands_are_one_kernel() -> None:
    full, causal = (rows("softmax", "sm_90", Case(64, is_causal=is_causal)) for is_causal in (False, True))
    assert {kernel: row.resources for kernel, row in full.items()} == {k: row.resources for k, row in causal.items()}


@pytest.mark.parametrize("target", ["sm_80", "sm_100", "gfx942"])
@pytest.mark.parametrize("name", ["sigmoid", "affine_scaled"])
def test_other_architectures(name: str, target: str) -> None:
    for row in rows(name, target, Case(128)).values():
        assert not [text for text in wrong(row) if not text.startswith("spills")], row.title
        assert row.resources is not None
        assert row.resources.matrix


@pytest.mark.parametrize("name", SHIPPED)
def test_every_kernel_has_a_row_for_every_head_dim(name: str) -> None:
    for arch, found in configs(compilation(name).plan).items():
        assert arch in TARGETS
        for kernel in ("forward", "backward_query", "backward_key", "backward_pair"):
            widths = [(row.itemsize, row.width) for row in found if row.kernel == kernel]
            assert widths == [(2, 64), (2, 128), (2, 256), (4, 64), (4, 128), (4, 256)]


def test_heavy_formulas_are_told_from_light_ones() -> None:
    heavy = {name for name in SHIPPED if is_heavy(compilation(name).plan)}
    assert {"affine_scaled", "softpick", "alibi"} <= heavy
    assert heavy.isdisjoint({"sigmoid", "softmax", "softplus_l1"})
