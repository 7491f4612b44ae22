"""Families that route by the sigmoid or weigh the chosen logits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tiny_configs.common import base, extended, rope

# Experts in groups of two.
_GROUPS = {"n_routed_experts": 8, "n_group": 4, "topk_group": 2, "num_experts_per_tok": 3}


def _glm4_moe(**changes: Any) -> Any:
    from transformers import Glm4MoeConfig

    experts = {"n_routed_experts": 7, "num_experts_per_tok": 3, "moe_intermediate_size": 37, "head_dim": 20}
    return Glm4MoeConfig(**base(**{**experts, "routed_scaling_factor": 2.5, **changes}))


def _dots1(**changes: Any) -> Any:
    from transformers import Dots1Config

    experts = {"n_routed_experts": 7, "num_experts_per_tok": 3, "moe_intermediate_size": 37, "n_shared_experts": 2}
    return Dots1Config(**base(**{**experts, "head_dim": 22, "routed_scaling_factor": 2.5, **changes}))


def _solar_open(**changes: Any) -> Any:
    from transformers import SolarOpenConfig

    experts = {"n_routed_experts": 7, "num_experts_per_tok": 3, "moe_intermediate_size": 37, "head_dim": 22}
    return SolarOpenConfig(**base(**{**experts, **changes}))


def _minimax_m2(**changes: Any) -> Any:
    from transformers import MiniMaxM2Config

    experts = {"num_local_experts": 7, "num_experts_per_tok": 3, "intermediate_size": 37, "head_dim": 20}
    return MiniMaxM2Config(**base(**{**experts, **changes}))


def _hy_v3(**changes: Any) -> Any:
    from transformers import HYV3Config

    experts = {"num_experts": 7, "num_experts_per_tok": 3, "moe_intermediate_size": 37, "head_dim": 22}
    return HYV3Config(**base(**{**experts, **changes}))


def _exaone_moe(**changes: Any) -> Any:
    from transformers import ExaoneMoeConfig

    experts = {"num_experts": 7, "num_experts_per_tok": 3, "moe_intermediate_size": 37, "head_dim": 22}
    window = {"sliding_window": 29, "sliding_window_pattern": 2}
    return ExaoneMoeConfig(**base(**{**experts, **window, **changes}))


def _afmoe(**changes: Any) -> Any:
    from transformers import AfmoeConfig

    experts = {"num_experts": 7, "num_experts_per_tok": 3, "moe_intermediate_size": 37, "head_dim": 22}
    window = {"sliding_window": 29, "global_attn_every_n_layers": 2}
    return AfmoeConfig(**base(**{**experts, **window, "route_scale": 2.826, **changes}))


def _cohere2_moe(**changes: Any) -> Any:
    from transformers import Cohere2MoeConfig

    experts = {"num_experts": 7, "num_experts_per_tok": 3, "intermediate_size": 37, "head_dim": 22}
    window = {"sliding_window": 29, "sliding_window_pattern": 2, "logit_scale": 0.25}
    return Cohere2MoeConfig(**base(**{**experts, **window, **changes}))


def _gpt_oss(**changes: Any) -> Any:
    from transformers import GptOssConfig

    experts = {"num_local_experts": 7, "num_experts_per_tok": 3, "intermediate_size": 37, "head_dim": 22}
    scaled = rope("yarn", factor=8.0, original_max_position_embeddings=64, truncate=False)
    return GptOssConfig(**base(**{**experts, "sliding_window": 29, "rope_parameters": scaled, **changes}))


def _llama4_text(**changes: Any) -> Any:
    from transformers import Llama4TextConfig

    experts = {"num_local_experts": 7, "intermediate_size": 37, "intermediate_size_mlp": 53, "head_dim": 22}
    far = {"attention_chunk_size": 31, "no_rope_layer_interval": 2, "floor_scale": 17, "attn_scale": 0.7}
    return Llama4TextConfig(**base(**{**experts, **far, **changes}))


def _far_gpt_oss(original: int) -> Any:
    return _gpt_oss(num_hidden_layers=2, sliding_window=1000, **extended("yarn", original, truncate=False))


def _far_llama4(original: int) -> Any:
    scaling = extended("llama3", original, low_freq_factor=1.0, high_freq_factor=4.0)
    return _llama4_text(num_hidden_layers=4, attention_chunk_size=1000, **scaling)


CONFIGS: dict[str, Callable[[], Any]] = {
    "long-glm4_moe": lambda: _glm4_moe(num_hidden_layers=2, max_position_embeddings=8192),
    "long-afmoe-window": lambda: _afmoe(num_hidden_layers=2, max_position_embeddings=8192, sliding_window=1000),
    # Beyond the length before extension, and within it.
    "long-gpt_oss-extended": lambda: _far_gpt_oss(1024),
    "long-gpt_oss-within": lambda: _far_gpt_oss(4096),
    "long-llama4_text-extended": lambda: _far_llama4(1024),
    "long-llama4_text-within": lambda: _far_llama4(8192),
    "glm4_moe": lambda: _glm4_moe(attention_bias=True, use_qk_norm=True),
    "glm4_moe-groups-tied": lambda: _glm4_moe(
        **_GROUPS, num_hidden_layers=4, first_k_dense_replace=2, norm_topk_prob=False, tie_word_embeddings=True
    ),
    "glm4_moe-fused": lambda: _glm4_moe(n_shared_experts=2, rope_parameters=rope("default", partial_rotary_factor=0.3)),
    "dots1": lambda: _dots1(first_k_dense_replace=1, norm_topk_prob=True, attention_bias=True),
    "dots1-groups-window-tied": lambda: _dots1(
        **_GROUPS, sliding_window=29, max_window_layers=1, tie_word_embeddings=True
    ),
    "dots1-fused": lambda: _dots1(norm_topk_prob=True, num_key_value_heads=1),
    "solar_open": lambda: _solar_open(attention_bias=True),
    "solar_open-groups-yarn-tied": lambda: _solar_open(
        **_GROUPS,
        tie_word_embeddings=True,
        norm_topk_prob=False,
        rope_parameters=rope("yarn", factor=2.0, original_max_position_embeddings=64),
    ),
    "solar_open-fused": lambda: _solar_open(num_key_value_heads=6, n_shared_experts=2),
    "minimax_m2": lambda: _minimax_m2(rotary_dim=8),
    "minimax_m2-tied": lambda: _minimax_m2(tie_word_embeddings=True, num_key_value_heads=1),
    "minimax_m2-fused": lambda: _minimax_m2(rotary_dim=10, num_key_value_heads=6),
    "hy_v3": _hy_v3,
    "hy_v3-biases-tied": lambda: _hy_v3(
        attention_bias=True, mlp_bias=True, tie_word_embeddings=True, mlp_layer_types=["sparse", "dense", "sparse"]
    ),
    "hy_v3-fused": lambda: _hy_v3(num_shared_experts=2, router_scaling_factor=0.7),
    "exaone_moe": _exaone_moe,
    "exaone_moe-groups-tied": lambda: _exaone_moe(
        num_experts=8,
        n_group=2,
        topk_group=1,
        num_hidden_layers=4,
        first_k_dense_replace=2,
        norm_topk_prob=False,
        tie_word_embeddings=True,
    ),
    "exaone_moe-fused": lambda: _exaone_moe(num_shared_experts=2, layer_types=["full_attention"] * 3),
    "afmoe": lambda: _afmoe(mup_enabled=True),
    "afmoe-biases-tied": lambda: _afmoe(
        attention_bias=True, tie_word_embeddings=True, num_hidden_layers=4, num_dense_layers=2, num_key_value_heads=6
    ),
    "afmoe-fused": lambda: _afmoe(num_shared_experts=1, num_dense_layers=0),
    "cohere2_moe-tied": _cohere2_moe,
    "cohere2_moe-sigmoid-dense": lambda: _cohere2_moe(
        expert_selection_fn="sigmoid",
        rms_norm_eps=1e-6,
        num_shared_experts=2,
        shared_expert_combination_strategy="sum",
        num_hidden_layers=4,
        first_k_dense_replace=1,
        prefix_dense_intermediate_size=53,
        tie_word_embeddings=False,
        attention_bias=True,
    ),
    "cohere2_moe-average-tied": lambda: _cohere2_moe(
        num_shared_experts=1, first_k_dense_replace=2, num_hidden_layers=4, prefix_dense_sliding_window_pattern=2
    ),
    "cohere2_moe-fused": lambda: _cohere2_moe(
        expert_selection_fn="sigmoid", norm_topk_prob=False, num_shared_experts=1, tie_word_embeddings=False
    ),
    "gpt_oss": _gpt_oss,
    "gpt_oss-tied": lambda: _gpt_oss(
        rope_parameters=rope("default"), attention_bias=False, tie_word_embeddings=True, num_key_value_heads=6
    ),
    "llama4_text": lambda: _llama4_text(num_hidden_layers=4),
    "llama4_text-dense-tied": lambda: _llama4_text(
        num_hidden_layers=4,
        interleave_moe_layer_step=2,
        use_qk_norm=False,
        attn_temperature_tuning=False,
        attention_bias=True,
        tie_word_embeddings=True,
        rope_parameters=rope(
            "llama3", factor=16.0, low_freq_factor=1.0, high_freq_factor=1.0, original_max_position_embeddings=64
        ),
    ),
}
