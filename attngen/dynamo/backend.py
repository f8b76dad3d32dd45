"""The ways into torch.compile: a backend, a pass for Inductor, and a report of what happened.

    torch.compile(model, backend="attngen")
    torch.compile(model, backend="attngen", options={"inner": "aot_eager"})
    torch.compile(model, options={"pre_grad_custom_pass": AttngenPass()})

Attention is replaced in the graph that Dynamo hands over, before anything is differentiated; the fused op brings its
own gradients. The rest is the inner backend's business.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, cast

import torch
from torch import fx
from torch._dynamo import lookup_backend
from torch._dynamo.utils import counters
from torch._guards import CompileContext
from torch._inductor.custom_graph_pass import CustomGraphPass

from attngen.dynamo.buffers import mark_buffers
from attngen.dynamo.fuse import fuse
from attngen.dynamo.report import CompileReport, Skipped

Compiled = Callable[..., Any]


def attngen_backend(
    module: fx.GraphModule, example_inputs: list[Any], *, options: Mapping[str, Any] | None = None, **named: Any
) -> Compiled:
    """Fuse the graph's attention, then hand it to another backend.

    The option `inner` names that backend; further options go to it, for Inductor those of `torch._inductor.config`.
    """
    return compile_reporting(CompileReport(), module, example_inputs, **{**named, **(options or {})})


def compile_reporting(
    report: CompileReport, module: fx.GraphModule, example_inputs: list[Any], inner: str = "inductor", **options: Any
) -> Compiled:
    """As `attngen_backend`, with a report that is filled on the way."""
    report.begin(CompileContext.current_compile_id())
    mark_buffers(module, example_inputs)
    fuse(module, report)
    if inner == "inductor":
        from torch._inductor.compile_fx import compile_fx

        return cast(Compiled, compile_fx(module, example_inputs, config_patches=options or None))
    return cast(Compiled, lookup_backend(inner)(module, example_inputs, **options))


class AttngenPass(CustomGraphPass):
    """The same as a pass of Inductor's: `options={"pre_grad_custom_pass": AttngenPass()}`."""

    def __init__(self) -> None:
        self.report = CompileReport()

    def __call__(self, graph: fx.Graph) -> None:
        module = graph.owning_module
        if module is not None:
            fuse(module, self.report)

    def uuid(self) -> None:
        """None keeps such graphs out of Inductor's cache on disk: they name ops that only this pass registers, and on a
        hit it would not run."""


def explain_compile(model: Callable[..., Any], *args: Any, **kwargs: Any) -> CompileReport:
    """Compile and run a model once, and tell which attention a fused op computed and what was left as it was, and why.

    The model runs with the given arguments, in the mode in which it is. Where torch.compile ends a graph is told too:
    no backend sees what runs between graphs.
    """
    report = CompileReport()
    torch._dynamo.reset()
    before = set(counters["graph_break"])
    compiled = torch.compile(model, backend=partial(compile_reporting, report, inner="eager"))
    compiled(*args, **kwargs)
    torch._dynamo.reset()
    breaks = [str(reason).splitlines()[0] for reason in counters["graph_break"] if reason not in before]
    report.skipped += [Skipped("torch.compile", f"what follows a graph break may run uncompiled: {x}") for x in breaks]
    return report
