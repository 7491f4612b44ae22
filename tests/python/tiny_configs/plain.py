"""Llama-like families: mixtures with a softmax router and no shared expert, and dense models."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tiny_configs.common import base, rope


def _qwen3_moe(**changes: Any) -> Any:
    from transformers import Qwen3MoeConfig

    experts = {"num_experts": 7, "num_experts_per_tok": 3, "moe_intermediate_size": 37, "head_dim": 22}
    return Qwen3MoeConfig(**base(**{**experts, **changes}))


def _mixtral(**changes: Any) -> Any:
    from transformers import MixtralConfig

    experts = {"num_local_experts": 5, "num_experts_per_tok": 2, "head_dim": 18}
    return MixtralConfig(**base(**{**experts, **changes}))


def _qwen3(**changes: Any) -> Any:
    from transformers import Qwen3Config

    return Qwen3Config(**base(**{"head_dim": 16, **changes}))


def _llama(**changes: Any) -> Any:
    from transformers import LlamaConfig

    return LlamaConfig(**base(**{"hidden_size": 78, "head_dim": 14, **changes}))


def _mistral(**changes: Any) -> Any:
    from transformers import MistralConfig

    return MistralConfig(**base(**{"head_dim": 18, **changes}))


def _qwen2(**changes: Any) -> Any:
    from transformers import Qwen2Config

    return Qwen2Config(**base(**{"hidden_size": 84, **changes}))


def _phi3(**changes: Any) -> Any:
    from transformers import Phi3Config

    return Phi3Config(**base(**{"hidden_size": 84, "pad_token_id": 0, **changes}))


def _smollm3(**changes: Any) -> Any:
    from transformers import SmolLM3Config

    tokens = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    return SmolLM3Config(**base(**{"hidden_size": 84, "num_hidden_layers": 5, **tokens, **changes}))


# name -> the config it is made from; "fused" in a name: experts saved as one tensor per layer.
CONFIGS: dict[str, Callable[[], Any]] = {
    "qwen3_moe": lambda: _qwen3_moe(norm_topk_prob=True),
    "qwen3_moe-dense-layers-biases": lambda: _qwen3_moe(
        num_hidden_layers=4, mlp_only_layers=[1], attention_bias=True, norm_topk_prob=False
    ),
    "qwen3_moe-every-second-tied": lambda: _qwen3_moe(
        num_hidden_layers=4, decoder_sparse_step=2, tie_word_embeddings=True, num_key_value_heads=6
    ),
    "qwen3_moe-fused": lambda: _qwen3_moe(norm_topk_prob=True, num_key_value_heads=1, moe_intermediate_size=64),
    "qwen3_moe-yarn": lambda: _qwen3_moe(
        rope_parameters=rope("yarn", factor=8.0, original_max_position_embeddings=64), norm_topk_prob=True
    ),
    "qwen3_moe-window": lambda: _qwen3_moe(
        use_sliding_window=True, sliding_window=29, max_window_layers=1, norm_topk_prob=True
    ),
    "mixtral": _mixtral,
    "mixtral-window-tied": lambda: _mixtral(sliding_window=37, tie_word_embeddings=True, num_key_value_heads=1),
    "mixtral-linear": lambda: _mixtral(rope_parameters=rope("linear", factor=3.0), num_key_value_heads=6),
    "mixtral-fused": _mixtral,
    "qwen3-tied": lambda: _qwen3(tie_word_embeddings=True),
    "qwen3-window-biases": lambda: _qwen3(
        use_sliding_window=True, sliding_window=29, max_window_layers=1, attention_bias=True, num_key_value_heads=3
    ),
    "mistral": lambda: _mistral(sliding_window=None),
    "mistral-window-tied": lambda: _mistral(sliding_window=31, tie_word_embeddings=True, num_key_value_heads=1),
    "qwen2": _qwen2,
    "qwen2-window-tied": lambda: _qwen2(
        use_sliding_window=True, sliding_window=29, max_window_layers=1, tie_word_embeddings=True
    ),
    "phi3": _phi3,
    "phi3-window-longrope-tied": lambda: _phi3(
        sliding_window=90,
        tie_word_embeddings=True,
        max_position_embeddings=512,
        original_max_position_embeddings=100,
        rope_parameters=rope(
            "longrope",
            short_factor=[1.0, 1.02, 1.05, 1.1, 1.2, 1.3, 1.5],
            long_factor=[1.1, 1.3, 1.7, 2.5, 4.0, 7.0, 12.0],
            original_max_position_embeddings=100,
        ),
    ),
    "smollm3": _smollm3,
    "smollm3-window-biases": lambda: _smollm3(
        no_rope_layers=[1, 0, 0, 1, 1],
        use_sliding_window=True,
        sliding_window=33,
        attention_bias=True,
        tie_word_embeddings=False,
    ),
    "llama": _llama,
    "llama-biases-dynamic": lambda: _llama(
        attention_bias=True, mlp_bias=True, max_position_embeddings=50, rope_parameters=rope("dynamic", factor=2.0)
    ),
    "llama-llama3-tied": lambda: _llama(
        tie_word_embeddings=True,
        num_key_value_heads=1,
        rope_parameters=rope(
            "llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=64
        ),
    ),
    "llama-yarn": lambda: _llama(
        num_hidden_layers=2,
        rope_parameters=rope("yarn", factor=4.0, original_max_position_embeddings=128, mscale=1.0, mscale_all_dim=0.7),
    ),
    "long-qwen3_moe": lambda: _qwen3_moe(num_hidden_layers=2, max_position_embeddings=8192, norm_topk_prob=True),
    "long-mixtral-window-dynamic": lambda: _mixtral(
        num_hidden_layers=2,
        max_position_embeddings=2048,
        sliding_window=1000,
        rope_parameters=rope("dynamic", factor=2.0),
    ),
}
