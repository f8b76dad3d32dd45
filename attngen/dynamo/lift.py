"""From the ATen operations between two contractions to a formula for the weights, by abstract interpretation.

Every tensor is a formula together with the axes of its dimensions: pointwise operations are applied, reductions over
the keys become reductions, views and broadcasts change the axes alone. Minus infinity is written as a number too large
to matter, and the conditions under which it stands are remembered: keys hidden in this way have no weight. What has no
rule raises NotLifted. Whether the formula is right is checked elsewhere.
"""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import fx

from attngen.dynamo.formulas import FINITE, LARGE, LARGEST, LOST, QK, constant, op
from attngen.dynamo.layout import Atom, Dim, Dims, Layout
from attngen.dynamo.nodes import NotLifted
from attngen.dynamo.reductions import REDUCTIONS
from attngen.dynamo.rules import COMPARISONS, LOGICAL, POINTWISE
from attngen.ir import Apply, Expr, Name, Number, names, number

OUT = Name("out")  # the second contraction's result, in formulas of what comes behind it
# Note [Filled rows]
# Models hide keys by finite numbers such as -1e9. A row that is hidden as a whole then gets equal weights, which
# float32 loses where the row's statistics are as large: -1e9 + log(n) is -1e9. So the number is a name at first. One
# version of the formula has a number in its place that depends on the row: 0 where the row sees nothing else. It is
# right if the weights don't change with a shift; the check decides, and another version has the model's number.
FILL = Name("fill")
_VIEWS = {"view", "_unsafe_view", "reshape"}
_FILLED = {
    "full": None,
    "scalar_tensor": None,
    "full_like": None,
    "zeros_like": 0,
    "ones_like": 1,
    "zeros": 0,
    "ones": 1,
}


@dataclass(frozen=True, slots=True)
class Value:
    """A tensor as a formula and the axes of its dimensions; the formula of a boolean one is a condition."""

    expr: Expr
    dims: Dims
    boolean: bool = False

    def as_number(self) -> Expr:
        return op("where", self.expr, number(1), number(0)) if self.boolean else self.expr

    def as_condition(self) -> Expr:
        return self.expr if self.boolean else op("ne", self.expr, number(0))


@dataclass(frozen=True, slots=True)
class Leaf:
    """A tensor from outside: its name in formulas, whether it wants a gradient, its value if the graph fixes it."""

    name: str
    boolean: bool = False
    learnt: bool = False
    fixed: torch.Tensor | None = None

    @property
    def may_hide(self) -> bool:
        """Whether it may be a mask that is added, with -infinity in it."""
        return not self.boolean and not self.learnt and (self.fixed is None or bool((self.fixed < float(LOST)).any()))


@dataclass(slots=True)
class Lifting:
    """The graph's values so far. `ends` are the two axes of the scores that one operand has alone."""

    layout: Layout
    ends: tuple[Dim, Dim]
    values: dict[fx.Node, Any] = field(default_factory=dict)
    key: Dim | None = None
    hidden: list[Expr] = field(default_factory=list)
    filled: list[Expr] = field(default_factory=list)
    fill: Number | None = None
    hiding: dict[str, Leaf] = field(default_factory=dict)

    def place(self, node: fx.Node, expr: Expr, dims: Dims) -> None:
        self.values[node] = Value(expr, dims)

    def place_leaf(self, node: fx.Node, leaf: Leaf) -> None:
        """The leaf as a formula: a name, or its number where it is but one."""
        sizes = node.meta["val"].shape
        dims = self.layout.fresh(sizes)
        if leaf.fixed is not None and leaf.fixed.numel() == 1:
            fixed = leaf.fixed.item()
            expr: Expr = op("ne", number(int(fixed)), number(0)) if leaf.boolean else constant(fixed)
        else:
            expr = op("gt", Name(leaf.name), constant(0.5)) if leaf.boolean else Name(leaf.name)
        self.values[node] = Value(expr, dims, leaf.boolean)
        if leaf.may_hide:
            self.hiding[leaf.name] = leaf

    def run(self, graph: fx.Graph) -> tuple[Value, Value]:
        """The two results, weights and output."""
        for node in graph.nodes:
            if node.op == "call_function":
                self.values[node] = self.call(node)
        output = next(node for node in graph.nodes if node.op == "output")
        first, second = output.args[0]
        return self.values[first], self.values[second]

    def call(self, node: fx.Node) -> Any:
        name = _name(node)
        args = [self.argument(arg) for arg in node.args]
        kwargs = {key: self.argument(arg) for key, arg in node.kwargs.items()}
        if name == "getitem":
            return args[0] if node.args[1] == 0 else None
        if any(arg is None and isinstance(given, fx.Node) for arg, given in zip(args, node.args, strict=True)):
            raise NotLifted(f"{name} of a result that isn't lifted")
        if name in REDUCTIONS:
            return self.reduce(name, args, kwargs)
        if name in _FILLED:
            return self.constant_tensor(node, name, args)
        if name in LOGICAL:
            operands = [arg for arg in args if isinstance(arg, Value)]
            expr = LOGICAL[name](*(operand.as_condition() for operand in operands))
            return Value(expr, self.layout.broadcast([operand.dims for operand in operands]), boolean=True)
        if name in POINTWISE:
            return self.pointwise(name, node, args, kwargs)
        return self.viewed(name, node, args)

    def argument(self, arg: Any) -> Any:
        if isinstance(arg, fx.Node):
            return self.values[arg]
        if isinstance(arg, int | float) and not isinstance(arg, bool):
            return Value(constant(arg), ())
        return arg

    def pointwise(self, name: str, node: fx.Node, args: list[Any], kwargs: dict[str, Any]) -> Value:
        operands = [arg for arg in (*args, *kwargs.values()) if isinstance(arg, Value)]
        dims = self.layout.broadcast([operand.dims for operand in operands])
        to_bool = name == "_to_copy" and _dtype(node) == torch.bool
        if to_bool or (name in ("clone", "alias", "detach") and args[0].boolean):
            return Value(args[0].as_condition(), dims, boolean=True)
        if name == "_to_copy" and not _dtype(node).is_floating_point and not args[0].boolean:
            raise NotLifted("a conversion to whole numbers")
        exprs = [_plain(arg) for arg in args]
        if name in ("where", "masked_fill"):
            place = 0 if name == "where" else 1
            exprs[place] = args[place].as_condition()
        expr = POINTWISE[name](*exprs, **{key: _plain(arg) for key, arg in kwargs.items()})
        if name in ("where", "masked_fill") and isinstance(expr, Apply) and expr.op == "where":
            condition, a, b = expr.args
            expr = self.chosen(condition, a, b)
        if name == "add" and len(args) == 2 and not kwargs:
            expr = self.masked(exprs[0], exprs[1]) or expr
        return Value(expr, dims, boolean=name in COMPARISONS)

    def masked(self, a: Expr, b: Expr) -> Expr | None:
        """The sum of scores and a mask, which may hold -infinity or large finite numbers."""
        for mask, other in ((a, b), (b, a)):
            if "qk" in names(mask) or "qk" not in names(other):
                continue
            if isinstance(mask, Name) and mask.id in self.hiding:
                infinite, lost = op("lt", mask, Number(FINITE)), op("lt", mask, Number(LOST))
                mask = op("where", infinite, Number(-LARGE), op("where", lost, Number(-LARGEST), mask))
            if isinstance(mask, Apply) and mask.op == "where":
                return self.spread(mask, other)
        return None

    def spread(self, mask: Expr, other: Expr) -> Expr:
        """The sum of a mask's choices and scores, chosen in the mask's way."""
        if not isinstance(mask, Apply) or mask.op != "where":
            return op("add", mask, other)
        condition, a, b = mask.args
        # What is added to a number that hides is lost, but not its gradient: a row of such numbers alone still has one.
        kept = op("sub", other, op("detach", other))
        for where, value, rest in ((condition, a, b), (op("not", condition), b, a)):
            if value == Number(-LARGE):
                self.hidden.append(where)
                return op("where", where, value, self.spread(rest, other))
            if value == FILL:
                return op("where", where, op("add", FILL, kept), self.spread(rest, other))
            if isinstance(value, Number) and value.value <= LOST:
                return self.filled_with(where, value, self.spread(rest, other), kept)
        return op("where", condition, self.spread(a, other), self.spread(b, other))

    def filled_with(self, condition: Expr, number_: Number, otherwise: Expr, more: Expr | None = None) -> Expr:
        """The number where the condition holds, plus `more`."""
        value: Expr = number_
        if self.fill in (None, number_):
            self.fill, value = number_, FILL
            self.filled.append(condition)
        return op("where", condition, value if more is None else op("add", value, more), otherwise)

    def chosen(self, condition: Expr, a: Expr, b: Expr) -> Expr:
        """`where`, and what it says about hidden keys."""
        if "qk" not in names(condition):
            for mask, value, otherwise in ((condition, a, b), (op("not", condition), b, a)):
                if value == Number(-LARGE):
                    self.hidden.append(mask)
                elif isinstance(value, Number) and -LARGE < value.value <= LOST:
                    return self.filled_with(mask, value, otherwise)
        return op("where", condition, a, b)

    def reduce(self, name: str, args: list[Any], kwargs: dict[str, Any]) -> Value:
        rule = REDUCTIONS[name]
        value: Value = args[0]
        call = rule.read(args, kwargs)
        dims = list(value.dims)
        axes = call.axes if call.axes else tuple(range(len(dims)))
        places = {axis % max(len(dims), 1) for axis in axes}
        reduced = tuple(atom for place in sorted(places) for atom in self.layout.resolve(dims[place]))
        self.take_key(reduced)
        expr = rule.formula(value.as_number(), call.option)
        if rule.keeps_keys:
            return Value(expr, value.dims)
        kept = [() if place in places else dim for place, dim in enumerate(dims) if call.keepdim or place not in places]
        return Value(expr, tuple(kept))

    def take_key(self, reduced: Dim) -> None:
        """What is reduced over must be the keys, and all of them, every time."""
        ends = tuple(self.layout.resolve(end) for end in self.ends)
        if not reduced or reduced not in ends:
            raise NotLifted("a reduction over another axis than the keys")
        if self.key is not None and self.layout.resolve(self.key) != reduced:
            raise NotLifted("reductions over two axes")
        self.key = reduced

    def constant_tensor(self, node: fx.Node, name: str, args: list[Any]) -> Value:
        fixed = _FILLED[name]
        value = args[0] if name == "scalar_tensor" else args[1] if fixed is None else Value(number(fixed), ())
        like = args[0].dims if name.endswith("_like") else self.layout.fresh(node.meta["val"].shape)
        if isinstance(value, bool):
            value = Value(number(int(value)), ())
        boolean = _dtype(node) == torch.bool
        return Value(value.as_condition() if boolean else value.as_number(), like, boolean)

    def viewed(self, name: str, node: fx.Node, args: list[Any]) -> Value:
        """Operations that move elements and don't change them."""
        value = args[0]
        if not isinstance(value, Value):
            raise NotLifted(f"{name} has no formula")
        sizes = tuple(node.meta["val"].shape) if hasattr(node.meta.get("val"), "shape") else ()
        rank = len(value.dims)
        axes = [arg if not isinstance(arg, Value) else int(_whole(arg)) for arg in args[1:]]
        if name in _VIEWS:
            dims = self.layout.reshape(value.dims, sizes)
        elif name == "permute":
            dims = tuple(value.dims[axis] for axis in _numbers(node.args[1]))
        elif name in ("transpose", "t", "swapaxes"):
            first, second = (axes if axes else (0, 1)) if rank > 1 else (0, 0)
            order = list(value.dims)
            order[first], order[second] = order[second], order[first]
            dims = tuple(order)
        elif name == "unsqueeze":
            place = axes[0] % (rank + 1)
            dims = (*value.dims[:place], (), *value.dims[place:])
        elif name == "squeeze":
            given = node.args[1] if len(node.args) > 1 else tuple(range(rank))
            gone = {axis % rank for axis in _numbers(given)}
            dims = tuple(dim for place, dim in enumerate(value.dims) if place not in gone or dim)
        elif name == "expand":
            dims = self.expanded(value.dims, sizes)
        elif name == "slice" and tuple(node.meta["val"].shape) == tuple(node.args[0].meta["val"].shape):  # type: ignore[union-attr]
            dims = value.dims
        else:
            raise NotLifted(f"{name} has no formula")
        return Value(value.expr, dims, value.boolean)

    def expanded(self, dims: Dims, sizes: tuple[int, ...]) -> Dims:
        padded = ((),) * (len(sizes) - len(dims)) + dims
        new = self.layout.fresh(sizes)
        return tuple(dim if dim else free for dim, free in zip(padded, new, strict=True))


def _plain(arg: Any) -> Any:
    return arg.as_number() if isinstance(arg, Value) else arg


def _whole(value: Value) -> Any:
    return value.expr.value if isinstance(value.expr, Number) else 0


def _numbers(arg: Any) -> tuple[int, ...]:
    return (arg,) if isinstance(arg, int) else tuple(arg)


def _name(node: fx.Node) -> str:
    packet = getattr(node.target, "overloadpacket", node.target)
    return str(getattr(packet, "__name__", packet))


def _dtype(node: fx.Node) -> torch.dtype:
    dtype: torch.dtype = node.meta["val"].dtype
    return dtype


def late_normalized(expr: Expr, weights: Expr) -> Expr:
    """The weights, times what the second contraction's result is multiplied with and divided by later."""
    match expr:
        case Name("out"):
            return weights
        case Apply("mul", (a, b)) if "out" in names(a) and "out" not in names(b):
            return op("mul", late_normalized(a, weights), b)
        case Apply("mul", (a, b)) if "out" in names(b) and "out" not in names(a):
            return op("mul", late_normalized(b, weights), a)
        case Apply("div", (a, b)) if "out" in names(a) and "out" not in names(b):
            return op("div", late_normalized(a, weights), b)
    raise NotLifted("what follows the second product is not a factor of the row")


def is_product(expr: Expr) -> bool:
    """Whether nothing happens to the scores but a multiplication with numbers."""
    match expr:
        case Apply("mul" | "div", (a, b)):
            return (is_product(a) and isinstance(b, Number)) or (is_product(b) and isinstance(a, Number))
        case Apply("neg", (a,)):
            return is_product(a)
    return expr == QK


def atom_of(name: str, size: int) -> Dim:
    return (Atom(name, size),) if size != 1 else ()
