"""Tiny configs of the families with multi-head latent attention."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tiny_configs.common import base, extended, rope


def _latent(**changes: Any) -> dict[str, Any]:
    sizes = {
        "num_key_value_heads": 6,
        "moe_intermediate_size": 37,
        "n_routed_experts": 9,
        "num_experts_per_tok": 3,
        "n_shared_experts": 1,
        "first_k_dense_replace": 1,
        "q_lora_rank": 33,
        "kv_lora_rank": 46,
        "qk_nope_head_dim": 11,
        "qk_rope_head_dim": 10,
        "v_head_dim": 13,
    }
    return base(**{**sizes, **changes})


def _yarn(**settings: Any) -> dict[str, Any]:
    return rope("yarn", factor=8.0, original_max_position_embeddings=64, **settings)


def _extended(original: int) -> dict[str, Any]:
    return extended("yarn", original, mscale_all_dim=0.7)


def _deepseek_v3(**changes: Any) -> Any:
    from transformers import DeepseekV3Config

    return DeepseekV3Config(**_latent(**{"n_group": 3, "topk_group": 2, **changes}))


def _deepseek_v2(**changes: Any) -> Any:
    from transformers import DeepseekV2Config

    # Its embedding takes neighbours for complex numbers, which torch wants at even places.
    return DeepseekV2Config(**_latent(**{"hidden_size": 66, "qk_nope_head_dim": 12, **changes}))


def _glm4_moe_lite(**changes: Any) -> Any:
    from transformers import Glm4MoeLiteConfig

    return Glm4MoeLiteConfig(**_latent(**changes))


def _deepseek_v32(**changes: Any) -> Any:
    from transformers import DeepseekV32Config

    indexer = {"n_group": 3, "topk_group": 1, "index_topk": 256, "index_head_dim": 14, "index_n_heads": 3}
    return DeepseekV32Config(**_latent(**{**indexer, **changes}))


def _glm_moe_dsa(**changes: Any) -> Any:
    from transformers import GlmMoeDsaConfig

    return GlmMoeDsaConfig(**_latent(**{"index_topk": 256, "index_head_dim": 14, "index_n_heads": 5, **changes}))


CONFIGS: dict[str, Callable[[], Any]] = {
    # Beyond the length before extension, and within it.
    "long-deepseek_v3-extended": lambda: _deepseek_v3(num_hidden_layers=2, **_extended(1024)),
    "long-deepseek_v3-within": lambda: _deepseek_v3(num_hidden_layers=2, **_extended(4096)),
    "deepseek_v3": _deepseek_v3,
    # As Moonlight has it: no groups, queries straight from the hidden state.
    "deepseek_v3-no-query-latent-tied": lambda: _deepseek_v3(
        q_lora_rank=None,
        n_group=1,
        topk_group=1,
        n_shared_experts=2,
        norm_topk_prob=False,
        routed_scaling_factor=2.446,
        tie_word_embeddings=True,
    ),
    "deepseek_v3-yarn-biases": lambda: _deepseek_v3(
        num_hidden_layers=2, attention_bias=True, rope_parameters=_yarn(mscale=1.0, mscale_all_dim=0.7)
    ),
    "deepseek_v3-fused-halves": lambda: _deepseek_v3(rope_interleave=False, num_experts_per_tok=5, v_head_dim=32),
    "deepseek_v2": lambda: _deepseek_v2(q_lora_rank=None, n_shared_experts=2),
    "deepseek_v2-groups-yarn-tied": lambda: _deepseek_v2(
        topk_method="group_limited_greedy",
        n_group=3,
        topk_group=2,
        routed_scaling_factor=16.0,
        rope_parameters=_yarn(mscale=0.707, mscale_all_dim=0.707),
        tie_word_embeddings=True,
    ),
    "deepseek_v2-fused-biases": lambda: _deepseek_v2(
        attention_bias=True, mlp_bias=True, first_k_dense_replace=2, norm_topk_prob=True
    ),
    "glm4_moe_lite": _glm4_moe_lite,
    "glm4_moe_lite-fused-tied": lambda: _glm4_moe_lite(
        num_hidden_layers=4,
        mlp_layer_types=["dense", "sparse", "dense", "sparse"],
        attention_bias=True,
        tie_word_embeddings=True,
        num_attention_heads=5,
        num_key_value_heads=5,
    ),
    "deepseek_v32": lambda: _deepseek_v32(rope_parameters=_yarn(mscale=1.0, mscale_all_dim=1.0)),
    "deepseek_v32-fused-tied": lambda: _deepseek_v32(
        attention_bias=True, first_k_dense_replace=0, n_shared_experts=2, tie_word_embeddings=True
    ),
    "glm_moe_dsa": _glm_moe_dsa,
    "glm_moe_dsa-fused-shared-indexer-tied": lambda: _glm_moe_dsa(
        num_hidden_layers=4, indexer_types=["full", "shared", "full", "shared"], tie_word_embeddings=True
    ),
}
