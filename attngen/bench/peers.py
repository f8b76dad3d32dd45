"""The peers: the op itself, what PyTorch ships, the formula written out, and what others have published.

All of them are asked about every cell. One that can't run it says why, and that is a result too.
"""

import importlib
import os
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from attngen.bench.builds import builds, precision_of_call
from attngen.bench.flex import flex
from attngen.bench.peer import Attention, Peer, Task, need, setting
from attngen.bench.written_out import written_out

OURS = "attngen"


def peers_for(device: str, quick: bool) -> tuple[Peer, ...]:
    """Everything that may be measured on the device, the op itself first."""
    ours = (Peer(OURS, _ours),)
    written = (Peer("written out, compiled", _compiled), Peer("written out, eager", _eager))
    if device == "cpu":
        paths = tuple(Peer(f"{OURS} {path}", partial(_path_of_ours, path)) for path in ("native", "portable"))
        return (
            *ours,
            *paths,
            Peer(f"{OURS}, all keys", _ours_unmasked),
            Peer("SDPA", partial(_sdpa, None)),
            Peer("SDPA of softmax", _sdpa_of_softmax),
            Peer("FlexAttention", partial(flex, {}, None)),
            *written,
        )
    backends = {name: getattr(SDPBackend, backend) for name, backend in _SDPA.items()}
    sdpa = tuple(Peer(f"SDPA {name}", partial(_sdpa, backend)) for name, backend in backends.items())
    flexes = [Peer("FlexAttention", partial(flex, {}, None))]
    flexes.append(Peer("FlexAttention TMA", partial(flex, {"USE_TMA": True}, None)))
    if not quick:
        flexes.append(Peer("FlexAttention max-autotune", partial(flex, {}, "max-autotune-no-cudagraphs")))
    others = (Peer("triton-sigmoid", _triton_sigmoid), Peer("adasplash", _adasplash), Peer("flash-attn 3", _flash_3),
              Peer("flash-attn 2", _flash_2))  # fmt: skip
    return (*ours, *builds(), *sdpa, *flexes, *others, *written)


_SDPA = {"cuDNN": "CUDNN_ATTENTION", "flash": "FLASH_ATTENTION", "efficient": "EFFICIENT_ATTENTION", "math": "MATH"}


def _ours(task: Task) -> Attention:
    inputs, is_causal = task.drawn.operands.inputs, task.cell.case.is_causal
    precision = precision_of_call(task.op, task)
    return Attention(lambda q, k, v: task.op(q, k, v, **inputs, is_causal=is_causal), "bhnd", _path(task), precision)


def _ours_unmasked(task: Task) -> Attention:
    need(task.cell.case.is_causal, "all keys are seen anyway")
    inputs = task.drawn.operands.inputs
    unmasked = Attention(lambda q, k, v: task.op(q, k, v, **inputs), note="without the mask", is_yardstick=True)
    return replace(unmasked, precision=precision_of_call(task.op, task))


def _path(task: Task) -> str:
    """Which of its paths the op takes by itself, and whether tiles were tuned."""
    module = _globals(task)
    tuned = ", tuned tiles" if module.get("TUNED") or module.get("OVERRIDES") else ""
    if task.device == "cuda":
        return f"Triton kernels{tuned}"
    return ("native kernels" if _is_native(task) else "plain torch") + tuned


def _path_of_ours(path: str, task: Task) -> Attention:
    """One of the CPU's two paths, where the op has both."""
    need("_on_native" in _globals(task), "the op has one path for CPUs")
    with setting({_VARIABLE: path}):
        need(path == "portable" or _is_native(task), "the native kernels can't be built here")
    return replace(_ours(task), environment={_VARIABLE: path}, note="")


_VARIABLE = "ATTNGEN_CPU"


def _is_native(task: Task) -> bool:
    on_native = _globals(task).get("_on_native")
    return on_native is not None and bool(on_native(task.drawn.operands.query))


def _globals(task: Task) -> dict[str, Any]:
    """The names of the generated module that the op comes from."""
    found: dict[str, Any] = getattr(task.op, "__globals__", {})
    return found


def _eager(task: Task) -> Attention:
    return Attention(written_out(task))


def _compiled(task: Task) -> Attention:
    torch._dynamo.reset()  # every case is compiled for itself, and no limit of recompilations ends in eager code
    return Attention(torch.compile(written_out(task), dynamic=False))


def _softmax_only(task: Task) -> None:
    need(task.formula == "softmax", "softmax only")


def _sdpa(backend: SDPBackend | None, task: Task) -> Attention:
    _softmax_only(task)
    return _scaled_dot_product(backend, task)


def _scaled_dot_product(backend: SDPBackend | None, task: Task) -> Attention:
    case = task.cell.case

    def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(query, key, value, is_causal=case.is_causal, enable_gqa=case.group > 1)

    def on_backend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        assert backend is not None
        with sdpa_kernel(backend):
            return attend(query, key, value)

    return Attention(attend if backend is None else on_backend)


def _sdpa_of_softmax(task: Task) -> Attention:
    need(task.formula != "softmax", "that is SDPA")
    return replace(_scaled_dot_product(None, task), note="another formula", is_yardstick=True)


def installed(module: str, name: str) -> Callable[..., Any]:
    """A function of a package that may be missing (ImportError) or refuse to be imported here (Unsupported)."""
    try:
        found: Callable[..., Any] = getattr(importlib.import_module(module), name)
    except RuntimeError as error:  # some look for a GPU while they are imported
        need(False, str(error))
        raise
    return found


def _triton_sigmoid(task: Task) -> Attention:
    need(task.formula == "sigmoid", "sigmoid only")
    case = task.cell.case
    need(case.group == 1, "no grouped heads")
    need(case.n_q == case.n_k, "no decoding: lengths must be equal")
    op = installed("triton_sigmoid", "sigmoid_attention")
    bias = task.input("bias")
    accurate = os.environ.get("TRITON_SIGMOID_ACCURATE", "").lower() in ("1", "true", "yes", "on")
    note, precision = ("accurate mode", "exact") if accurate else ("fast mode (tanh.approx)", "fast")
    number = None if bias is None else float(bias)
    return Attention(
        lambda q, k, v: op(q, k, v, is_causal=case.is_causal, sigmoid_bias=number), "bnhd", note, precision
    )


def _adasplash(task: Task) -> Attention:
    need(task.formula == "entmax15", "entmax only")
    case = task.cell.case
    op = installed("adasplash", "adasplash")
    return Attention(lambda q, k, v: op(q, k, v, alpha=1.5, is_causal=case.is_causal))


def _flash_2(task: Task) -> Attention:
    _softmax_only(task)
    need(task.dtype != torch.float32, "no float32")
    op, is_causal = installed("flash_attn", "flash_attn_func"), task.cell.case.is_causal
    return Attention(lambda q, k, v: op(q, k, v, causal=is_causal), "bnhd")


def _flash_3(task: Task) -> Attention:
    _softmax_only(task)
    need(task.dtype != torch.float32, "no float32")
    op, is_causal = installed("flash_attn_interface", "flash_attn_func"), task.cell.case.is_causal

    def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        found = op(query, key, value, causal=is_causal)
        out: Tensor = found[0] if isinstance(found, tuple) else found  # older versions return the log-sum-exp as well
        return out

    return Attention(attend, "bnhd")
