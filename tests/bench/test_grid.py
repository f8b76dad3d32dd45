"""The grids are the field's, and rates are counted as the field counts."""

import pytest

from attngen.bench.grid import NAMED, Cell, cpu_cells, gpu_cells
from attngen.verify.case import Case

ALL = (*NAMED, "alibi", "hstu")


def test_operations_by_hand() -> None:
    case = Case(batch=4, kv_heads=16, n_q=4096, n_k=4096, d=128, d_v=128, dtype="bfloat16")
    forward = 4 * 4 * 16 * 4096 * 4096 * 128
    assert Cell("softmax", case, "forward").flops == forward
    assert Cell("softmax", case, "backward").flops == 2.5 * forward
    assert Cell("softmax", case, "both").flops == 3.5 * forward
    causal = Case(batch=4, kv_heads=16, n_q=4096, n_k=4096, d=128, d_v=128, dtype="bfloat16", is_causal=True)
    assert Cell("softmax", causal, "forward").flops == forward / 2


def test_decoding_reads_keys_and_values() -> None:
    case = Case(kv_heads=1, group=8, n_q=1, n_k=16384, d=64, d_v=64)
    cell = Cell("softmax", case, "forward")
    assert cell.is_decoding
    assert cell.key_bytes == 2 * 16384 * 64 * 4


@pytest.mark.parametrize("quick", [False, True])
def test_every_gpu_cell_has_the_tokens_and_the_width(quick: bool) -> None:
    cells = [cell for cell in gpu_cells(ALL, quick) if not cell.is_decoding]
    assert {cell.case.batch * cell.case.n_q for cell in cells} == {16384}
    assert {cell.case.heads * cell.case.d for cell in cells} == {2048}
    assert {cell.spec for cell in cells} == set(ALL)
    assert {cell.case.group for cell in cells} == {1, 8}


def test_the_full_gpu_grid() -> None:
    cells = gpu_cells(NAMED, quick=False)
    assert {cell.case.d for cell in cells} == {64, 128, 256}
    assert {cell.case.n_k for cell in cells} == {512, 1024, 2048, 4096, 8192, 16384}
    assert {cell.direction for cell in cells} == {"forward", "backward"}
    assert len(set(cells)) == len(cells)
    assert len(gpu_cells(NAMED, quick=True)) < len(cells) / 3


def test_the_cpu_grid_has_what_is_promised_of_it() -> None:
    titles = {cell.title for cell in cpu_cells(ALL, quick=False)}
    assert {
        "softmax forward, B1 H8 N2048 D64 bfloat16 full",
        "sigmoid both, B1 H8 N2048 D64 float32 full",
        "softplus_l1 both, B1 H8 N2048 D64 float32 causal",
        "softmax forward, B1 H8:1 Nq1 Nk16384 D64 float32 full",
        "affine_scaled both, B1 H8 N8192 D64 float32 full, memory",
        "hstu both, B1 H8 N2048 D64 float32 full",
    } <= titles
    assert {cell.title for cell in cpu_cells(ALL, quick=True)} < titles


def test_a_spec_of_ones_own_gets_the_main_grid() -> None:
    assert {cell.spec for cell in cpu_cells(("mine",), quick=True)} == {"mine"}
    assert len(gpu_cells(("mine",), quick=True)) > 10
