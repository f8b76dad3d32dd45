"""How much of a loop's special-function work stands where a matrix product of the same warps is in flight.

From the instructions of one loop, in the order they stand in, to a share. Only NVIDIA's asynchronous products (HGMMA)
are ever in flight: they are issued, closed as a group by `gsb0`, and waited on with WARPGROUP.DEPBAR, which says how
many groups may stay open. Branches inside the loop are not followed, and other warps' products are not seen.
"""

import re
from dataclasses import dataclass

from attngen.audit.machine_code import Instruction


@dataclass(frozen=True, slots=True)
class _InFlight:
    """The warpgroup's products that nothing has waited for: closed groups, and whether one is still being filled."""

    groups: int = 0
    is_open: bool = False

    def after(self, instruction: Instruction) -> "_InFlight":
        if instruction.opcode.startswith("HGMMA"):
            closes = "gsb0" in instruction.operands
            return _InFlight(self.groups + closes, not closes)
        if instruction.kind == "wait":
            return _InFlight(min(self.groups, _allowed(instruction)), self.is_open)
        return self

    def __bool__(self) -> bool:
        return self.is_open or self.groups > 0


def special_under_products(loop: tuple[Instruction, ...]) -> int:
    """How many special-function instructions of the loop are issued while a product is in flight."""
    flying = _InFlight()
    for instruction in loop:  # what a pass leaves in flight, the next one begins with
        flying = flying.after(instruction)
    found = 0
    for instruction in loop:
        flying = flying.after(instruction)
        found += bool(flying) and instruction.kind == "special"
    return found


def _allowed(wait: Instruction) -> int:
    """WARPGROUP.DEPBAR.LE gsb0, 0x1 -> 1."""
    count = re.search(r"0x([0-9a-f]+)", wait.operands)
    return int(count[1], 16) if count else 0
