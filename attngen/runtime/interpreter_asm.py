"""`tl.inline_asm_elementwise` in Triton's interpreter, by a table from PTX instruction to numpy function.

One instruction and one output per assembly text; the packed forms (bf16x2) need nothing special, since the operands
arrive as elements, not as pairs. The results are exact where the hardware approximates, so what an approximation costs
shows on a GPU alone.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
from triton.runtime.interpreter import InterpreterBuilder, TensorHandle

from attngen.runtime.interpreter_precision import Array, decode, encode, is_encoded

Emulation = Callable[..., Array]

INLINE_ASM: Mapping[str, Emulation] = MappingProxyType(
    {
        "tanh.approx": np.tanh,
        "ex2.approx": np.exp2,
        "lg2.approx": np.log2,
        "rcp.approx": np.reciprocal,
        "sqrt.approx": np.sqrt,
        "rsqrt.approx": lambda x: 1 / np.sqrt(x),
        "sin.approx": np.sin,
        "cos.approx": np.cos,
        "div.full": np.divide,
        "fma.rn": lambda x, y, z: x * y + z,
        "mov": lambda x: x,
    }
)


def emulate_inline_asm(table: Mapping[str, Emulation] = INLINE_ASM) -> None:
    """Let assembly run whose single instruction begins with a key of `table`; other texts are a NotImplementedError."""

    def create_inline_asm(self: Any, text: str, constraints: str, operands: list[Any], types: Any, *rest: Any) -> Any:
        with np.errstate(all="ignore"):
            values = _emulation(text, table)(*map(decode, operands))
        dtype = operands[0].dtype.scalar
        if is_encoded(operands[0]):
            return _Results([encode(values, dtype)])
        return _Results([TensorHandle(values.astype(operands[0].data.dtype), dtype)])

    InterpreterBuilder.create_inline_asm = create_inline_asm


def _emulation(text: str, table: Mapping[str, Emulation]) -> Emulation:
    instructions = [part.strip() for part in text.split(";") if part.strip()]
    if len(instructions) == 1:
        for name, function in table.items():
            if instructions[0].startswith(name + "."):
                return function
    raise NotImplementedError(f"no emulation for the inline assembly {text!r}; known: {', '.join(table)}")


class _Results(list[Any]):
    """Stands for the IR operation whose results the caller takes one by one."""

    def get_result(self, index: int) -> Any:
        return self[index]
