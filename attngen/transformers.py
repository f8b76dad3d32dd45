"""Generated ops under transformers' attention interface: `import attngen.transformers`, and a model made with
`attn_implementation="attngen:sigmoid"` calls the op of the shipped spec `sigmoid`. `register` adds specs of one's own.

    import attngen.transformers
    model = AutoModelForCausalLM.from_config(config, attn_implementation="attngen:sigmoid")

Causal masks become the call's; the mask of padding becomes an input of the op with a batch and a key axis, and every
other mask one with a query axis as well. Rows that see no key are zero. What the op doesn't know (dropout, scores that
are capped where the spec doesn't) is refused, never left out. Ops are built when they are first called.
"""

import functools
import os
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import causal_mask_function, sdpa_mask

from attngen import catalog, ir
from attngen.api import load_text, request_digest
from attngen.build import Build, chosen_build
from attngen.masking import SEEN, masked
from attngen.spec.lower import read_spec

PREFIX = "attngen:"
_GIVEN = {"sink": "s_aux", "sinks": "s_aux", "cap": "softcap"}  # a spec's inputs by what models call them
_REFUSED = ("s_aux", "softcap", "position_bias")
Statics = tuple[tuple[str, str], ...]
_SPECS: dict[str, "_Registered"] = {}
_OPS = SimpleNamespace()
_AXES: dict[bool, tuple[ir.Axis, ...]] = {True: ("batch", "key"), False: ("batch", "head", "query", "key")}


def register(spec: str | os.PathLike[str], **statics: object) -> str:
    """Make a spec, a path or a shipped name, known to transformers; the name for `attn_implementation` is returned.

    `statics` are values for the spec's static inputs. Raises SpecError and FileNotFoundError as `attngen.load` does.
    """
    text = catalog.read(spec)
    values = {name: str(value) for name, value in statics.items()}
    normalizer = read_spec(text.text, text.path, values)
    _SPECS[normalizer.name] = _Registered(text, tuple(values.items()), normalizer)
    name = PREFIX + normalizer.name
    AttentionInterface.register(name, functools.partial(attention, normalizer.name))
    AttentionMaskInterface.register(name, mask)
    return name


@dataclass(frozen=True, slots=True)
class _Registered:
    text: catalog.SpecText
    statics: Statics
    normalizer: ir.Normalizer


def mask(**asked: Any) -> Tensor | None:
    """Nothing where a causal mask says all, (batch, 1, 1, keys) for one with padding, else (batch, 1, queries, keys).

    True is a key that is seen. The arguments are those of transformers' own functions for masks.
    """
    padding, offset = asked.get("attention_mask"), asked.get("kv_offset", 0)
    end, start = offset + asked["kv_length"], asked.get("q_offset", 0)
    at_end = isinstance(start, int | torch.SymInt) and start + asked["q_length"] == end
    if asked.get("mask_function", causal_mask_function) is not causal_mask_function or not at_end:
        full: Tensor = sdpa_mask(**{**asked, "allow_is_causal_skip": False, "allow_is_bidirectional_skip": False})
        return full
    if padding is None or not (torch.compiler.is_compiling() or not bool(padding.all())):
        return None
    padded = torch.nn.functional.pad(padding.bool(), (0, max(end - padding.shape[-1], 0)))
    return padded[:, None, None, offset:end]


def attention(spec: str, module: Any, *tensors: Tensor, **given: Any) -> tuple[Tensor, None]:
    """transformers' attention function: query, key, value (B, H, N, D) and a mask or None, to (B, N, H, D).

    Raises ValueError for what the op doesn't know: dropout, masks of numbers, and what the spec has no input for.
    """
    query, key, value, attention_mask = tensors
    if given.get("dropout"):
        raise ValueError(
            f"attngen has no dropout of weights: the model's attention dropout is {given['dropout']}, not 0"
        )
    statics, inputs = _inputs(spec, module, given)
    causal = given.get("is_causal")
    causal = getattr(module, "is_causal", True) if causal is None else causal
    by_key = attention_mask is not None and attention_mask.shape[1] == 1 and attention_mask.shape[2] == 1
    band: dict[str, Any] = {}
    if causal and query.shape[2] > 1 and (attention_mask is None or by_key):
        band = {"is_causal": True, "alignment": "lower_right"}
    if attention_mask is not None:
        inputs[SEEN] = _seen(attention_mask, by_key, query, key)
    op = getattr(_OPS, _built(spec, statics, None if attention_mask is None else _AXES[by_key]))
    out = op(query, key, value, scale=given.get("scaling"), **inputs, **band)
    return out.transpose(1, 2).contiguous(), None


def _inputs(spec: str, module: Any, given: dict[str, Any]) -> tuple[Statics, dict[str, Any]]:
    """The spec's static inputs, and the others: the call's, or attributes of the attention module."""
    statics, tensors, used, missing = [], {}, set(), []
    for name, static, axes in _declared(spec):
        source = _GIVEN.get(name, name)
        used.add(source)
        tensor = given.get(source)
        tensor = getattr(module, name, None) if tensor is None else tensor
        if static and tensor is not None:
            statics.append((name, str(tensor)))
        elif tensor is not None:
            tensors[name] = tensor
        elif axes is not None:
            missing.append(f"{name} ({', '.join(axes) or 'a number'})")
    left = [name for name in _REFUSED if given.get(name) is not None and name not in used]
    if left:
        raise ValueError(f"the model gives {', '.join(left)}, which the formula of '{spec}' has no input for")
    if missing:
        raise ValueError(
            f"'{spec}' needs {' and '.join(missing)}, which this model doesn't give: make it an attribute of every "
            f"attention module, as in {type(module).__name__}.{missing[0].split()[0]} = nn.Parameter(...)"
        )
    return tuple(statics), tensors


# torch.compile takes what these return as it is: neither specs nor compilers are traced.
@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def _declared(spec: str) -> tuple[tuple[str, bool, tuple[ir.Axis, ...] | None], ...]:
    """The spec's inputs, whether each is static, and the axes of those that a call can't do without."""
    normalizer = _SPECS[spec].normalizer
    inputs = tuple((x.name, False, x.axes if x.default is None else None) for x in normalizer.inputs)
    return inputs + tuple((static.name, True, None) for static in normalizer.statics)


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def _built(spec: str, statics: Statics, axes: tuple[ir.Axis, ...] | None) -> str:
    """The name among `_OPS` of the op, with a mask over the axes if there are any."""
    return _made(_SPECS[spec], statics, axes, chosen_build())


@functools.cache
def _made(registered: _Registered, statics: Statics, axes: tuple[ir.Axis, ...] | None, build: Build) -> str:
    text, values = registered.text, dict(registered.statics) | dict(statics)
    if axes is not None:
        text, values = catalog.SpecText(text.path, masked(read_spec(text.text, text.path, values), axes)), {}
    name = request_digest(text, values, build)
    setattr(_OPS, name, load_text(text, values, build))
    return name


def _seen(attention_mask: Tensor, by_key: bool, query: Tensor, key: Tensor) -> Tensor:
    if attention_mask.dtype != torch.bool:
        raise ValueError("attngen takes masks of true and false; this one is of numbers that are added to scores")
    seen = attention_mask[..., : key.shape[2]].to(query.dtype)
    return seen[:, 0, 0] if by_key else seen


for _spec in catalog.shipped():
    register(_spec.stem)
