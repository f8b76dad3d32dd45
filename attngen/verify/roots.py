"""The zero of a residual in every row at once, in float64, with the gradient of the implicit function.

Bisection between two bounds, so that nothing is asked of the residual but one change of sign. The gradient comes from
one Newton step that changes no value: with t the zero, dt/dx = -(dR/dx) / (dR/dt), and both derivatives are torch's.
"""

from collections.abc import Callable

import torch
from torch import Tensor

Residual = Callable[[Tensor], Tensor]
_HALVINGS = 200  # about 60 reach adjacent numbers, but for a zero close to 0, where numbers are denser


def root(residual: Residual, low: Tensor, high: Tensor) -> Tensor:
    """Where `residual` is zero between `low` and `high`, which broadcast with its value.

    Without a change of sign between the bounds it is the bound at which the residual is nearer to zero, with the
    bound's gradient. Where the residual doesn't change at its zero it has no gradient; NaN where the residual is NaN at
    a bound.
    """
    with torch.no_grad():
        at_low, at_high = residual(low), residual(high)
        shape = torch.broadcast_shapes(at_low.shape, at_high.shape, low.shape, high.shape)  # type: ignore[no-untyped-call]
        crosses = at_low.sign() * at_high.sign() <= 0
        unknown = at_low.isnan() | at_high.isnan()
        found = _bisected(residual, low.expand(shape), high.expand(shape), at_low.sign())
    nearest = torch.where(at_low.abs() <= at_high.abs(), low, high)
    return torch.where(crosses, _implicit(residual, found), nearest).masked_fill(unknown, torch.nan)


def _bisected(residual: Residual, low: Tensor, high: Tensor, sign: Tensor) -> Tensor:
    """`sign` is the residual's at `low`."""
    for _ in range(_HALVINGS):
        middle = low + (high - low) / 2
        if bool(((middle == low) | (middle == high)).all()):
            break
        below = residual(middle).sign() == sign
        low, high = torch.where(below, middle, low), torch.where(below, high, middle)
    return torch.where(residual(low).abs() <= residual(high).abs(), low, high)


def _implicit(residual: Residual, found: Tensor) -> Tensor:
    """`found` with the gradient of the zero."""
    slope = _slope(residual, found)
    at_found = residual(found)
    step = torch.where(slope == 0, 0.0, 1 / slope)
    return found + torch.where(slope == 0, 0.0, (at_found.detach() - at_found) * step)


def _slope(residual: Residual, at: Tensor) -> Tensor:
    """The residual's derivative; every row's residual depends on its own value alone."""
    with torch.enable_grad():
        variable = at.detach().clone().requires_grad_()
        value = residual(variable)
        if not value.requires_grad:
            return torch.zeros_like(at)
        (slope,) = torch.autograd.grad(value.sum(), variable, allow_unused=True)
    return torch.zeros_like(at) if slope is None else slope
