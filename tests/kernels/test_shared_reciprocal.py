"""Logistics that share a reciprocal: the assembly, evaluated line by line in float32, against float64."""

import re
from collections.abc import Callable

import numpy as np
import pytest

import generated.sigmoid as module

Lanes = np.ndarray
INSTRUCTIONS: dict[str, Callable[..., Lanes]] = {
    "neg.f32": np.negative,
    "min.NaN.f32": np.minimum,  # numpy's gives what isn't a number, too
    "ex2.approx.ftz.f32": np.exp2,
    "rcp.approx.ftz.f32": np.reciprocal,
    "add.f32": np.add,
    "mul.f32": np.multiply,
    "fma.rn.f32": lambda x, y, z: (x.astype(np.float64) * y + z).astype(np.float32),
}


def assembly(count: int) -> str:
    """The text that takes and gives `count` elements."""
    texts = re.findall(r'"""\s*({\s*\.reg.*?})\s*"""', module._logistic2_shared.src, re.S)
    (found,) = (text for text in texts if len(set(re.findall(r"\$\d", text))) == 2 * count)
    return found


def shared(x: Lanes) -> Lanes:
    """What the outputs hold for the inputs, as the rows of `x`."""
    values = {f"${len(x) + n}": row for n, row in enumerate(x)}
    for line in assembly(len(x)).strip("{}\n ").split(";"):
        opcode, _, operands = line.strip().partition(" ")
        if opcode in ("", ".reg"):
            continue
        target, *sources = (operand.strip() for operand in operands.split(","))
        values[target] = INSTRUCTIONS[opcode](*(values[s] if s in values else literal(s) for s in sources))
    return np.stack([values[f"${n}"] for n in range(len(x))])


def literal(text: str) -> np.float32:
    return np.uint32(int(text.removeprefix("0f"), 16)).view(np.float32)


@pytest.mark.parametrize("count", [2, 4])
def test_every_digit_is_kept(count: int) -> None:
    """Large beside small: neither is floored, nor does a product leave float32's range."""
    random = np.random.default_rng(0)
    wide = random.uniform(-120, 120, (count, 4000)).astype(np.float32)
    mixed = np.array([[-300, 0, 120, 2], [-300] * 4, [120] * 4, [30, -30, 31, -31]], np.float32).T[:count]
    for x in (wide, wide / 16, mixed):
        right = 1 / (1 + np.exp2(x.astype(np.float64)))
        assert np.abs(shared(x) / right - 1).max() < 12 * np.finfo(np.float32).eps


@pytest.mark.parametrize("count", [2, 4])
def test_what_has_no_bound_has_a_limit(count: int) -> None:
    x = np.array([[np.inf], [-np.inf], [1000], [0]], np.float32)[:count]
    assert shared(x).ravel().tolist() == [0, 1, 0, 0.5][:count]


@pytest.mark.parametrize("count", [2, 4])
def test_what_is_not_a_number_stays_so(count: int) -> None:
    assert np.isnan(shared(np.array([[np.nan], [0], [0], [0]], np.float32)[:count])[0])
