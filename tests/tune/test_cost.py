"""The compile-only search: what it ranks, what it refuses, and that the shipped tables come from it."""

import pytest
from click.testing import CliRunner

from attngen.audit.compile import Case
from attngen.audit.report import Resources, Row
from attngen.cli import main
from attngen.tune.candidates import candidates
from attngen.tune.cost import Outcome, Question, outcome, problems, ranked, target_of

FINE = Resources(
    registers=128, stack=0, spill_stores=0, spill_loads=0, shared=57344, shared_limit=232448, ctas=4, instructions=900,
    matrix={"HGMMA": 16}, special={},
    async_copies=4, waits=4, main_loop_instructions=320, main_loop_special=34, instructions_per_tile=640,
    special_per_score=1.0, special_under_products=0.0,
)  # fmt: skip


def row(**changes: object) -> Row:
    need = Resources(**({f: getattr(FINE, f) for f in FINE.__slots__} | changes))
    return Row("sm_90", "softmax_forward", 64, "bfloat16", "full", 64, 64, 4, 3, need)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({}, None), ({"spill_stores": 2, "spill_loads": 1}, "3 spills"),
        ({"stack": 8}, "0 spills"), ({"shared": 300000}, "shared memory"),
        ({"ctas": 0}, "no room"), ({"waits": 9}, "serialized"), ({"matrix": {"HMMA": 64}, "waits": 0}, "no wgmma"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_tile(changes: dict[str, object], problem: str | None) -> None:
    assert list(problems(row(**changes))) == ([problem] if problem else [])


def test_a_tile_is_as_good_as_its_worst_op() -> None:
    found = outcome((64, 64, 4, 3), [row(), row(registers=200, ctas=2, main_loop_instructions=640)])
    assert found == Outcome((64, 64, 4, 3), 200, 57344, 2, 0.25, 640 * 128 / 4096, ())
    assert found.warps_per_scheduler == 2


def test_rank_is_problems_then_warps_then_instructions() -> None:
    def made(ctas: int, per_score: float, *wrong: str) -> Outcome:
        return Outcome((64, 64, 4, 3), 128, 0, ctas, 0.25, per_score, wrong)

    order = [made(3, 8.0), made(4, 9.0), made(2, 1.0), made(4, 1.0, "spills")]
    backwards = order[::-1]
    assert sorted(backwards, key=lambda o: o.rank) == order


def test_candidates_give_each_warp_rows_of_its_own() -> None:
    for kernel in ("forward", "backward_key"):
        for m, n, warps, _ in candidates(kernel, 2):
            assert (n if kernel == "backward_key" else m) >= 16 * warps
    assert {128} & {m for m, *_ in candidates("forward", 2)}
    assert all(warps == 0 for *_, warps, _ in candidates("portable", 4))


def test_compiled_and_ranked_without_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    tiles = ((64, 64, 4, 3), (128, 128, 4, 3))
    found = ranked(("softmax",), Question("forward", "sm_90", Case(64)), tiles, 1, lambda done, of: True)
    assert {o.tile for o in found} == set(tiles)
    assert found[0].tile == (64, 64, 4, 3)  # the table's row
    assert not found[0].problems
    assert found[1].problems


def test_stopping_early_keeps_what_is_there() -> None:
    tiles = ((64, 64, 4, 3), (64, 32, 4, 3), (64, 128, 4, 2))
    found = ranked(("softmax",), Question("forward", "sm_90", Case(64)), tiles, 1, lambda done, of: False)
    assert [o.tile for o in found] == [(64, 64, 4, 3)]


@pytest.mark.parametrize(("capability", "target"), [((8, 6), "sm_80"), ((9, 0), "sm_90"), ((12, 0), "sm_100")])
def test_targets_of_gpus(capability: tuple[int, int], target: str) -> None:
    assert target_of(capability) == target


def tune(*arguments: str) -> tuple[int, str]:
    done = CliRunner().invoke(main, ["tune", *arguments], catch_exceptions=False)
    return done.exit_code, done.output


def test_the_command_line() -> None:
    code, output = tune("softmax", "--compile-only", "--kernel", "forward", "--head-dim", "64", "--tile", "64,64,4,3")
    assert code == 0
    assert "forward, head dim 64, bfloat16, sm_90: softmax" in output
    assert "64x64, 4 warps, 3 stages" in output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("softmax", "--compile-only", "--target", "sm_1"), "'sm_1' is not one of"),
        (("softmax", "--tile", "64,64"), "QUERIES,KEYS,WARPS,STAGES"),
        (("softmax", "--compile-only", "--kernel", "forward_hopper"), "those of --kernels hopper, on sm_90"),
        (("softmax", "--compile-only", "--kernels", "hopper", "--tile", "64,64,4,3"), "is no tile of forward_hopper"),
        (("softmax", "--device", "cpu", "--kernel", "forward"), "--kernel is for GPUs"),
        (("softmax", "--device", "cuda"), "--compile-only ranks tiles without one"),
    ],
)
def test_wrong_use(arguments: tuple[str, ...], message: str) -> None:
    import torch

    if "cuda" in arguments and torch.cuda.is_available():
        pytest.skip("there is a GPU")
    code, output = tune(*arguments)
    assert code == 2
    assert message in output
