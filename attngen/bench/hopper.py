"""The op's kernels for Hopper as a peer of the plain ones: the same spec, built for the other target.

It takes part where they serve the call, so that no figure of it is one of the plain kernels.
"""

import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

import torch

from attngen import api, catalog
from attngen.bench.peer import Attention, Task, need

HOPPER = "attngen, for Hopper"


def for_hopper(task: Task) -> Attention:
    """The op as `ATTNGEN_TARGET=hopper` gives it."""
    need(torch.cuda.get_device_capability() == (9, 0), "needs a Hopper GPU")
    op: Callable[..., Any] = api.load_text(catalog.read(task.spec), {}, "hopper")
    _serves(sys.modules[op.__module__], task)
    inputs, is_causal = task.drawn.operands.inputs, task.cell.case.is_causal
    return Attention(lambda q, k, v: op(q, k, v, **inputs, is_causal=is_causal))


def _serves(module: ModuleType, task: Task) -> None:
    need(hasattr(module, "launch_forward_hopper"), "the kernels for Hopper can't say this formula")
    need(task.cell.case.d in module.HOPPER_TILES, "they have no tile for this head dim")
    need(task.dtype in module.HOPPER_TYPES, "they don't serve this type")
    if task.cell.direction == "backward":
        tiles = getattr(module, "HOPPER_BACKWARD_TILES", {})
        need(task.cell.case.d in tiles, "the backward's kernels are the plain ones")
