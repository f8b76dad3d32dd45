"""CUDA graphs: a captured call, forward and backward, replays with other values in the same memory."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import generated.affine_scaled
import generated.sigmoid
import generated.softmax
import generated.softplus_l1

DEVICE = "cuda"
OPS: dict[str, tuple[Callable[..., Any], dict[str, float]]] = {
    "softmax": (generated.softmax.softmax_attention, {}),
    "sigmoid": (generated.sigmoid.sigmoid_attention, {"bias": -5.0}),
    "sigmoid, its default": (generated.sigmoid.sigmoid_attention, {}),
    "softplus_l1": (generated.softplus_l1.softplus_l1_attention, {}),
    "affine_scaled": (generated.affine_scaled.affine_scaled_attention, {"alpha": 1.5, "beta": 0.01}),
}


def drawn(seed: int) -> list[Tensor]:
    random = torch.Generator(DEVICE).manual_seed(seed)
    shapes = [(2, 4, 300, 64), (2, 2, 280, 64), (2, 2, 280, 64), (2, 4, 300, 64)]
    return [torch.randn(shape, generator=random, device=DEVICE, dtype=torch.bfloat16) for shape in shapes]


def step(op: Callable[..., Any], given: dict[str, float], tensors: list[Tensor]) -> list[Tensor]:
    """Output and gradients for tensors (query, key, value, gradient of the output)."""
    out = op(*tensors[:3], **given, is_causal=True)
    return [out.detach(), *torch.autograd.grad(out, tensors[:3], tensors[3])]


def leaves(seed: int) -> list[Tensor]:
    return [x.requires_grad_(place < 3) for place, x in enumerate(drawn(seed))]


@pytest.mark.parametrize("name", OPS)
def test_capture_and_replay(name: str) -> None:
    """Nothing on the way synchronises or copies from the CPU: capturing would fail."""
    op, given = OPS[name]
    held = leaves(seed=0)
    aside = torch.cuda.Stream()
    aside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(aside):
        step(op, given, held)  # compiles the kernels
    torch.cuda.current_stream().wait_stream(aside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = step(op, given, held)
    for seed in (1, 2):
        with torch.no_grad():
            for into, values in zip(held, drawn(seed), strict=True):
                into.copy_(values)
        graph.replay()
        expected = step(op, given, leaves(seed))
        assert all(map(torch.equal, captured, expected))


@pytest.mark.parametrize("name", OPS)
def test_reduce_overhead(name: str) -> None:
    op, given = OPS[name]
    compiled = torch.compile(op, fullgraph=True, mode="reduce-overhead")
    for seed in range(4):
        torch.compiler.cudagraph_mark_step_begin()
        found = [x.clone() for x in step(compiled, given, leaves(seed))]
        assert all(map(torch.equal, found, step(op, given, leaves(seed))))


@pytest.mark.parametrize("name", OPS)
def test_no_synchronisation(name: str) -> None:
    op, given = OPS[name]
    step(op, given, leaves(0))
    tensors = leaves(1)
    torch.cuda.set_sync_debug_mode("error")
    try:
        step(op, given, tensors)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_profiles_show_kernels_by_spec_and_shape_class() -> None:
    activities = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=activities) as seen:
        step(*OPS["softmax"], leaves(0))
        torch.cuda.synchronize()
    names = {event.key for event in seen.key_averages()}
    for kernel in ("forward", "backward_query", "backward_key"):
        assert f"softmax_{kernel}_d64_dv64_bf16" in names
