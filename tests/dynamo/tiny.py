"""Models of transformers, as small as they come, with random weights."""

from collections.abc import Callable
from typing import Any

import transformers

_SIZES = {
    "vocab_size": 32,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
}
_WINDOWED = {"sliding_window": 6, "layer_types": ["sliding_attention", "full_attention"]}


def llama(attention: str = "eager", **more: Any) -> Any:
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(**_SIZES, attn_implementation=attention, **more))


def gemma2(attention: str = "eager") -> Any:
    more = {**_WINDOWED, "query_pre_attn_scalar": 8, "attn_logit_softcapping": 2.0, "attn_implementation": attention}
    return transformers.Gemma2ForCausalLM(transformers.Gemma2Config(**_SIZES, **more))


def gpt_oss(attention: str = "eager") -> Any:
    more = {**_WINDOWED, "num_local_experts": 2, "num_experts_per_tok": 1, "rope_parameters": {"rope_type": "default"}}
    return transformers.GptOssForCausalLM(
        transformers.GptOssConfig(**_SIZES, **more, attn_implementation=attention)  # type: ignore[arg-type]
    )


MODELS: dict[str, Callable[..., Any]] = {"llama": llama, "gemma2": gemma2, "gpt_oss": gpt_oss}
