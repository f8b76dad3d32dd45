"""Attention written out in plain torch, for any spec: the two products, and between them the formula as it stands.

It is what a careful user would write: products in the tensors' type, the formula in float32, every weight in memory. A
baseline to be timed, eager or compiled; not the oracle, which is `attngen.verify.reference`. No maximum is subtracted.
"""

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from attngen import ir
from attngen.bench.peer import Attend, Task, Unsupported, need
from attngen.verify.reference import default_of

_VARIADIC: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "add": torch.add, "mul": torch.mul, "and": torch.logical_and, "or": torch.logical_or,
}  # fmt: skip
_RENAMED: dict[str, Callable[..., Tensor]] = {
    "softplus": F.softplus, "silu": F.silu, "relu": F.relu, "min": torch.minimum, "max": torch.maximum,
    "clip": torch.clamp, "not": torch.logical_not,
}  # fmt: skip


def written_out(task: Task) -> Attend:
    """The attention of the task's spec as a function of query, key and value, with its inputs bound."""
    normalizer, is_causal = task.normalizer, task.cell.case.is_causal
    formulas = (normalizer.score, normalizer.weights, normalizer.output)
    need(not any(isinstance(node, ir.Root) for formula in formulas for node in ir.walk(formula)), _NO_ROOTS)
    inputs = {source.name: _pairs(task, source) for source in normalizer.inputs}

    def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        group = query.shape[1] // key.shape[1]
        if group > 1:
            key, value = key.repeat_interleave(group, 1), value.repeat_interleave(group, 1)
        qk = (query @ key.mT).float()
        places = _places(qk)
        seen = places["j"] <= places["i"] if is_causal else None
        count = places["i"].float() + 1 if is_causal else torch.tensor(float(qk.shape[-1]))
        sizes = {"scale": query.shape[-1] ** -0.5, "d": float(query.shape[-1]), "n_q": float(qk.shape[-2]),
                 "n_k": float(qk.shape[-1]), "pi": torch.pi}  # fmt: skip
        formula = _Formula({**inputs, **places, **sizes, "qk": qk, "n": count}, seen)
        out = formula.weights(normalizer).to(value.dtype) @ value
        return formula.output(normalizer, out)

    return attend


_NO_ROOTS = "the formula solves for a root, which takes more than writing it out"


def _places(qk: Tensor) -> dict[str, Tensor]:
    rows, columns = (torch.arange(n, device=qk.device) for n in qk.shape[-2:])
    return {"i": rows[:, None], "j": columns[None, :]}


def _pairs(task: Task, source: ir.Input) -> Tensor | float:
    """An input as a number, or as a float32 tensor that broadcasts to (batch, head, query, key)."""
    given = task.input(source.name)
    if given is None:
        return default_of(source, task.drawn.operands)
    if not isinstance(given, Tensor):
        return given
    sizes = dict(zip(source.axes, given.shape, strict=True))
    if "kv_head" in sizes:
        given = given.repeat_interleave(task.cell.case.group, source.axes.index("kv_head"))
        sizes["head"] = given.shape[source.axes.index("kv_head")]
    return given.float().reshape([sizes.get(axis, 1) for axis in ("batch", "head", "query", "key")])


@dataclass
class _Formula:
    """Evaluates formulas over all pairs at once; `seen` is None where every row sees every key."""

    names: Mapping[str, Tensor | float]
    seen: Tensor | None

    def weights(self, normalizer: ir.Normalizer) -> Tensor:
        self.names = {**self.names, "s": self.value(normalizer.score)}
        return self.shown(self.value(normalizer.weights), 0.0)

    def output(self, normalizer: ir.Normalizer, out: Tensor) -> Tensor:
        """What becomes of the weighted sums, whose channels are formulas of their own."""
        if normalizer.output == ir.Name("o"):
            return out
        self.names = {**self.names, "o": out.float()}
        return torch.as_tensor(self.value(normalizer.output)).to(out.dtype)

    def shown(self, pairs: Tensor | float, hidden: float) -> Tensor:
        pairs = torch.as_tensor(pairs)
        return pairs if self.seen is None else torch.where(self.seen, pairs, hidden)

    def value(self, expr: ir.Expr) -> Tensor | float:
        match expr:
            case ir.Number(value):
                return float(value)
            case ir.Name(id):
                return self.names[id]
            case ir.Apply(op, args):
                return self._applied(op, [self.value(arg) for arg in args])
            case ir.Root():
                raise Unsupported(_NO_ROOTS)
            case ir.Reduce("csum", body) if body is not None:
                return torch.as_tensor(self.value(body)).sum(-1, keepdim=True)
            case ir.Reduce(kind, body):
                return self.names["n"] if body is None else self._reduced(kind, self.value(body))

    def _applied(self, op: str, args: list[Tensor | float]) -> Tensor | float:
        if op in ("add", "sub", "mul", "div", "pow", "neg"):
            return functools.reduce(_ARITHMETIC[op], args) if len(args) > 1 else -args[0]
        tensors = [torch.as_tensor(arg) for arg in args]
        if op in _VARIADIC:
            return functools.reduce(_VARIADIC[op], tensors)
        return (_RENAMED.get(op) or getattr(torch, op))(*tensors)

    def _reduced(self, kind: str, body: Tensor | float) -> Tensor:
        if kind == "amax":
            return self.shown(body, -torch.inf).amax(-1, keepdim=True)
        if kind == "amin":
            return self.shown(body, torch.inf).amin(-1, keepdim=True)
        total = self.shown(body, 0.0).sum(-1, keepdim=True)
        return total / self.names["n"] if kind == "mean" else total


_ARITHMETIC: dict[str, Callable[..., Tensor | float]] = {
    "add": lambda a, b: a + b, "sub": lambda a, b: a - b, "mul": lambda a, b: a * b, "div": lambda a, b: a / b,
    "pow": lambda a, b: a**b,
}  # fmt: skip
