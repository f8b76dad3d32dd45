"""A node of Dynamo's graph, and smaller ones that compute the same in its place for the time being.

The new nodes take the old one's place at once. If they aren't fused, the old node comes back and they are removed.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import fx
from torch._subclasses import FakeTensor

from attngen.dynamo.nodes import NotLifted, value_of


@dataclass(slots=True)
class Spelled:
    """`output` computes what `replaced` did, with the `nodes`; `second` is the second product among them."""

    node: fx.Node
    replaced: fx.Node
    nodes: list[fx.Node] = field(default_factory=list)
    second: fx.Node | None = None
    output: fx.Node | None = None
    given: tuple[Any, Any] = ((), {})

    def call(self, target: Any, *args: Any, **kwargs: Any) -> fx.Node:
        """One more node, a function's call or, by name, a method's, with the value that it stands for."""
        graph = self.node.graph
        with graph.inserting_before(self.node):
            new = graph.create_node("call_method" if isinstance(target, str) else "call_function", target, args, kwargs)
        new.stack_trace = self.node.stack_trace
        given, named = fx.map_arg(args, value_of), fx.map_arg(kwargs, value_of)
        with self.fake_mode(), torch.no_grad():
            run = getattr(given[0], target) if isinstance(target, str) else target
            new.meta["example_value"] = run(*(given[1:] if isinstance(target, str) else given), **named)
        self.nodes.append(new)
        return new

    def fake_mode(self) -> Any:
        values = (value_of(node) for node in self.node.all_input_nodes)
        modes = (value.fake_mode for value in values if isinstance(value, FakeTensor))
        mode = next(modes, None)
        if mode is None:
            raise NotLifted("a graph without fake tensors")
        return mode

    def finish(self, output: fx.Node) -> "Spelled":
        """The old node is left without users and operands, so that nobody takes it for a use of them."""
        self.output, self.given = output, (self.node.args, self.node.kwargs)
        self.replaced.replace_all_uses_with(output)
        self.node.args, self.node.kwargs = (), {}
        return self

    def remove(self) -> None:
        """Bring the old node back."""
        if self.output is not None:
            self.node.args, self.node.kwargs = self.given
            self.output.replace_all_uses_with(self.replaced)
        self._erase(self.nodes)

    def take_over(self) -> None:
        """Let the old node go, and of the new ones those that the fused op has made useless."""
        self._erase([*self.nodes, self.node, *([self.replaced] if self.replaced is not self.node else [])])

    @staticmethod
    def _erase(nodes: list[fx.Node]) -> None:
        for node in reversed(nodes):
            if not node.users and not node._erased:
                node.graph.erase_node(node)


def guarded(spelled: Spelled, build: Callable[[], fx.Node]) -> Spelled:
    """The spelling with the output that `build` makes; if it raises nothing is left of it."""
    try:
        output = build()
    except BaseException:
        spelled.remove()
        raise
    return spelled.finish(output)
