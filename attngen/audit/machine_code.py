"""From a compiled kernel to what its machine code holds: registers, stack, instructions, loops.

NVIDIA's SASS comes from the disassembler inside Triton's wheel, AMD's assembly from the compiler itself. Counts are
static: a loop's body counts once, however often it runs. Times are not estimated.
"""

import re
import subprocess
import tempfile
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

import triton

Kind = Literal["matrix", "special", "async", "spill store", "spill load", "wait", "other"]

# What the opcode of an instruction begins with, NVIDIA's in capitals.
_KINDS: tuple[tuple[Kind, re.Pattern[str]], ...] = (
    ("matrix", re.compile(r"(UTC)?[A-Z]G?MMA\b|v_s?mfmac?_")),
    ("special", re.compile(r"MUFU\b|v_(exp|log|rcp|rsq|sqrt|sin|cos)_")),
    ("async", re.compile(r"LDGSTS\b|UTMA(LDG|STG|REDG)\b|UBLKCP\b|(global|buffer)_load_lds_")),
    ("spill store", re.compile(r"STL\b|scratch_store_")),
    ("spill load", re.compile(r"LDL\b|scratch_load_")),
    ("wait", re.compile(r"WARPGROUP\.DEPBAR\b")),
)


@dataclass(frozen=True, slots=True)
class Instruction:
    """One instruction, at its address in bytes (AMD: its number)."""

    address: int
    opcode: str
    operands: str = ""  # NVIDIA only
    jumps_to: int | None = None  # for branches

    @property
    def kind(self) -> Kind:
        return next((kind for kind, pattern in _KINDS if pattern.match(self.opcode)), "other")

    @property
    def short_name(self) -> str:
        """HGMMA.64x64x16.F32.BF16 -> HGMMA, MUFU.EX2 -> EX2, v_mfma_f32_32x32x8_bf16 -> MFMA, v_exp_f32_e32 -> EXP."""
        words = self.opcode.split(".")
        if self.opcode.startswith("v_"):
            return self.opcode.split("_")[1].upper()
        return words[1] if words[0] == "MUFU" else words[0]


@dataclass(frozen=True, slots=True)
class MachineCode:
    """What one kernel's machine code asks of the hardware."""

    registers: int  # per thread, at launch
    stack: int  # bytes per thread
    instructions: tuple[Instruction, ...]

    def main_loop(self) -> tuple[Instruction, ...]:
        """The innermost loop with the most matrix products, of several the shortest: the one that needs no masks.

        The whole code where no loop has any.
        """
        bodies = _innermost_loops_with_products(self.instructions)
        return min(bodies, key=lambda body: (-of_kind(body, "matrix").total(), len(body)), default=self.instructions)


def of_kind(instructions: Iterable[Instruction], kind: Kind) -> Counter[str]:
    """How many instructions of the kind there are, by their short names."""
    return Counter(instruction.short_name for instruction in instructions if instruction.kind == kind)


def read_machine_code(compiled: Any) -> MachineCode:
    """`compiled` is Triton's compiled kernel; no device is needed."""
    if "cubin" in compiled.asm:
        return parse_sass(disassembled(compiled.asm["cubin"]))
    return parse_amdgcn(compiled.asm["amdgcn"])


def disassembled(cubin: bytes) -> str:
    """The SASS of a cubin and its resources, as cuobjdump prints them."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        command = [triton.knobs.nvidia.cuobjdump.path, "-sass", "-res-usage", file.name]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout


# "        /*1eb0*/              @!P0 BRA 0x1410 ;"
_SASS_LINE = re.compile(r"/\*([0-9a-f]{4,6})\*/\s+(?:@!?U?P\w+\s+)?([A-Z][\w.]*)([^;\n]*);")


def parse_sass(text: str) -> MachineCode:
    """What cuobjdump printed, read; `-res-usage` is needed."""
    usage = re.search(r"REG:(\d+) STACK:(\d+)", text)
    assert usage is not None, "cuobjdump says nothing of the kernel's resources"
    return MachineCode(int(usage[1]), int(usage[2]), tuple(map(_sass_instruction, _SASS_LINE.finditer(text))))


def _sass_instruction(match: re.Match[str]) -> Instruction:
    opcode, operands = match[2], match[3]
    target = re.search(r"0x([0-9a-f]+)", operands) if opcode.split(".")[0] == "BRA" else None
    return Instruction(int(match[1], 16), opcode, operands.strip(), int(target[1], 16) if target else None)


def parse_amdgcn(text: str) -> MachineCode:
    """Instructions are numbered in place of addresses."""
    lines = re.findall(r"^(?:(\.L\w+):|[ \t]+([a-z]+_\w+)(?:[ \t]+(\S+))?)", text, re.M)
    labels: dict[str, int] = {}
    found: list[tuple[str, str]] = []
    for label, opcode, operand in lines:
        if label:
            labels[label] = len(found)
        else:
            found.append((opcode, operand))
    instructions = tuple(
        Instruction(place, opcode, "", labels.get(operand) if opcode.startswith(("s_branch", "s_cbranch")) else None)
        for place, (opcode, operand) in enumerate(found)
    )
    fields = dict(re.findall(r"^\s+\.(\w+):\s+(\d+)$", text, re.M))
    return MachineCode(int(fields["vgpr_count"]), int(fields["private_segment_fixed_size"]), instructions)


def _innermost_loops_with_products(code: tuple[Instruction, ...]) -> list[tuple[Instruction, ...]]:
    """Code between a branch back and where it goes to.

    Behind the kernel's end stand the places where it spins on a barrier; the ways back from there are no loops.
    """
    end = max((i.address for i in code if i.opcode in ("EXIT", "s_endpgm")), default=0)
    spans = {(i.jumps_to, i.address) for i in code if i.jumps_to is not None and i.jumps_to < i.address < end}
    bodies = {(first, last): tuple(i for i in code if first <= i.address <= last) for first, last in spans}
    with_products = {span: body for span, body in bodies.items() if of_kind(body, "matrix")}
    return [body for span, body in with_products.items() if not any(_inside(other, span) for other in with_products)]


def _inside(inner: tuple[int, int], outer: tuple[int, int]) -> bool:
    return inner != outer and outer[0] <= inner[0] and inner[1] <= outer[1]
