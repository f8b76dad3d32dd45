"""The meaning of a spec: all weights written out, evaluated with torch in the dtype that the caller names.

In float64 this is the oracle of verification, and autograd over it is the oracle of the gradients. The same function
in float32, bfloat16 or float16 is "plain low-precision torch", whose error sets what an op may err. Nothing is
rewritten for stability and nothing is shared with the compiler: no analysis, no schedule, no printers. Conventions at
kinks and ties are those of torch's own operations.
"""

import functools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from torch import Tensor

from attngen import ir
from attngen.verify.approximate import operations
from attngen.verify.roots import root

Alignment = Literal["upper_left", "lower_right"]
Window = int | tuple[int, int] | None


@dataclass(frozen=True, slots=True)
class Call:
    """The arguments of one call that are not tensors, with the op's own names and defaults."""

    is_causal: bool = False
    scale: float | None = None
    window: Window = None
    alignment: Alignment = "upper_left"


@dataclass(frozen=True, slots=True)
class Operands:
    """query (B, Hq, Nq, D), key (B, Hkv, Nk, D), value (B, Hkv, Nk, Dv), and the inputs that were given, by name."""

    query: Tensor
    key: Tensor
    value: Tensor
    inputs: Mapping[str, Tensor | float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Manner:
    """What an evaluation does beside evaluating.

    With `hold_statistics`, the reductions count as constants in the gradient: what is left is the direct part of it.
    With `errors`, a seed, every operation errs as one in float32 may: see Note [Errors of operations].
    With `approximate`, a pattern of signs, logistic functions and tanh err as `attngen.verify.approximate` says.
    """

    hold_statistics: bool = False
    errors: int | None = None
    approximate: int | None = None


PLAINLY = Manner()


def attention(
    normalizer: ir.Normalizer, operands: Operands, call: Call, dtype: torch.dtype, manner: Manner = PLAINLY
) -> Tensor:
    """The output of sum_j w_ij v_j, shape (B, Hq, Nq, Dv), in `dtype`, differentiable in every operand.

    Rows that see no key give zeros. The result is not finite where the formula is not, on keys that the row sees.
    """
    weight = weights(normalizer, operands, call, dtype, manner)
    weighted = weight @ _per_query_head(operands.value.to(dtype), operands)
    return output(normalizer, replace(operands, value=weighted), call, manner)


def weights(
    normalizer: ir.Normalizer, operands: Operands, call: Call, dtype: torch.dtype, manner: Manner = PLAINLY
) -> Tensor:
    """The weights w, shape (B, Hq, Nq, Nk), zero where the row doesn't see the key."""
    n_q, n_k = operands.query.shape[2], operands.key.shape[2]
    seen = visible(call, n_q, n_k).to(operands.query.device)
    rows = seen.any(-1).nonzero()[:, 0]
    view = _View(operands, call, dtype, rows, seen[rows])
    evaluation = _Evaluation(view.names(normalizer), view.seen, dtype, manner)
    evaluation.values[ir.Name("s")] = evaluation.value(normalizer.score)
    weight = evaluation.on_seen(evaluation.value(normalizer.weights), 0.0)
    full = weight.new_zeros(*operands.query.shape[:3], n_k)
    return full.index_copy(2, rows, weight.expand(*full.shape[:2], *view.seen.shape))


def output(normalizer: ir.Normalizer, operands: Operands, call: Call, manner: Manner = PLAINLY) -> Tensor:
    """The output formula of weighted sums, which are the `value` of `operands`, shape (B, Hq, Nq, Dv), in their dtype.

    Rows that see no key stay zero: the formula, which may be infinite at zero, isn't evaluated for them.
    """
    weighted = operands.value
    if normalizer.output == ir.Name("o"):
        return weighted
    seen = visible(call, operands.query.shape[2], operands.key.shape[2]).to(weighted.device)
    rows = seen.any(-1).nonzero()[:, 0]
    view = _View(operands, call, weighted.dtype, rows, seen[rows])
    names = view.row_names(normalizer) | {ir.Name("o"): weighted.index_select(2, rows)}
    result = _Evaluation(names, view.seen, weighted.dtype, manner).value(normalizer.output)
    return torch.zeros_like(weighted).index_copy(2, rows, result.to(weighted.dtype).expand_as(names[ir.Name("o")]))


def positions(call: Call, n_q: int, n_k: int) -> Tensor:
    """The position of every query row, int64 (Nq,)."""
    return torch.arange(n_q) + (n_k - n_q if call.alignment == "lower_right" else 0)


def visible(call: Call, n_q: int, n_k: int) -> Tensor:
    """Which key each row sees, bool (Nq, Nk): position p sees keys p - left .. p + right."""
    left, right = _window(call)
    distance = torch.arange(n_k)[None, :] - positions(call, n_q, n_k)[:, None]
    seen = torch.ones(n_q, n_k, dtype=torch.bool)
    if left >= 0:
        seen &= distance >= -left
    if right >= 0:
        seen &= distance <= right
    return seen


def _window(call: Call) -> tuple[int, int]:
    window = (-1, -1) if call.window is None else call.window
    left, right = (window, window) if isinstance(window, int) else window
    return (left, 0 if right < 0 else min(right, 0)) if call.is_causal else (left, right)


def default_of(source: ir.Input, operands: Operands) -> float:
    """The value of an input that was not given: its default, a formula of the sizes."""
    if source.default is None:
        raise ValueError(f"input '{source.name}' has no default and was not given")
    sizes: dict[ir.Expr, Tensor] = {
        ir.Name(n): torch.tensor(x, dtype=torch.float64) for n, x in _sizes(operands).items()
    }
    one_pair = torch.ones(1, 1, dtype=torch.bool)
    return float(_Evaluation(sizes, one_pair, torch.float64, PLAINLY).value(source.default))


def _sizes(operands: Operands) -> dict[str, float]:
    n_q, d = operands.query.shape[2:]
    return {"d": float(d), "n_q": float(n_q), "n_k": float(operands.key.shape[2]), "pi": float(torch.pi)}


def _per_query_head(tensor: Tensor, operands: Operands) -> Tensor:
    """(B, Hkv, ...) -> (B, Hq, ...): query head h reads key head h // group."""
    return tensor.repeat_interleave(operands.query.shape[1] // operands.key.shape[1], dim=1)


# Note [Hidden pairs]
# A formula may be infinite at a key that the row doesn't see, and 0 * inf in the backward of `where` would carry a NaN
# to the keys that it does see. So nothing is ever evaluated at a hidden pair: it is evaluated once more at the first
# key that the row sees, and the copy is left out of weights and reductions. Rows that see no key are left out at all.


class _View:
    """What the names of a formula stand for, on the rows that see a key; shapes broadcast to (B, Hq, rows, Nk)."""

    def __init__(self, operands: Operands, call: Call, dtype: torch.dtype, rows: Tensor, seen: Tensor) -> None:
        self.operands, self.call, self.dtype, self.rows, self.seen = operands, call, dtype, rows, seen
        first = seen.int().argmax(-1, keepdim=True)
        self.columns = torch.where(seen, torch.arange(seen.shape[1], device=seen.device), first)

    def names(self, normalizer: ir.Normalizer) -> dict[ir.Expr, Tensor]:
        values = {**self._constants(), **self._indices(), "qk": self._products()}
        values |= {source.name: self._input(source) for source in normalizer.inputs}
        return {ir.Name(name): value for name, value in values.items()}

    def row_names(self, normalizer: ir.Normalizer) -> dict[ir.Expr, Tensor]:
        """What an output formula may use beside `o`."""
        values = {**self._constants(), **self._indices()}
        values |= {source.name: self._input(source) for source in normalizer.inputs if "key" not in source.axes}
        return {ir.Name(name): value for name, value in values.items() if name != "j"}

    def _constants(self) -> dict[str, Tensor]:
        sizes = _sizes(self.operands)
        scale = sizes["d"] ** -0.5 if self.call.scale is None else self.call.scale
        device = self.seen.device
        # Numbers are float64 scalars: torch computes with them at full precision and keeps the other operand's dtype.
        return {n: torch.tensor(v, dtype=torch.float64, device=device) for n, v in {**sizes, "scale": scale}.items()}

    def _indices(self) -> dict[str, Tensor]:
        n_q, n_k = self.operands.query.shape[2], self.operands.key.shape[2]
        position = positions(self.call, n_q, n_k).to(self.seen.device)[self.rows]
        count = self.seen.sum(-1)
        return {
            "i": position[None, None, :, None].to(self.dtype),
            "j": self.columns[None, None].to(self.dtype),
            "n": count[None, None, :, None].to(self.dtype),
        }

    def _products(self) -> Tensor:
        query = self.operands.query.to(self.dtype).index_select(2, self.rows)
        return self._at_seen(query @ _per_query_head(self.operands.key.to(self.dtype), self.operands).mT)

    def _at_seen(self, pairs: Tensor) -> Tensor:
        columns = self.columns.expand(*pairs.shape[:2], *self.columns.shape)
        return pairs.expand(columns.shape[:3] + pairs.shape[3:]).gather(3, columns)

    def _input(self, source: ir.Input) -> Tensor:
        given = self.operands.inputs.get(source.name)
        given = default_of(source, self.operands) if given is None else given
        value = torch.as_tensor(given, dtype=self.dtype, device=self.seen.device)
        value = self._four_axes(source, value)
        if value.shape[2] > 1:
            value = value.index_select(2, self.rows)
        return self._at_seen(value) if value.shape[3] > 1 else value

    def _four_axes(self, source: ir.Input, value: Tensor) -> Tensor:
        """(batch, head, query, key), each of its full size or 1."""
        value = value.reshape((1,) * (len(source.axes) - value.dim()) + tuple(value.shape))
        sizes = dict(zip(source.axes, value.shape, strict=True))
        value = value.reshape([sizes.get(axis, 1) for axis in ("batch", *_head_axis(source), "query", "key")])
        return _per_query_head(value, self.operands) if sizes.get("kv_head", 1) > 1 else value


def _head_axis(source: ir.Input) -> tuple[ir.Axis]:
    if "head" in source.axes and "kv_head" in source.axes:
        raise ValueError(f"input '{source.name}' has both a head and a kv_head axis")
    return ("kv_head",) if "kv_head" in source.axes else ("head",)


_OPERATIONS: dict[str, Callable[..., Tensor]] = {
    "sub": torch.sub, "div": torch.div, "pow": torch.pow, "neg": torch.neg,
    "exp": torch.exp, "expm1": torch.expm1, "log": torch.log, "log1p": torch.log1p, "sqrt": torch.sqrt,
    "rsqrt": torch.rsqrt, "abs": torch.abs, "sign": torch.sign, "tanh": torch.tanh, "sigmoid": torch.sigmoid,
    "softplus": lambda x: torch.logaddexp(x, torch.zeros_like(x)), "relu": torch.relu,
    "silu": torch.nn.functional.silu, "erf": torch.erf, "atan": torch.atan, "sin": torch.sin, "cos": torch.cos,
    "min": torch.minimum, "max": torch.maximum, "clip": torch.clamp, "where": torch.where, "detach": torch.detach,
    "lt": torch.lt, "le": torch.le, "gt": torch.gt, "ge": torch.ge, "eq": torch.eq, "ne": torch.ne,
    "not": torch.logical_not,
}  # fmt: skip
_VARIADIC: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "add": torch.add, "mul": torch.mul, "and": torch.logical_and, "or": torch.logical_or,
}  # fmt: skip


# Note [Errors of operations]
# Where terms cancel exactly, as in a * softmax(s) + (1 - a) * softmax(t * s) for t = 1, the gradient by a is zero in
# float64, and plain torch may be exact by luck. An op computes the terms in its own way. So every operation may err
# by a unit in the last place of float32, and a statistic, which ops save as the logarithm of a sum of exponentials,
# by 1 + S of them, S being the row's largest score.


class _Evaluation:
    """Evaluates formulas over the pairs of a view, each distinct subformula once."""

    def __init__(self, values: dict[ir.Expr, Tensor], seen: Tensor, dtype: torch.dtype, manner: Manner) -> None:
        self.values, self.seen, self.dtype, self.manner = values, seen, dtype, manner
        self.exact: _Evaluation | None = None
        self.random = None if manner.errors is None else torch.Generator().manual_seed(manner.errors)
        approximate = {} if manner.approximate is None else operations(manner.approximate)
        self.operations = {**_OPERATIONS, **approximate}

    def value(self, expr: ir.Expr) -> Tensor:
        if expr not in self.values:
            value = self._settled(self._computed(expr))
            self.values[expr] = value if self.random is None else self._erring(expr, value, self.random)
        return self.values[expr]

    def _erring(self, expr: ir.Expr, value: Tensor, random: torch.Generator) -> Tensor:
        """See Note [Errors of operations]."""
        if value.dim() == 0 or not value.is_floating_point():
            return value
        size: Tensor | float = torch.finfo(torch.float32).eps
        score = self.values.get(ir.Name("s"))
        if isinstance(expr, ir.Reduce | ir.Root) and score is not None:
            size = size * (1 + self.on_seen(score, 0.0).detach().abs().amax(-1, keepdim=True))
        sign = torch.randint(2, value.shape, generator=random, dtype=torch.float64) * 2 - 1
        return value * (1 + size * sign.to(value.device))

    def on_seen(self, pairs: Tensor, elsewhere: float) -> Tensor:
        return torch.where(self.seen, pairs.to(self.dtype), elsewhere)

    def _computed(self, expr: ir.Expr) -> Tensor:
        match expr:
            case ir.Number(value):
                return torch.tensor(float(value), dtype=torch.float64, device=self.seen.device)
            case ir.Name(id):
                raise ValueError(f"'{id}' is neither a built-in name nor an input of the spec")
            case ir.Apply(op, args) if op in _VARIADIC:
                return functools.reduce(_VARIADIC[op], map(self.value, args))
            case ir.Apply(op, args):
                return self.operations[op](*map(self.value, args))
            case ir.Reduce() | ir.Root():
                statistic = self._reduced(expr) if isinstance(expr, ir.Reduce) else self._root(expr)
                return statistic.detach() if self.manner.hold_statistics else statistic

    def _reduced(self, expr: ir.Reduce) -> Tensor:
        count = self.seen.sum(-1, keepdim=True).to(self.dtype)
        if expr.body is None:
            return count
        body = self.value(expr.body)
        match expr.kind:
            case "amax":
                return self.on_seen(body, -torch.inf).amax(-1, keepdim=True)
            case "amin":
                return self.on_seen(body, torch.inf).amin(-1, keepdim=True)
            case "csum":
                return body.expand(self.values[ir.Name("o")].shape).to(self.dtype).sum(-1, keepdim=True)
            case "mean":
                return self.on_seen(body, 0.0).sum(-1, keepdim=True) / count
            case _:
                return self.on_seen(body, 0.0).sum(-1, keepdim=True)

    def _root(self, expr: ir.Root) -> Tensor:
        exact = self._in_float64()
        for fixed in _without(expr.variable, expr.residual):
            exact.value(fixed)  # once for all values of the variable, and where autograd sees it

        def residual(at: Tensor) -> Tensor:
            values = {**exact.values, ir.Name(expr.variable): at}
            return _Evaluation(values, exact.seen, exact.dtype, replace(exact.manner, errors=None)).value(expr.residual)

        return root(residual, exact.value(expr.low), exact.value(expr.high))

    def _in_float64(self) -> "_Evaluation":
        """Plain torch, too, solves for a root in float64, from scores in the case's dtype, and rounds what it finds."""
        if self.dtype == torch.float64:
            return self
        if self.exact is None:
            named: dict[ir.Expr, Tensor] = {
                name: value.double() for name, value in self.values.items() if isinstance(name, ir.Name)
            }
            self.exact = _Evaluation(named, self.seen, torch.float64, self.manner)
        return self.exact

    def _settled(self, value: Tensor) -> Tensor:
        """`where` of two float64 numbers has the shape of its condition and would widen what it meets."""
        return value.to(self.dtype) if value.is_floating_point() and value.dim() > 0 else value


def _without(variable: str, expr: ir.Expr) -> Iterator[ir.Expr]:
    """The largest parts of a formula that don't use a name."""
    if variable not in ir.names(expr):
        yield expr
        return
    for child in ir.children(expr):
        yield from _without(variable, child)
