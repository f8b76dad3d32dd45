"""The audit reads what compilers made of kernels, and says what is wrong with it."""

import dataclasses
import json
from pathlib import Path

import pytest
import torch
import triton

from attngen.audit.compile import Case, compile_launches
from attngen.audit.launch import launch_kernels
from attngen.audit.machine_code import Instruction, of_kind, parse_amdgcn, parse_sass
from attngen.audit.module import Request, audit_module, row_of
from attngen.audit.overlap import special_under_products
from attngen.audit.report import Audit, Resources, Row, render, to_json
from attngen.audit.targets import TARGETS
from attngen.ir import Apply, Claims, Input, Name, Normalizer, Reduce
from tests.kernels import sample_attention

WEIGHT = Apply("exp", (Name("s"),))
SAMPLE = Normalizer(
    name="sample",
    title="softmax",
    reference="",
    inputs=(),
    statics=(),
    score=Apply("mul", (Name("scale"), Name("qk"))),
    lets=(),
    weights=Apply("div", (WEIGHT, Reduce("sum", WEIGHT))),
    claims=Claims(),
)


def audit(**request: object) -> Audit:
    return audit_module(sample_attention, SAMPLE, Request(**({"targets": ("sm_90",), "head_dims": (64,)} | request)))


# ---------------------------------------------------------------- compiling


@pytest.fixture(scope="module")
def everywhere() -> Audit:
    """The forward and backward kernels, full and causal, head dim 64, for every target."""
    return audit(targets=tuple(TARGETS))


def test_every_kernel_is_compiled_for_every_target(everywhere: Audit) -> None:
    kernels = [(row.target, row.kernel, row.mask) for row in everywhere.rows]
    wanted = [(t, f"sample_{k}", m) for t in TARGETS for m in ("full", "causal") for k in ("forward", "backward_query")]
    assert kernels == wanted
    assert not [row.error for row in everywhere.rows if row.error]


def test_tiles_are_those_of_the_target(everywhere: Audit) -> None:
    for row in everywhere.rows:
        tile = sample_attention.CONFIGS[row.target][row.kernel.removeprefix("sample_")]
        assert (row.block_m, row.block_n, row.num_warps, row.num_stages) == tile


@pytest.mark.parametrize(
    ("target", "products"), [("sm_80", "HMMA"), ("sm_90", "HGMMA"), ("sm_100", "UTCHMMA"), ("gfx942", "MFMA")]
)
def test_matrix_products_are_the_targets_own(everywhere: Audit, target: str, products: str) -> None:
    for row in everywhere.rows:
        if row.target == target:
            assert products in row.resources.matrix


def test_one_exponential_per_score_is_counted(everywhere: Audit) -> None:
    """Beside it a softmax forward has one per row for the rescaling, hence a little more than one."""
    for row in everywhere.rows:
        assert 1 <= row.resources.special_per_score < 1.2, row.title


def test_a_tile_is_the_same_for_every_target(everywhere: Audit) -> None:
    """64 x 128 scores in four warps are 64 per thread, or 32 where a warp has 64 of them."""
    for row in everywhere.rows:
        need, lanes = row.resources, 64 if row.target == "gfx942" else 32
        scores = row.block_m * row.block_n / (row.num_warps * lanes)
        assert need.instructions_per_tile == need.main_loop_instructions * 2048 / lanes / scores


def test_products_on_hopper_are_pipelined_and_loads_asynchronous(everywhere: Audit) -> None:
    forward = everywhere.rows[4].resources
    assert everywhere.rows[4].title.startswith("sample_forward on sm_90, head dim 64, bfloat16, full, 128x64, 8 warps")
    assert forward.async_copies > 0
    assert 0 < forward.waits < forward.matrix["HGMMA"]


@pytest.mark.parametrize(("dtype", "pointer"), [("bfloat16", "*bf16"), ("float16", "*fp16")])
def test_kernels_are_compiled_for_the_type_of_the_call(dtype: str, pointer: str) -> None:
    case = Case(64, dtype)
    for kernel in compile_launches(TARGETS["sm_80"], case, lambda: launch_kernels(sample_attention, SAMPLE, case)):
        signature = kernel.code.src.signature
        assert {signature["Q"], signature["K"], signature["V"]} == {pointer}


@pytest.mark.parametrize(("length", "is_multiple"), [(1024, True), (1000, False)])
def test_hints_are_those_of_the_launch(length: int, is_multiple: bool) -> None:
    case = Case(64, length=length)
    forward, _ = compile_launches(TARGETS["sm_80"], case, lambda: launch_kernels(sample_attention, SAMPLE, case))
    place = sample_attention.sample_forward.arg_names.index("n_q")
    hints = forward.code.src.attrs.get((place,), [])
    assert (["tt.divisibility", 16] in hints) == is_multiple


@pytest.mark.parametrize(
    ("tile", "finding"),
    [
        ((128, 128, 4, 3), "spills: "),
        ((64, 128, 4, 8), "bytes of shared memory, 166,912 are there"),
    ],
)
def test_a_tile_that_is_too_large_is_a_finding(
    monkeypatch: pytest.MonkeyPatch, tile: tuple[int, ...], finding: str
) -> None:
    monkeypatch.setitem(sample_attention.OVERRIDES, "forward", sample_attention.Tile(*tile))
    case = Case(64)
    kernels = compile_launches(TARGETS["sm_80"], case, lambda: launch_kernels(sample_attention, SAMPLE, case))
    forward, backward = map(row_of, kernels)
    assert [finding in line for line in forward.findings] == [True]
    assert not backward.findings


def test_a_kernel_that_fails_to_compile_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sample_attention.OVERRIDES, "forward", sample_attention.Tile(96, 64, 4, 2))
    result = audit()
    assert [row.resources is None for row in result.rows] == [True, False, True, False]
    assert "sample_forward on sm_90, head dim 64, bfloat16, full, 96x64" in result.findings[0]
    assert "fails to compile" in result.findings[0]
    assert "power of 2" in result.findings[0]
    assert "fails to compile" in render(result)


def test_binaries_are_saved(tmp_path: Path) -> None:
    audit(targets=("sm_80", "gfx942"), save_binary=tmp_path / "new")
    names = {path.name for path in (tmp_path / "new").iterdir()}
    assert {f"sample_forward.sm_80.d64.bfloat16.full.{suffix}" for suffix in ("cubin", "ptx")} <= names
    assert {f"sample_backward_query.gfx942.d64.bfloat16.causal.{suffix}" for suffix in ("hsaco", "amdgcn")} <= names
    assert (tmp_path / "new" / "sample_forward.sm_80.d64.bfloat16.full.cubin").read_bytes().startswith(b"\x7fELF")


def test_progress_is_told(everywhere: Audit) -> None:
    lines: list[str] = []
    audit_module(sample_attention, SAMPLE, Request(("sm_90",), (64,)), lines.append)
    assert lines == ["sm_90, head dim 64, bfloat16, full", "sm_90, head dim 64, bfloat16, causal"]


def test_the_process_is_left_as_it_was(everywhere: Audit) -> None:
    assert isinstance(sample_attention.sample_forward, triton.JITFunction)
    assert triton.JITFunction.run.__module__ == "triton.runtime.jit"
    assert triton.runtime.driver._active is None or not hasattr(triton.runtime.driver._active, "_target")
    with pytest.raises(NotImplementedError, match="the portable path"):
        sample_attention.sample_attention(*(torch.zeros(1, 1, 16, 16) for _ in range(3)))


def test_inputs_are_tensors_of_their_axes() -> None:
    """The op is called with every declared input, and with gradients where the spec wants them."""
    seen: dict[str, torch.Tensor] = {}

    class Op:
        KERNELS = ()
        launch_forward = launch_backward = staticmethod(lambda: None)

        @staticmethod
        def sample_attention(query, key, value, *, is_causal, **inputs):
            seen.update(inputs)
            return query * 1

    declared = (Input("bias", ("head", "query", "key")), Input("sink", ("kv_head",), grad=False), Input("gain", ()))
    launch_kernels(Op, dataclasses.replace(SAMPLE, inputs=declared), Case(64, length=32, heads=3))
    assert {name: tuple(t.shape) for name, t in seen.items()} == {"bias": (3, 32, 32), "sink": (3,), "gain": ()}
    assert {name: t.requires_grad for name, t in seen.items()} == {"bias": True, "sink": False, "gain": True}


# ---------------------------------------------------------------- machine code

SASS = """
 Function attention_forward:
  REG:168 STACK:16 SHARED:1024 LOCAL:0 CONSTANT[0]:608 TEXTURE:0 SURFACE:0 SAMPLER:0
        /*0000*/                   LDC R1, c[0x0][0x28] ;                 /* 0x00000a00ff017b82 */
        /*0010*/                   LDGSTS.E.BYPASS.128 [R2], [R4.64] ;    /* 0x000e700000000800 */
        /*0020*/                   HGMMA.64x64x16.F32.BF16 R24, gdesc[UR8], RZ, !UPT ;
        /*0030*/               @P1 STL [R1+0x4], R9 ;
        /*0040*/                   MUFU.EX2 R3, R3 ;
        /*0050*/                   BRA 0x20 ;
        /*0060*/                   HGMMA.64x64x16.F32.BF16 R24, gdesc[UR8], RZ, !UPT ;
        /*0070*/              @!P4 BRA 0x120 ;
        /*0080*/                   HGMMA.64x64x16.F32.BF16 R24, gdesc[UR8], R24, gsb0 ;
        /*0090*/                   WARPGROUP.DEPBAR.LE gsb0, 0x0 ;
        /*00a0*/                   MUFU.RCP R3, R3 ;
        /*00b0*/                   BRA.U UP0, 0xa0 ;
        /*00c0*/              @!P2 BRA 0x60 ;
        /*00d0*/                   HGMMA.64x64x16.F32.BF16 R24, gdesc[UR8], R24, gsb0 ;
        /*00e0*/                   HGMMA.64x64x16.F32.BF16 R24, gdesc[UR8], R24, gsb0 ;
        /*00f0*/                   LDL R9, [R1+0x4] ;
        /*0100*/               @P5 BRA 0x20 ;
        /*0110*/                   EXIT ;
        /*0120*/                   SYNCS.PHASECHK.TRANS64.TRYWAIT P4, [R0], R2 ;
        /*0130*/              @!P4 BRA 0x120 ;
        /*0140*/                   BRA 0x80 ;
"""


def test_sass_is_read() -> None:
    code = parse_sass(SASS)
    assert (code.registers, code.stack, len(code.instructions)) == (168, 16, 21)
    assert of_kind(code.instructions, "matrix") == {"HGMMA": 5}
    assert of_kind(code.instructions, "special") == {"EX2": 1, "RCP": 1}
    assert of_kind(code.instructions, "spill store") == {"STL": 1}
    assert of_kind(code.instructions, "spill load") == {"LDL": 1}
    assert of_kind(code.instructions, "async") == {"LDGSTS": 1}
    assert of_kind(code.instructions, "wait") == {"WARPGROUP": 1}


def test_the_main_loop_is_the_one_with_the_most_products() -> None:
    """Not the loop around both, not one with fewer products, not the way back from a barrier behind the end."""
    loop = parse_sass(SASS).main_loop()
    assert [loop[0].address, loop[-1].address] == [0x60, 0xC0]
    assert of_kind(loop, "special") == {"RCP": 1}


def test_code_without_a_loop_is_taken_whole() -> None:
    straight = parse_sass(SASS.replace("BRA", "NOP"))
    assert straight.main_loop() == straight.instructions


AMDGCN = """
attention_forward:
	s_load_dwordx2 s[2:3], s[0:1], 0x0
.LBB0_1:                                ; in loop
	v_mfma_f32_32x32x8_bf16 v[0:15], v[16:17], v[18:19], v[0:15]
	v_exp_f32_e32 v20, v20
	scratch_store_dword off, v1, s32
	s_cbranch_scc1 .LBB0_1
	v_rcp_f32_e32 v21, v21
	s_endpgm
    .private_segment_fixed_size: 4
    .vgpr_count:     184
"""


def test_amdgcn_is_read() -> None:
    code = parse_amdgcn(AMDGCN)
    assert (code.registers, code.stack, len(code.instructions)) == (184, 4, 7)
    assert code.main_loop()[0].opcode == "v_mfma_f32_32x32x8_bf16"
    assert of_kind(code.instructions, "matrix") == {"MFMA": 1}
    assert of_kind(code.instructions, "special") == {"EXP": 1, "RCP": 1}
    assert of_kind(code.main_loop(), "special") == {"EXP": 1}
    assert of_kind(code.instructions, "spill store").total() == 1


@pytest.mark.parametrize(
    ("opcode", "kind"),
    [
        ("HMMA.16816.F32.BF16", "matrix"),
        ("UTCHMMA", "matrix"),
        ("UTCQMMA", "matrix"),
        ("QGMMA.64x64x32.F32.E4M3.E4M3", "matrix"),
        ("UTMALDG.4D", "async"),
        ("UTCATOMSWS.FIND_AND_SET.ALIGN", "other"),
        ("WARPGROUP.ARRIVE", "other"),
        ("FFMA", "other"),
        ("global_load_lds_dwordx4", "async"),
        ("v_rsq_f32_e32", "special"),
        ("v_exp_f16_e32", "special"),
    ],
)
def test_instructions_are_told_apart(opcode: str, kind: str) -> None:
    assert Instruction(0, opcode).kind == kind


# ---------------------------------------------------------------- overlap


def loop(order: str) -> tuple[Instruction, ...]:
    """H: a product; G: the last of a group; M: a reciprocal; 0, 1: a wait until so many groups are in flight."""
    lines = {
        "H": "HGMMA.64x64x16.F32.BF16 R24, gdesc[UR8], R24",
        "G": "HGMMA.64x64x16.F32.BF16 R24, gdesc[UR8], R24, gsb0",
        "M": "MUFU.RCP R3, R3",
        "0": "WARPGROUP.DEPBAR.LE gsb0, 0x0",
        "1": "WARPGROUP.DEPBAR.LE gsb0, 0x1",
    }
    code = "".join(f"        /*{16 * n:04x}*/  {lines[letter]} ;\n" for n, letter in enumerate(order))
    return parse_sass("REG:1 STACK:0\n" + code).instructions


@pytest.mark.parametrize(
    ("order", "hidden"),
    [
        ("HG0MMM", 0),
        ("HMMGM0M", 3),  # between products of an open group, and until the wait
        ("HGHG1MM0M", 2),  # one of two groups is still in flight
        ("M0MHG", 1),  # the first runs under what the pass before left in flight
        ("MM", 0),
    ],
)
def test_special_functions_under_a_product_are_counted(order: str, hidden: int) -> None:
    assert special_under_products(loop(order)) == hidden


# ---------------------------------------------------------------- occupancy


@pytest.mark.parametrize(
    ("target", "registers", "warps", "shared", "ctas"),
    [
        ("sm_90", 32, 4, 0, 16),  # 64 warps
        ("sm_90", 32, 1, 0, 32),  # 32 CTAs
        ("sm_90", 168, 4, 0, 3),  # three warps of 168 * 32 registers in each quarter of the register file
        ("sm_90", 168, 12, 0, 1),
        ("sm_90", 96, 1, 0, 20),  # five in each quarter, though the whole would hold 21
        ("sm_90", 169, 4, 0, 2),  # dealt out in eights
        ("sm_90", 255, 8, 65536, 1),
        ("sm_90", 64, 4, 65536, 3),  # 228 KiB hold three times 65 KiB
        ("sm_90", 64, 4, 232448, 1),
        ("sm_90", 64, 4, 232449, 0),
        ("sm_80", 64, 4, 65536, 2),  # 164 KiB hold two
        ("gfx942", 128, 4, 0, 4),  # 512 registers of a lane
        ("gfx942", 184, 4, 16384, 2),
        ("gfx942", 32, 1, 0, 16),
        ("gfx942", 32, 4, 65537, 0),
    ],
)
def test_ctas_per_multiprocessor(target: str, registers: int, warps: int, shared: int, ctas: int) -> None:
    assert TARGETS[target].ctas_that_fit(registers, warps, shared) == ctas


def test_tensor_memory_limits_too() -> None:
    assert TARGETS["sm_100"].ctas_that_fit(64, 4, 0, tensor_memory=256) == 2


# ---------------------------------------------------------------- the report

FINE = Resources(
    registers=128, stack=0, spill_stores=0, spill_loads=0, shared=65536, shared_limit=232448, ctas=3, instructions=1000,
    matrix={"HGMMA": 16}, special={"EX2": 65}, async_copies=8, waits=2, main_loop_instructions=500,
    main_loop_special=65, instructions_per_tile=500, special_per_score=1.01, special_under_products=0.9,
)  # fmt: skip
ROW = Row("sm_90", "sample_forward", 64, "bfloat16", "full", 128, 64, 4, 3, FINE)


def with_need(**changes: object) -> Row:
    return dataclasses.replace(ROW, resources=dataclasses.replace(FINE, **changes))


@pytest.mark.parametrize(
    ("row", "finding"),
    [
        (with_need(shared=232449), "needs 232,449 bytes of shared memory, 232,448 are there"),
        (with_need(spill_stores=1, spill_loads=2), "spills: 1 stores, 2 loads, 0 bytes of stack per thread"),
        (with_need(stack=8), "spills: 0 stores, 0 loads, 8 bytes of stack per thread"),
        (with_need(ctas=0), "does not fit on a multiprocessor"),
        (dataclasses.replace(ROW, resources=None, error="OutOfResources: x"), "fails to compile: OutOfResources: x"),
    ],
)
def test_findings(row: Row, finding: str) -> None:
    title = "sample_forward on sm_90, head dim 64, bfloat16, full, 128x64, 4 warps, 3 stages"
    found = Audit("sample", "3.7.1", (ROW, row))
    assert found.findings == (f"{title}: {finding}",)
    assert f"{title}: {finding}" in render(found)


def test_a_sound_row_has_none() -> None:
    fine = Audit("sample", "3.7.1", (ROW,))
    assert (fine.findings, fine.remarks) == ((), ())
    assert "No findings" in render(fine)


def test_few_spills_of_a_backward_are_a_remark() -> None:
    few, many = (dataclasses.replace(with_need(spill_stores=n, stack=8), kernel="sample_backward") for n in (8, 9))
    assert (len(few.findings), len(many.findings)) == (0, 1)
    assert (few.remarks, many.remarks) == (("spills: 8 stores, 0 loads, 8 bytes of stack per thread",), ())


def test_serialized_products_are_a_remark() -> None:
    result = Audit("sample", "3.7.1", (with_need(waits=16),))
    assert not result.findings
    assert "matrix products look serialized: 16 waits for 16 HGMMA" in result.remarks[0]
    assert result.remarks[0] in render(result)


def test_the_table_says_it_all() -> None:
    lines = render(Audit("sample", "3.7.1", (ROW,))).splitlines()
    [line] = [line for line in lines if line.startswith("sample_forward")]
    assert (
        " ".join(line.split())
        == "sample_forward 64 bfloat16 full 128x64 4w 3s 128 0 64.0 3 16 HGMMA, 2 waits 500 1.01 90% 8"
    )


def test_json_is_a_list_of_objects() -> None:
    spilling = with_need(spill_stores=1, spill_loads=2)
    first, second = json.loads(to_json(Audit("sample", "3.7.1", (ROW, spilling))))
    assert first["resources"]["matrix"] == {"HGMMA": 16}
    assert first["findings"] == []
    assert second["findings"] == list(spilling.findings)
    assert second["kernel"] == "sample_forward"
