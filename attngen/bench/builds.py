"""The op's other builds as peers of the one that `attngen.load` gives: for Hopper, and in the fast form.

Each takes part where what it is named for serves the call, so that no figure of it is one of another build. Every
record of the op says whether logistic functions and tanh were exact or fast.
"""

import sys
from collections.abc import Callable
from functools import partial
from types import ModuleType
from typing import Any

import torch

from attngen import api, catalog
from attngen.bench.peer import Attention, Peer, Task, need
from attngen.build import Build, Precision
from attngen.verify.subject import subject_of

_BUILDS = {
    "attngen, fast": Build(precision="fast"),
    "attngen, for Hopper": Build("hopper"),
    "attngen, for Hopper, fast": Build("hopper", "fast"),
}


def builds() -> tuple[Peer, ...]:
    """The peers, for GPUs."""
    return tuple(Peer(name, partial(built_for, build)) for name, build in _BUILDS.items())


def built_for(build: Build, task: Task) -> Attention:
    """The op as `attngen.load` gives it where the environment asks for the build."""
    need(build.target == "any" or torch.cuda.get_device_capability() == (9, 0), "needs a Hopper GPU")
    op: Callable[..., Any] = api.load_text(catalog.read(task.spec), {}, build)
    if build.target == "hopper":
        _serves(sys.modules[op.__module__], task)
    precision = precision_of_call(op, task)
    need(precision == build.precision, "there is no fast form of this formula or type")
    inputs, is_causal = task.drawn.operands.inputs, task.cell.case.is_causal
    return Attention(lambda q, k, v: op(q, k, v, **inputs, is_causal=is_causal), precision=precision)


def precision_of_call(op: Callable[..., Any], task: Task) -> Precision:
    """What the op takes for the task's tensors."""
    return subject_of(op, task.normalizer, task.device).precision(task.drawn)


def _serves(module: ModuleType, task: Task) -> None:
    need(hasattr(module, "launch_forward_hopper"), "the kernels for Hopper can't say this formula")
    kernel = "backward_hopper" if task.cell.direction == "backward" else "forward_hopper"
    query, key, value = task.drawn.operands.query, task.drawn.operands.key, task.drawn.operands.value
    has_tile = module._widths(query, value) in module.HOPPER_TILES.get(kernel, {})
    need(has_tile, f"there is no {kernel} for these head dims")
    need(task.dtype in module.HOPPER_TYPES, "they don't serve this type")
    call = module._call(query, key, task.cell.case.is_causal, None, None, "upper_left")
    chosen = module._hopper_tile(kernel, query, key, value, call)
    need(chosen is not None, "the plain kernels serve the call: `attngen tune` found them to be faster")
