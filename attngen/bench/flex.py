"""FlexAttention as a peer: softmax of a changed score, and for other positive weights their emulation by logarithms.

Flex normalizes by softmax whatever one asks. But softmax of log f(s) is f(s) / sum f(s), and times exp(lse) it is f(s):
so weights that are positive can be had, for the price of a logarithm. Weights that may be zero or negative can't.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from attngen.bench.peer import Attend, Attention, Task, Unsupported, need
from attngen.verify.reference import default_of

ScoreMod = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]
Finish = Callable[[Tensor, Tensor, Tensor], Tensor]  # (output, log-sum-exp, value) -> output


@dataclass(frozen=True, slots=True)
class Emulation:
    """What Flex is given: a function of the scaled score, and what is done with its output. None: nothing."""

    score_mod: ScoreMod | None = None
    finish: Finish | None = None
    uses_lse: bool = False


def flex(options: dict[str, Any], mode: str | None, task: Task) -> Attention:
    """The peer, with kernel options and a mode of torch.compile."""
    emulation = emulation_of(task)
    if task.device == "cpu":
        need(task.cell.direction == "forward", "no backward on the CPU")
        need(not emulation.uses_lse, "the emulation needs the log-sum-exp, which Flex doesn't return on the CPU")
    torch._dynamo.reset()
    note = "log-domain emulation" if task.formula not in ("softmax", "softcap", "alibi") else ""
    return Attention(_attend(task, emulation, options, mode), note=note)


def _attend(task: Task, emulation: Emulation, options: dict[str, Any], mode: str | None) -> Attend:
    from torch.nn.attention.flex_attention import AuxRequest, create_block_mask, flex_attention

    case = task.cell.case
    compiled: Any = torch.compile(flex_attention, dynamic=False, mode=mode)
    mask = create_block_mask(_causal, None, None, case.n_q, case.n_k, device=task.device) if case.is_causal else None
    keywords: dict[str, Any] = {"score_mod": emulation.score_mod, "block_mask": mask, "enable_gqa": case.group > 1}
    keywords |= {"kernel_options": options} if options else {}

    def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        if not emulation.uses_lse:
            out: Tensor = compiled(query, key, value, **keywords)
            lse = out
        else:
            out, auxiliary = compiled(query, key, value, **keywords, return_aux=AuxRequest(lse=True))
            lse = auxiliary.lse[..., None]
        return out if emulation.finish is None else emulation.finish(out, lse, value)

    return attend


def _causal(batch: Tensor, head: Tensor, row: Tensor, column: Tensor) -> Tensor:
    return row >= column


def emulation_of(task: Task) -> Emulation:
    """How Flex computes the task's formula. Raises Unsupported with the reason where it can't."""
    found = _EMULATIONS.get(task.formula or "")
    if found is None:
        raise Unsupported(_IMPOSSIBLE.get(task.formula or "", "no emulation is known for this formula"))
    return found(task)


def _tensor(task: Task, name: str) -> Tensor:
    given = task.input(name)
    assert isinstance(given, Tensor), "the bench gives inputs without a default as tensors"
    return given


def _softcap(task: Task) -> Emulation:
    return Emulation(lambda s, b, h, i, j: 50 * torch.tanh(s / 50))


def _alibi(task: Task) -> Emulation:
    slope = _tensor(task, "slope").float()
    return Emulation(lambda s, b, h, i, j: s - slope[h] * (i - j).abs())


def _sigmoid(task: Task) -> Emulation:
    (source,) = task.normalizer.inputs
    given = task.input("bias")
    bias = default_of(source, task.drawn.operands) if given is None else float(given)
    return Emulation(lambda s, b, h, i, j: F.logsigmoid(s + bias), lambda o, lse, v: o * lse.exp().to(o.dtype), True)


def _sigmoid_l1(task: Task) -> Emulation:
    return Emulation(lambda s, b, h, i, j: F.logsigmoid(s))


def _softplus_l1(task: Task) -> Emulation:
    # log(softplus(s)) alone has the gradient 0 / 0 where softplus rounds to zero
    return Emulation(lambda s, b, h, i, j: torch.where(s < -15, s, torch.log(F.softplus(torch.clamp(s, min=-15)))))


def _poly2(task: Task) -> Emulation:
    return Emulation(lambda s, b, h, i, j: torch.log(1 + s + s * s / 2))


def _softmax1(task: Task) -> Emulation:
    return Emulation(None, lambda o, lse, v: o * torch.sigmoid(lse).to(o.dtype), True)


def _sink(task: Task) -> Emulation:
    sink = _tensor(task, "sink").float()[None, :, None, None]
    return Emulation(None, lambda o, lse, v: o * torch.sigmoid(lse - sink).to(o.dtype), True)


def _affine_scaled(task: Task) -> Emulation:
    alpha, beta = (_tensor(task, name).float()[..., None] for name in ("alpha", "beta"))
    case = task.cell.case

    def finish(out: Tensor, lse: Tensor, value: Tensor) -> Tensor:
        total = value.float().cumsum(2) if case.is_causal else value.float().sum(2, keepdim=True)
        return (alpha * out + beta * total.repeat_interleave(case.group, 1)).to(out.dtype)

    return Emulation(None, finish)


_EMULATIONS: dict[str, Callable[[Task], Emulation]] = {
    "softmax": lambda task: Emulation(), "softcap": _softcap, "alibi": _alibi, "sigmoid": _sigmoid,
    "sigmoid_l1": _sigmoid_l1, "softplus_l1": _softplus_l1, "poly2": _poly2, "softmax1": _softmax1, "sink": _sink,
    "affine_scaled": _affine_scaled,
}  # fmt: skip
_ZERO = "no emulation: weights may be zero, and their logarithm is not finite"
_NEGATIVE = "no emulation: weights may be negative"
_MAY_BE_ZERO = (
    "cosformer", "lssar", "polynomial", "rebased", "relu_l1", "relu_n", "relu_squared", "softpick", "t_softmax",
)  # fmt: skip
_MAY_BE_NEGATIVE = (
    "affine_total", "affine_visible", "cog", "hstu", "hstu_scaled", "identity", "l2", "power", "retention",
    "row_scaled", "two_temperatures",
)  # fmt: skip
_IMPOSSIBLE = dict.fromkeys(_MAY_BE_ZERO, _ZERO) | dict.fromkeys(_MAY_BE_NEGATIVE, _NEGATIVE)
