"""`tl.inline_asm_elementwise` in Triton's interpreter, by a table from PTX instruction to numpy function.

A text is one instruction with one output, whose operand may be of two halves, or a block `{ .reg ..; ..; }` of several,
which may take `pack` elements of a thread at a time. The packed forms (bf16x2) need nothing special, since the operands
arrive as elements, not as pairs. Results are exact where the hardware approximates, so what an approximation costs
shows on a GPU alone; but for tanh and logarithms, which are as far off as PTX allows.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
from triton.runtime.interpreter import InterpreterBuilder

from attngen.runtime.interpreter_precision import Array, decode, encode

Emulation = Callable[..., Array]


def _tanh_approx(x: Array) -> Array:
    """The nearest number of a grid that is as coarse as a relative error of 2^-11 allows, with 1 on it."""
    step = np.log1p(2.0**-11) - np.log1p(-(2.0**-11))
    t = np.tanh(np.asarray(x, np.float64))
    nearest: Array = np.sign(t) * np.exp(step * np.rint(np.log(np.abs(t)) / step))
    return nearest.astype(np.float32)


def _lg2_approx(x: Array) -> Array:
    """The nearest number of a grid that is as coarse as errors of 2^-22 allow, relative ones beyond 1 and -1."""
    y = np.log2(np.asarray(x, np.float64))
    step = 2.0**-21 * np.exp2(np.floor(np.log2(np.maximum(1, np.abs(y)))))
    nearest: Array = np.where(np.isfinite(y), step * np.rint(y / step), y)
    return nearest.astype(np.float32)


def _moved(x: Array, *high: Array) -> Array:
    """x, or the number whose lower half x is."""
    return x | high[0].astype(np.uint32) << 16 if high else x


def _selected(x: Array, y: Array, condition: Array) -> Array:
    selected: Array = np.where(condition, x, y)
    return selected


INLINE_ASM: Mapping[str, Emulation] = MappingProxyType(
    {
        "tanh.approx": _tanh_approx,
        "ex2.approx": np.exp2,
        "lg2.approx": _lg2_approx,
        "rcp.approx": np.reciprocal,
        "sqrt.approx": np.sqrt,
        "rsqrt.approx": lambda x: 1 / np.sqrt(x),
        "sin.approx": np.sin,
        "cos.approx": np.cos,
        "div.full": np.divide,
        "fma.rn": lambda x, y, z: x * y + z,
        "mov": _moved,
        "add": np.add,
        "mul": np.multiply,
        "neg": np.negative,
        "min.NaN": np.minimum,
        "min": np.fmin,
        "max": np.fmax,
        "setp.lt.u32": lambda x, y: x.astype(np.uint32) < y.astype(np.uint32),
        "selp": _selected,
    }
)


def emulate_inline_asm(table: Mapping[str, Emulation] = INLINE_ASM) -> None:
    """Let assembly run whose instructions begin with keys of `table`; other texts are a NotImplementedError."""

    def create_inline_asm(self: Any, text: str, _constraints: str, operands: list[Any], *rest: Any) -> Any:
        (result,), _is_pure, pack = rest
        with np.errstate(all="ignore"):
            values = _evaluated(text, pack, table, *map(decode, operands))
        return _Results([encode(values, result.scalar)])

    InterpreterBuilder.create_inline_asm = create_inline_asm


def _evaluated(text: str, pack: int, table: Mapping[str, Emulation], *operands: Array) -> Array:
    instructions = [part.strip() for part in text.strip(" {}\n").split(";") if part.strip()]
    if len(instructions) == 1:
        return _emulation(instructions[0], table)(*operands)
    shape = operands[0].shape
    places = _by_thread(shape).reshape(-1, pack)
    given = (operand.reshape(-1)[places[:, n]] for operand in operands for n in range(pack))
    values: dict[str, Any] = {f"${number}": operand for number, operand in enumerate(given, start=pack)}
    for instruction in instructions:
        if not instruction.startswith(".reg"):
            opcode, arguments = instruction.split(None, 1)
            result, *sources = (name.strip() for name in arguments.split(","))
            values[result] = _emulation(opcode, table)(*(_value(name, values) for name in sources))
    results = np.empty(places.size, values["$0"].dtype)
    results[places] = np.stack([values[f"${n}"] for n in range(pack)], axis=-1)
    return results.reshape(shape)


def _by_thread(shape: tuple[int, ...]) -> Array:
    """The places of a tile's elements in the order in which an instruction that takes several finds them in a thread,
    as a product leaves them there: two neighbours of row r, two of row r + 8, then those eight columns further."""
    places = np.arange(np.prod(shape))
    if len(shape) != 2 or shape[0] % 16 or shape[1] % 8:
        return places
    return places.reshape(-1, 2, 8, shape[1] // 8, 4, 2).transpose(0, 2, 4, 3, 1, 5)


def _value(name: str, values: Mapping[str, Array]) -> Array:
    """A register's value, or that of a literal such as 0f3F800000."""
    return np.frombuffer(bytes.fromhex(name[2:]), ">f4").astype(np.float32) if name.startswith("0f") else values[name]


def _emulation(instruction: str, table: Mapping[str, Emulation]) -> Emulation:
    for name, function in table.items():
        if f"{instruction.split()[0]}.".startswith(f"{name}."):
            return function
    raise NotImplementedError(f"no emulation for the inline assembly {instruction!r}; known: {', '.join(table)}")


class _Results(list[Any]):
    """Stands for the IR operation whose results the caller takes one by one."""

    def get_result(self, index: int) -> Any:
        return self[index]
