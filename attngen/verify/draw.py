"""From a case to its tensors: values from the seed, in the case's dtype, form and layout, on the device asked for.

The values are drawn on the CPU, so that a case means the same everywhere; large cases, which nobody replays, may be
drawn where they are wanted. Nothing here knows what an op computes.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from attngen import ir
from attngen.verify.case import Case, Layout
from attngen.verify.reference import Operands, default_of

_INPUT_SPREAD = 0.5  # inputs stay near their defaults: far from them many a formula has no value


@dataclass(frozen=True, slots=True)
class Drawn:
    """The tensors of a case, and the gradient that flows into its output; none of them requires a gradient."""

    operands: Operands
    grad_out: Tensor

    def with_(self, query: Tensor | None = None, key: Tensor | None = None, value: Tensor | None = None) -> "Drawn":
        """The same with other tensors in place of some."""
        old = self.operands
        new = Operands(
            old.query if query is None else query,
            old.key if key is None else key,
            old.value if value is None else value,
            old.inputs,
        )
        return replace(self, operands=new)


def draw(case: Case, normalizer: ir.Normalizer, device: str, drawn_on: str = "cpu") -> Drawn:
    """The tensors of a case: query, key, value, output gradient, and every input that its form doesn't leave out."""
    dtype = getattr(torch, case.dtype)
    generator = torch.Generator(drawn_on).manual_seed(case.seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64, device=drawn_on)

    query = case.gain * normal(case.batch, case.heads, case.n_q, case.d)
    key = normal(case.batch, case.kv_heads, case.n_k, case.d)
    value = normal(case.batch, case.kv_heads, case.n_k, case.d_v)
    grad_out = normal(case.batch, case.heads, case.n_q, case.d_v)
    query, key, value, grad_out = (x.to(device, dtype) for x in (query, key, value, grad_out))
    query, key, value = (laid_out(x, case.layout) for x in (query, key, value))
    gradient = grad_out[:1, :1, :1, :1].expand_as(grad_out) if case.layout == "expanded" else grad_out
    operands = Operands(query, key, value)
    inputs = {
        source.name: _input(source, case, normal(*_shape(source, case)), operands) for source in normalizer.inputs
    }
    given = {name: x for name, x in inputs.items() if x is not None}
    return Drawn(replace(operands, inputs=given), laid_out(gradient, case.layout))


def laid_out(tensor: Tensor, layout: Layout) -> Tensor:
    """The tensor (B, H, N, D) in another layout; `expanded` repeats its first batch."""
    match layout:
        case "contiguous":
            return tensor
        case "transposed":
            return tensor.transpose(1, 2).contiguous().transpose(1, 2)
        case "expanded":
            return tensor[:1].expand_as(tensor)
        case "sliced":
            padded = torch.nn.functional.pad(tensor, (8, 8, 1, 1))
            return padded[:, :, 1:-1, 8:-8]


def _shape(source: ir.Input, case: Case) -> tuple[int, ...]:
    sizes = dict(zip(ir.AXES, (case.batch, case.heads, case.kv_heads, case.n_q, case.n_k), strict=True))
    return tuple(1 if case.form(source.name) == "single" else sizes[axis] for axis in source.axes)


def _input(source: ir.Input, case: Case, noise: Tensor, operands: Operands) -> Tensor | float | None:
    form = case.form(source.name)
    if form == "omitted" and source.default is not None:
        return None
    center = 0.0 if source.default is None else default_of(source, operands)
    value = center + _INPUT_SPREAD * noise
    dtype = torch.float32 if form == "float32" else operands.query.dtype
    value = value.to(operands.query.device, dtype)
    return float(value.flatten()[0]) if form == "number" else value
