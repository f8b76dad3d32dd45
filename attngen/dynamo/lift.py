"""From the ATen operations between two contractions to a formula for the weights, by abstract interpretation.

Every tensor is a formula together with the axes of its dimensions: pointwise operations are applied, reductions over
the keys become reductions, views and broadcasts change the axes alone. Minus infinity is written as a number too large
to matter, and the conditions under which it stands are remembered: keys hidden in this way have no weight. What has no
rule raises NotLifted. Whether the formula is right is checked elsewhere.
"""

from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import fx

from attngen.dynamo.columns import Columns
from attngen.dynamo.formulas import LOST, QK, constant, op
from attngen.dynamo.hiding import Hiding
from attngen.dynamo.layout import Atom, Dim, Dims, Layout
from attngen.dynamo.nodes import NotLifted
from attngen.dynamo.reductions import PAIRS, REDUCTIONS, Row
from attngen.dynamo.rules import COMPARISONS, LOGICAL, POINTWISE
from attngen.dynamo.views import moved
from attngen.ir import Apply, Expr, Name, Number, names, number

OUT = Name("out")  # the second contraction's result, in formulas of what comes behind it
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
    """A tensor as a formula and the axes of its dimensions; the formula of a boolean one is a condition.

    `beside` are the formulas of columns that were concatenated with the keys.
    """

    expr: Expr
    dims: Dims
    boolean: bool = False
    beside: tuple[Expr, ...] = ()

    def as_number(self) -> Expr:
        return _number(self.expr, self.boolean)

    def as_condition(self) -> Expr:
        return self.expr if self.boolean else op("ne", self.expr, number(0))

    def column(self, place: int) -> "Value":
        """What stands in one of the columns. A value without any is the same in all of them."""
        if not self.beside:
            return self
        return replace(self, expr=self.beside[place], beside=())


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
    hiding: Hiding = field(default_factory=Hiding)
    columns: Columns = field(init=False)

    def __post_init__(self) -> None:
        self.columns = Columns(self.layout)

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
            self.hiding.masks.add(leaf.name)

    def run(self, graph: fx.Graph) -> tuple[Value, Value]:
        """The two results, weights and output."""
        for node in graph.nodes:
            if node.op == "call_function":
                try:
                    self.values[node] = self.call(node)
                except NotLifted as reason:
                    self.values[node] = reason  # nobody may need more of it than its size
        output = next(node for node in graph.nodes if node.op == "output")
        first, second = output.args[0]
        return self.needed(self.values[first]), self.needed(self.values[second])

    def needed(self, value: Any) -> Any:
        if isinstance(value, NotLifted):
            raise value
        return value

    def call(self, node: fx.Node) -> Any:
        name = _name(node)
        if name in _FILLED:
            return self.constant_tensor(node, name)
        args = [self.argument(arg) for arg in node.args]
        kwargs = {key: self.argument(arg) for key, arg in node.kwargs.items()}
        if name == "getitem":
            several = args[0] if isinstance(args[0], tuple) else (args[0],)
            return next((part for place, part in enumerate(several) if place == node.args[1]), None)
        if any(arg is None and isinstance(given, fx.Node) for arg, given in zip(args, node.args, strict=True)):
            raise NotLifted(f"{name} of a result that isn't lifted")
        if name in PAIRS:
            return tuple(self.reduce(part, args, kwargs) for part in PAIRS[name])
        if name in REDUCTIONS:
            return self.reduce(name, args, kwargs)
        if name in LOGICAL:
            operands = [arg for arg in args if isinstance(arg, Value)]
            if any(operand.beside for operand in operands):
                raise NotLifted("a condition on columns beside the keys")
            expr = LOGICAL[name](*(operand.as_condition() for operand in operands))
            return Value(expr, self.layout.broadcast([operand.dims for operand in operands]), boolean=True)
        if name in POINTWISE:
            return self.beside_too(name, node, args, kwargs)
        if name == "cat":
            pieces: Any = node.args[0]
            return self.concatenated([self.needed(self.values[n]) for n in pieces], _cat_axis(node))
        if not isinstance(args[0], Value):
            raise NotLifted(f"{name} has no formula")
        if name == "constant_pad_nd":
            return self.padded(node, args[0])
        if name == "slice" and args[0].beside:
            return replace(args[0], dims=self.columns.sliced(node, args[0].dims), beside=())
        return replace(args[0], dims=moved(name, node, args[0].dims, self.layout))

    def argument(self, arg: Any) -> Any:
        if isinstance(arg, fx.Node):
            return self.needed(self.values[arg])
        if isinstance(arg, int | float) and not isinstance(arg, bool):
            return Value(constant(arg), ())
        return arg

    def beside_too(self, name: str, node: fx.Node, args: list[Any], kwargs: dict[str, Any]) -> Value:
        """A pointwise operation, on the columns beside the keys as well."""
        operands = [arg for arg in (*args, *kwargs.values()) if isinstance(arg, Value)]
        count = max((len(operand.beside) for operand in operands), default=0)
        result = self.pointwise(name, node, args, kwargs)
        if not count:
            return result
        if any(not x.beside and self.columns.any(x.dims) and names(x.expr) for x in operands):
            raise NotLifted("a tensor as wide as keys and columns beside them")
        hiding, self.hiding = self.hiding, Hiding()  # conditions on columns hide no keys
        ways = [
            self.pointwise(name, node, [_column(x, p) for x in args], {k: _column(x, p) for k, x in kwargs.items()})
            for p in range(count)
        ]
        self.hiding = hiding
        return replace(result, beside=tuple(way.expr for way in ways))

    def concatenated(self, pieces: list[Value], axis: int) -> Value:
        """Columns before and behind the keys."""
        ends = [self.layout.resolve(end) for end in self.ends if end]
        place, dims = self.columns.concatenated([piece.dims for piece in pieces], axis, ends)
        if any(piece.beside for piece in pieces):
            raise NotLifted("a concatenation of a concatenation")
        numbers = [piece.as_number() for piece in pieces]
        return Value(numbers.pop(place), dims, beside=tuple(numbers))

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
            expr = self.hiding.chosen(condition, a, b)
        if name == "add" and len(args) == 2 and not kwargs:
            expr = self.hiding.added(exprs[0], exprs[1]) or expr
        return Value(expr, dims, boolean=name in COMPARISONS)

    def reduce(self, name: str, args: list[Any], kwargs: dict[str, Any]) -> Value:
        rule = REDUCTIONS[name]
        value: Value = args[0]
        call = rule.read(args, kwargs)
        dims = list(value.dims)
        axes = call.axes if call.axes else tuple(range(len(dims)))
        places = {axis % max(len(dims), 1) for axis in axes}
        reduced = tuple(atom for place in sorted(places) for atom in self.layout.resolve(dims[place]))
        self.take_key(reduced)
        row = Row(value.as_number(), tuple(_number(x, value.boolean) for x in value.beside))
        if rule.each is not None:
            beside = tuple(rule.each(x, row) for x in row.beside)
            return Value(rule.each(row.expr, row), value.dims, beside=beside)
        expr = rule.formula(row, call.option)
        kept = [() if place in places else dim for place, dim in enumerate(dims) if call.keepdim or place not in places]
        return Value(expr, tuple(kept))

    def take_key(self, reduced: Dim) -> None:
        """What is reduced over must be the keys, and all of them, every time."""
        wide = self.columns.of(reduced) if len(reduced) == 1 else None
        reduced = reduced if wide is None else wide.keys
        ends = tuple(self.layout.resolve(end) for end in self.ends)
        if not reduced or reduced not in ends:
            raise NotLifted("a reduction over another axis than the keys")
        if self.key is not None and self.layout.resolve(self.key) != reduced:
            raise NotLifted("reductions over two axes")
        self.key = reduced

    def constant_tensor(self, node: fx.Node, name: str) -> Value:
        fixed, given = _FILLED[name], node.args
        value = given[0] if name == "scalar_tensor" else given[1] if fixed is None else fixed
        if not isinstance(value, bool | int | float):
            raise NotLifted(f"{name} of a number that isn't fixed")
        like = self.values[given[0]] if name.endswith("_like") else None  # type: ignore[index]
        dims = like.dims if isinstance(like, Value) else self.layout.fresh(node.meta["val"].shape)
        filled = Value(constant(value), dims)
        boolean = _dtype(node) == torch.bool
        return Value(filled.as_condition() if boolean else filled.expr, dims, boolean)

    def padded(self, node: fx.Node, value: Value) -> Value:
        """Columns of a number before and behind the keys."""
        pad, filling = [*node.args[1]], (*node.args, 0)[2]  # type: ignore[misc]
        if len(pad) != 2 or not isinstance(filling, int | float):
            raise NotLifted("padding of other axes than the keys'")
        column = Value(constant(filling), ((),) * len(value.dims))
        return self.concatenated([column] * pad[0] + [value] + [column] * pad[1], len(value.dims) - 1)


def _number(expr: Expr, boolean: bool) -> Expr:
    return op("where", expr, number(1), number(0)) if boolean else expr


def _column(arg: Any, place: int) -> Any:
    return arg.column(place) if isinstance(arg, Value) else arg


def _cat_axis(node: fx.Node) -> int:
    axis: Any = node.args[1] if len(node.args) > 1 else 0
    return int(axis) % len(node.meta["val"].shape)


def _plain(arg: Any) -> Any:
    return arg.as_number() if isinstance(arg, Value) else arg


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
