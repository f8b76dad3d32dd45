"""Whether a lifted formula and the model's own operations agree, on random short rows in float64.

Ordinary rows are compared with their gradients, and so are rows of equal scores, where maxima tie and functions have
their kinks; then rows with scores of all sizes and signs, and masks that hide a whole row. Where a row is hidden as a
whole by minus infinity the model may give NaN and the formula zeros: that difference alone is accepted.
"""

import itertools
from collections.abc import Callable

import torch
from torch import Tensor

from attngen.dynamo.formulas import FALSE
from attngen.dynamo.lifted import Lifted
from attngen.dynamo.nodes import NotLifted
from attngen.dynamo.replay import Lengths, Sample, replay
from attngen.dynamo.samples import EXTREME, ORDINARY, Kind, call_of, inputs_of, lengths_of, sample_of
from attngen.dynamo.versions import Version
from attngen.ir import Normalizer
from attngen.verify.reference import Operands, attention

Run = Callable[[Sample, dict[str, Tensor]], Tensor]
_TOLERANCE = 1e-6  # torch's softplus leaves out 2e-9; everything else is float64 on both sides
_NARROW = 1e-3


def check_formula(version: Version, normalizer: Normalizer, lifted: Lifted, *, empty_rows: bool) -> None:
    """Raise NotLifted unless the formula, all weights written out, computes what the region computes."""

    def written_out(sample: Sample, inputs: dict[str, Tensor]) -> Tensor:
        operands = Operands(sample.query, sample.key, sample.value, inputs)
        return attention(normalizer, operands, call_of(version), torch.float64)

    _ordinary_rows(version, lifted, written_out, lengths_of(lifted, 9 if empty_rows else 6))


def check_op(version: Version, op: Callable[..., Tensor], lifted: Lifted, *, empty_rows: bool) -> None:
    """Raise NotLifted unless the compiled op computes what the region computes, on extreme rows too."""
    call = call_of(version)

    def fused(sample: Sample, inputs: dict[str, Tensor]) -> Tensor:
        more = {"scale": call.scale, "window": call.window, "alignment": call.alignment}
        return op(sample.query, sample.key, sample.value, **inputs, **more)

    lengths = lengths_of(lifted, 9 if empty_rows else 6)
    _ordinary_rows(version, lifted, fused, lengths)
    _narrow(version, lifted, fused, lengths)
    for seed in range(2):
        sample = sample_of(lifted, version, lengths, Kind(seed, EXTREME, hide_rows=True))
        got = fused(sample, inputs_of(version, lifted, sample, lengths))
        _same_rows(lifted, replay(lifted, sample, lengths).detach(), got.detach())


def _narrow(version: Version, lifted: Lifted, run: Run, lengths: Lengths) -> None:
    """Compare float32, on rows that are hidden as a whole as well: output, gradients of queries and values."""
    for seed in range(4):
        sample = sample_of(lifted, version, lengths, Kind(seed, ORDINARY, hide_rows=True))
        inputs = {name: x.float() for name, x in inputs_of(version, lifted, sample, lengths).items()}
        narrow = Sample(sample.query.float(), sample.key.float(), sample.value.float(), sample.leaves)
        found = []
        for given in (sample, narrow):
            tensors = [given.query.requires_grad_(), given.value.requires_grad_()]
            output = replay(lifted, sample, lengths) if given is sample else run(narrow, inputs)
            found.append([output.detach(), *torch.autograd.grad(_some_loss(output), tensors, materialize_grads=True)])
        for wanted, got in zip(*found, strict=True):
            error = (wanted - got).abs().max() / wanted.abs().max().clamp_min(1e-3)
            if bool(wanted.isfinite().all()) and not float(error) <= _NARROW:
                raise NotLifted("float32 is too narrow for the formula")


def _some_loss(output: Tensor) -> Tensor:
    """A number with another derivative for every element of the output."""
    return (output * torch.linspace(-1, 2, output.numel(), dtype=output.dtype).reshape(output.shape)).sum()


def _ordinary_rows(version: Version, lifted: Lifted, run: Run, lengths: Lengths) -> None:
    compared = False
    for seed in range(4):
        sample = sample_of(lifted, version, lengths, Kind(seed, ORDINARY, hide_rows=False))
        compared |= _same_gradients(version, lifted, run, sample, lengths)
    if not compared:
        raise NotLifted("no finite gradients to compare with")
    for seed in range(4):
        sample = sample_of(lifted, version, lengths, Kind(seed, ORDINARY, hide_rows=False, ties=True))
        wanted, got = _with_gradients(version, lifted, run, sample, lengths)
        if all(bool(x.isfinite().all()) for x in wanted):
            if not all(bool(_near(one, other).all()) for one, other in zip(wanted, got, strict=True)):
                raise NotLifted("where scores are equal, or on a bound, the formula and the model's operations differ")
            break


def _same_gradients(version: Version, lifted: Lifted, run: Run, sample: Sample, lengths: Lengths) -> bool:
    """Compare outputs and gradients; False where either's aren't finite, which the extreme rows are for."""
    found = _with_gradients(version, lifted, run, sample, lengths)
    if not all(bool(tensor.isfinite().all()) for tensors in found for tensor in tensors):
        return False
    if not all(bool(_near(wanted, got).all()) for wanted, got in zip(*found, strict=True)):
        raise NotLifted("the formula and the model's operations differ")
    return True


def _with_gradients(
    version: Version, lifted: Lifted, run: Run, sample: Sample, lengths: Lengths
) -> tuple[list[Tensor], list[Tensor]]:
    """Output and gradients of the region and of the formula."""
    tensors = [sample.query, sample.key, sample.value]
    tensors += [tensor for tensor, leaf in zip(sample.leaves, lifted.leaves, strict=True) if leaf.learnt]
    for tensor in tensors:
        tensor.requires_grad_()
    found = []
    for output in (replay(lifted, sample, lengths), run(sample, inputs_of(version, lifted, sample, lengths))):
        gradients = torch.autograd.grad(_some_loss(output), tensors, allow_unused=True, materialize_grads=True)
        found.append([output.detach(), *gradients])
    return found[0], found[1]


def _near(wanted: Tensor, got: Tensor) -> Tensor:
    """Element by element, relative to the largest number."""
    size = wanted.where(wanted.isfinite(), 0).abs().max().clamp_min(1e-3) if wanted.numel() else 1.0
    return (wanted - got).abs() <= _TOLERANCE * size


def _same_rows(lifted: Lifted, wanted: Tensor, got: Tensor) -> None:
    """Compare row by row; see the module's docstring for rows that aren't finite."""
    finite = wanted.isfinite().all(-1)
    size = torch.where(finite[..., None], wanted, 0.0).abs().amax(-1, keepdim=True).clamp_min(1e-3)
    near = ((wanted - got).abs() <= _TOLERANCE * size).all(-1)
    hidden = lifted.hidden != FALSE
    factors = torch.tensor([f for f, _ in zip(itertools.cycle(EXTREME), range(wanted.shape[2]), strict=False)])
    excused = ~finite & ((got == 0).all(-1) if hidden else (factors.abs() >= 60))
    if not bool((near | excused).all()):
        raise NotLifted("the formula and the model's operations differ on extreme rows")
