"""From a peer and a task to something that can be timed: a function without arguments, run once to warm up and to see
how far its results are from the formula's float64 meaning.

Every contender gets the same random normal tensors, in the layout that it likes best. Inputs of the spec count as
constants, since most peers have no gradient for them. The backward is timed alone, over a graph that is kept.
"""

import gc
import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from attngen.bench.grid import Cell, Direction
from attngen.bench.peer import Attention, Layout, Peer, Task, Unsupported, setting
from attngen.bench.record import Result
from attngen.bench.subject import Benched
from attngen.verify.blockwise import one_head
from attngen.verify.case import Form
from attngen.verify.draw import draw
from attngen.verify.tolerance import Results

_NAMES: dict[Direction, tuple[str, ...]] = {
    "forward": ("out",),
    "backward": ("grad query", "grad key", "grad value"),
    "both": ("out", "grad query", "grad key", "grad value"),
}


@dataclass(frozen=True, slots=True)
class Ready:
    """A contender that ran once and may be timed."""

    run: Callable[[], tuple[Tensor, ...]]
    result: Result  # all but the times


def task_of(cell: Cell, benched: Benched, device: str) -> Task:
    """Draw the cell's tensors, where they are wanted: a GPU should not wait for a CPU. Inputs with a default are left
    out.
    """
    omitted: Form = "omitted"
    normalizer = benched.normalizer
    forms = tuple((source.name, omitted) for source in normalizer.inputs if source.default is not None)
    drawn = draw(replace(cell.case, forms=forms), normalizer, device, drawn_on=device)
    return Task(cell, benched.spec, normalizer, benched.op, drawn, device)


def expected(task: Task) -> Results:
    """The float64 results of the first batch and the first head of keys, which stand for all."""
    return one_head(task.normalizer, task.drawn, task.cell.case.is_causal)


def enter(peer: Peer, task: Task, exact: Results | None) -> Ready | Result:
    """Prepare a contender, run it once and compare; or the result that says why it doesn't take part."""
    try:
        attention = peer.prepare(task)
        run = timed_part(attention, task)
        gc.collect()  # what the last contender left is not this one's memory
        before = _allocated(task.device)
        found = dict(zip(_NAMES[task.cell.direction], run(), strict=True))
        peak = _peak(task.device, before)
        errors = None if exact is None or attention.is_yardstick else _errors(found, exact, attention.layout, task)
        result = Result(task.cell, peer.name, "measured", note=attention.note, precision=attention.precision)
        return Ready(run, replace(result, peak_bytes=peak, errors=errors))
    except Exception as error:
        return failure(peer.name, task.cell, error)


def failure(contender: str, cell: Cell, error: Exception) -> Result:
    """The result of a contender that raised, told in a line."""
    if isinstance(error, Unsupported):
        return Result(cell, contender, "unsupported", str(error))
    if isinstance(error, ImportError):
        return Result(cell, contender, "not installed", str(error))
    if isinstance(error, torch.OutOfMemoryError):
        return Result(cell, contender, "failed", "out of memory")
    return Result(cell, contender, "failed", _line(f"{type(error).__name__}: {error}"))


def _line(text: str, width: int = 240) -> str:
    line = " ".join(text.split())
    return line if len(line) <= width else line[: width - 4] + " ..."


def timed_part(attention: Attention, task: Task) -> Callable[[], tuple[Tensor, ...]]:
    """What the clock sees: the output, the gradients, or both, in the environment that the contender asks for."""
    with setting(attention.environment):
        run = _part(attention, task)

    def in_environment() -> tuple[Tensor, ...]:
        with setting(attention.environment):
            return run()

    return in_environment if attention.environment else run


def _part(attention: Attention, task: Task) -> Callable[[], tuple[Tensor, ...]]:
    operands, direction = task.drawn.operands, task.cell.direction
    query, key, value, d_out = (
        _laid(x, attention.layout) for x in (operands.query, operands.key, operands.value, task.drawn.grad_out)
    )
    if direction == "forward":
        return lambda: _forward(attention, query, key, value)
    leaves = [x.detach().requires_grad_() for x in (query, key, value)]
    if direction == "both":
        return lambda: _both(attention, leaves, d_out)
    out = attention.attend(*leaves)
    return lambda: torch.autograd.grad(out, leaves, d_out, retain_graph=True)


@torch.no_grad()
def _forward(attention: Attention, query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, ...]:
    return (attention.attend(query, key, value),)


def _both(attention: Attention, leaves: list[Tensor], d_out: Tensor) -> tuple[Tensor, ...]:
    out = attention.attend(*leaves)
    return (out.detach(), *torch.autograd.grad(out, leaves, d_out))


def _laid(tensor: Tensor, layout: Layout) -> Tensor:
    return tensor if layout == "bhnd" else tensor.transpose(1, 2).contiguous()


def _one_head(tensor: Tensor, name: str, layout: Layout, task: Task) -> Tensor:
    plain = tensor if layout == "bhnd" else tensor.transpose(1, 2)
    return plain[:1, : 1 if name in ("grad key", "grad value") else task.cell.case.group]


def _errors(found: Results, exact: Results, layout: Layout, task: Task) -> dict[str, float | None]:
    return {name: _error(_one_head(x, name, layout, task), exact[name]) for name, x in found.items()}


def _error(found: Tensor, exact: Tensor) -> float | None:
    error = float((found.double() - exact).abs().max() / exact.abs().max())
    return error if math.isfinite(error) else None


def _allocated(device: str) -> int:
    if device != "cuda":
        return 0
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    return torch.cuda.memory_allocated()


def _peak(device: str, before: int) -> int | None:
    return torch.cuda.max_memory_allocated() - before if device == "cuda" else None
