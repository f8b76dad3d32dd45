"""From the nodes between two contractions to a graph of ATen operations, by tracing them on tensors without contents.

torch's own decompositions spell most functions out in this way, so that one set of rules serves every spelling. The
graph's placeholders are the dot products, the second contraction's result, and the tensors from outside.
"""

import functools
from typing import Any

import torch
from torch import fx
from torch._decomp import core_aten_decompositions, get_decompositions
from torch.fx.experimental.proxy_tensor import make_fx

from attngen.dynamo.contraction import added, with_added
from attngen.dynamo.nodes import Hints, NotLifted, mutates, name_of, tensor_of, value_of
from attngen.dynamo.region import Region

_KEPT = {
    "softplus", "silu", "log_sigmoid_forward", "logaddexp", "relu", "masked_fill", "nan_to_num", "logsumexp", "square",
    "rsub", "sgn", "addcmul", "linalg_vector_norm", "_softmax", "_log_softmax", "detach", "clamp", "clamp_min",
    "clamp_max", "sinh", "cosh", "var", "std", "hardtanh", "hardsigmoid", "hardswish", "lerp",
}  # fmt: skip
_MORE = (
    "gelu", "leaky_relu", "elu", "celu", "selu", "mish", "softshrink",
    "hardshrink", "threshold", "logit", "native_layer_norm",
)  # fmt: skip
_SIZED = {"view", "reshape", "expand", "unflatten", "flatten", "transpose", "permute", "unsqueeze", "squeeze", "repeat"}


def traced(region: Region, hints: Hints) -> fx.GraphModule:
    """The region in ATen operations: (dot products, second contraction's result, *leaves) -> (weights, output)."""
    inputs = [_blank(region.scores, hints), _blank(region.second, hints)]
    leaves = [_leaf(leaf, region, hints) for leaf in region.leaves]

    def region_function(scores: Any, result: Any, *tensors: Any) -> Any:
        return _replayed(region, (scores, result), dict(zip(region.leaves, tensors, strict=True)), leaves)

    changing = any(mutates(node) for node in region.nodes)
    run = torch.func.functionalize(region_function) if changing else region_function
    tensors = [leaf if isinstance(leaf, torch.Tensor) else torch.empty((), device="meta") for leaf in leaves]
    try:
        module: fx.GraphModule = make_fx(run, decomposition_table=_decompositions())(*inputs, *tensors)
    except NotLifted:
        raise
    except Exception as error:  # whatever an operation of the model's may say of tensors without contents
        raise NotLifted(f"it can't be traced: {type(error).__name__}: {str(error).splitlines()[0][:120]}") from error
    return module


@functools.cache
def _decompositions() -> dict[Any, Any]:
    """torch's, without those of operations that have rules of their own."""
    more = get_decompositions([getattr(torch.ops.aten, name) for name in _MORE])
    every = core_aten_decompositions().items() | more.items()  # type: ignore[no-untyped-call]
    return {overload: rule for overload, rule in every if getattr(overload, "_opname", "") not in _KEPT}


def _blank(node: fx.Node, hints: Hints) -> torch.Tensor:
    tensor = tensor_of(node)
    return torch.empty(hints.shape(tensor), dtype=tensor.dtype, device="meta")


def _leaf(node: fx.Node, region: Region, hints: Hints) -> Any:
    """A tensor from outside, or a number: one that sizes are made of as it is, others as scalar tensors."""
    value = value_of(node)
    if isinstance(value, torch.Tensor):
        return _blank(node, hints)
    if not isinstance(value, int | float | torch.SymInt | torch.SymFloat):
        raise NotLifted(f"{node} is neither a tensor nor a number")
    users = {name_of(user) in _SIZED for user in node.users if user in region.all_nodes}
    if users == {True}:
        return hints.size(value)
    if users == {False}:
        return torch.empty((), dtype=torch.float64, device="meta")
    raise NotLifted("a number that is a size and a value at once")


def _replayed(region: Region, inner: tuple[Any, Any], tensors: dict[fx.Node, Any], leaves: list[Any]) -> Any:
    """Run the region's nodes on other values."""
    values = {
        node: tensors[node] if isinstance(leaf, torch.Tensor) else leaf
        for node, leaf in zip(region.leaves, leaves, strict=True)
    }
    weights = None
    for node in region.all_nodes:
        args = tuple(_on_meta(arg) for arg in fx.map_arg(node.args, lambda n: values.get(n)))
        kwargs = {key: _on_meta(arg) for key, arg in fx.map_arg(node.kwargs, lambda n: values.get(n)).items()}
        if node is region.scores:
            more = added(node)
            values[node] = with_added(node, inner[0].clone(), None if more is None else values[more])
        elif node is region.second:
            weights = values[region.weights]
            values[node] = inner[1].clone()
        elif node.op == "call_method":
            values[node] = getattr(args[0], str(node.target))(*args[1:], **kwargs)
        elif name_of(node) == "dropout":
            values[node] = args[0]  # the region has none that does anything
        elif callable(node.target):
            values[node] = node.target(*args, **kwargs)
    return weights, values[region.end]


def _on_meta(arg: Any) -> Any:
    return torch.device("meta") if isinstance(arg, torch.device) else arg
