"""Families whose routers take a softmax, and the Gemma ones."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tiny_configs.common import base, rope


def _qwen2_moe(**changes: Any) -> Any:
    from transformers import Qwen2MoeConfig

    experts = {"num_experts": 7, "num_experts_per_tok": 3, "moe_intermediate_size": 37}
    shared = {"shared_expert_intermediate_size": 45, "hidden_size": 84}
    return Qwen2MoeConfig(**base(**{**experts, **shared, **changes}))


def _olmoe(**changes: Any) -> Any:
    from transformers import OlmoeConfig

    experts = {"num_experts": 7, "num_experts_per_tok": 3, "intermediate_size": 37, "hidden_size": 84}
    return OlmoeConfig(**base(**{**experts, "pad_token_id": 0, **changes}))


def _flex_olmo(**changes: Any) -> Any:
    from transformers import FlexOlmoConfig

    experts = {"num_experts": 5, "num_experts_per_tok": 2, "intermediate_size": 41, "hidden_size": 84}
    return FlexOlmoConfig(**base(**{**experts, "pad_token_id": 0, **changes}))


def _granite(**changes: Any) -> dict[str, Any]:
    experts = {"num_local_experts": 6, "num_experts_per_tok": 3, "intermediate_size": 39, "hidden_size": 84}
    factors = {
        "embedding_multiplier": 1.7,
        "attention_multiplier": 0.21,
        "residual_multiplier": 0.6,
        "logits_scaling": 2.3,
    }
    return base(**{**experts, **factors, **changes})


def _granitemoe(**changes: Any) -> Any:
    from transformers import GraniteMoeConfig

    return GraniteMoeConfig(**_granite(**changes))


def _granitemoeshared(**changes: Any) -> Any:
    from transformers import GraniteMoeSharedConfig

    return GraniteMoeSharedConfig(**_granite(**{"shared_intermediate_size": 27, **changes}))


def _gemma2(**changes: Any) -> Any:
    from transformers import Gemma2Config

    heads = {"hidden_size": 84, "head_dim": 18, "query_pre_attn_scalar": 23, "sliding_window": 27}
    return Gemma2Config(**base(**{**heads, "num_hidden_layers": 4, **changes}))


def _gemma3(**changes: Any) -> Any:
    from transformers import Gemma3TextConfig

    heads = {"hidden_size": 84, "head_dim": 18, "query_pre_attn_scalar": 23, "sliding_window": 27}
    return Gemma3TextConfig(**base(**{**heads, "num_hidden_layers": 5, "sliding_window_pattern": 3, **changes}))


def _gemma3_towers() -> Any:
    from transformers import Gemma3Config

    vision = {
        "model_type": "siglip_vision_model",
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "image_size": 28,
        "patch_size": 14,
    }
    tokens = {"boi_token_index": 128, "eoi_token_index": 129, "image_token_index": 130}
    return Gemma3Config(text_config=_gemma3(), vision_config=vision, mm_tokens_per_image=4, **tokens)


def _mellum(**changes: Any) -> Any:
    from transformers import MellumConfig

    experts = {"num_experts": 7, "num_experts_per_tok": 3, "moe_intermediate_size": 37, "head_dim": 22}
    kinds = {
        "num_hidden_layers": 4,
        "layer_types": ["sliding_attention", "full_attention"] * 2,
        "sliding_window": 31,
        "rope_parameters": {
            "full_attention": rope("yarn", factor=8.0, original_max_position_embeddings=64),
            "sliding_attention": {"rope_type": "default", "rope_theta": 500.0},
        },
    }
    return MellumConfig(**base(**{**experts, **kinds, **changes}))


def _hunyuan_v1_moe(**changes: Any) -> Any:
    from transformers import HunYuanMoEV1Config

    experts = {"num_experts": 6, "moe_topk": 2, "intermediate_size": 39, "head_dim": 18}
    return HunYuanMoEV1Config(**base(**{**experts, **changes}))


def _ernie4_5_moe(**changes: Any) -> Any:
    from transformers import Ernie4_5_MoeConfig

    experts = {"moe_num_experts": 7, "moe_k": 3, "moe_intermediate_size": 37, "hidden_size": 84}
    return Ernie4_5_MoeConfig(**base(**{**experts, **changes}))


def _phimoe(**changes: Any) -> Any:
    from transformers import PhimoeConfig

    # So much noise that experts within reach of the best one take part in its weight.
    experts = {"num_local_experts": 6, "intermediate_size": 39, "hidden_size": 84, "router_jitter_noise": 0.3}
    return PhimoeConfig(**base(**{**experts, **changes}))


def _phimoe_longrope(**changes: Any) -> Any:
    scaling = rope(
        "longrope",
        short_factor=[1.0, 1.02, 1.05, 1.1, 1.2, 1.3, 1.5],
        long_factor=[1.1, 1.3, 1.7, 2.5, 4.0, 7.0, 12.0],
        short_mscale=1.24,
        long_mscale=1.24,
        original_max_position_embeddings=60,
    )
    return _phimoe(rope_parameters=scaling, attention_bias=True, lm_head_bias=True, **changes)


def _dbrx(*, heads: int = 2, clip: float = 8.0, weights: float | None = 1.0) -> Any:
    from transformers import DbrxConfig

    return DbrxConfig(
        d_model=84,
        n_heads=6,
        n_layers=3,
        max_seq_len=512,
        vocab_size=131,
        initializer_range=0.25,
        attn_config={"kv_n_heads": heads, "clip_qkv": clip, "rope_theta": 700.0},
        ffn_config={
            "ffn_hidden_size": 37,
            "moe_num_experts": 6,
            "moe_top_k": 3,
            "moe_normalize_expert_weights": weights,
        },
        rope_parameters={"rope_type": "default", "rope_theta": 700.0},
    )


CONFIGS: dict[str, Callable[[], Any]] = {
    "long-qwen2_moe-window": lambda: _qwen2_moe(
        num_hidden_layers=2,
        max_position_embeddings=8192,
        use_sliding_window=True,
        sliding_window=1000,
        max_window_layers=1,
    ),
    "long-granitemoeshared-dynamic": lambda: _granitemoeshared(
        num_hidden_layers=2, max_position_embeddings=2048, rope_parameters=rope("dynamic", factor=2.0)
    ),
    "long-gemma3_text": lambda: _gemma3(
        num_hidden_layers=2,
        max_position_embeddings=8192,
        sliding_window=1000,
        layer_types=["sliding_attention", "full_attention"],
        rope_parameters={
            "full_attention": rope("linear", factor=8.0, rope_theta=1e6),
            "sliding_attention": rope("default"),
        },
    ),
    "qwen2_moe": _qwen2_moe,
    "qwen2_moe-fused-norm-no-biases": lambda: _qwen2_moe(norm_topk_prob=True, qkv_bias=False),
    "qwen2_moe-window-dense-tied": lambda: _qwen2_moe(
        num_hidden_layers=5,
        mlp_only_layers=[2],
        use_sliding_window=True,
        sliding_window=29,
        max_window_layers=3,
        tie_word_embeddings=True,
        num_key_value_heads=1,
    ),
    "qwen2_moe-every-second": lambda: _qwen2_moe(num_hidden_layers=4, decoder_sparse_step=2, num_key_value_heads=6),
    "olmoe": _olmoe,
    "olmoe-clip-norm-biases-tied": lambda: _olmoe(
        clip_qkv=0.7, norm_topk_prob=True, attention_bias=True, tie_word_embeddings=True, num_key_value_heads=6
    ),
    "olmoe-fused-linear": lambda: _olmoe(
        clip_qkv=1.1, num_key_value_heads=1, rope_parameters=rope("linear", factor=3.0)
    ),
    "granitemoe": _granitemoe,
    "granitemoe-fused-biases-tied": lambda: _granitemoe(
        attention_bias=True, tie_word_embeddings=True, num_key_value_heads=1
    ),
    "granitemoe-plain": lambda: _granitemoe(
        embedding_multiplier=1.0, attention_multiplier=0.25, residual_multiplier=1.0, logits_scaling=1.0
    ),
    "granitemoeshared": _granitemoeshared,
    "granitemoeshared-fused-tied": lambda: _granitemoeshared(tie_word_embeddings=True, num_key_value_heads=6),
    "granitemoeshared-none": lambda: _granitemoeshared(shared_intermediate_size=0),
    "flex_olmo": _flex_olmo,
    "flex_olmo-fused-norm-biases-tied": lambda: _flex_olmo(
        norm_topk_prob=True, attention_bias=True, tie_word_embeddings=True, num_key_value_heads=6
    ),
    "gemma2": lambda: _gemma2(attn_logit_softcapping=5.0, final_logit_softcapping=4.0),
    "gemma2-untied-biases-no-caps": lambda: _gemma2(
        tie_word_embeddings=False,
        attention_bias=True,
        attn_logit_softcapping=None,
        final_logit_softcapping=None,
        num_key_value_heads=1,
    ),
    "gemma3_text": _gemma3,
    "gemma3_text-untied-biases-linear-cap": lambda: _gemma3(
        tie_word_embeddings=False,
        attention_bias=True,
        final_logit_softcapping=4.0,
        num_key_value_heads=1,
        rope_parameters={
            "full_attention": rope("linear", factor=4.0),
            "sliding_attention": {"rope_type": "default", "rope_theta": 300.0},
        },
    ),
    "mellum": _mellum,
    "mellum-fused-dense-biases-tied": lambda: _mellum(
        mlp_layer_types=["sparse", "dense", "sparse", "sparse"],
        attention_bias=True,
        tie_word_embeddings=True,
        norm_topk_prob=False,
        num_key_value_heads=1,
    ),
    "mellum-full": lambda: _mellum(layer_types=None, num_hidden_layers=2, rope_parameters=None),
    "hunyuan_v1_moe": _hunyuan_v1_moe,
    "hunyuan_v1_moe-alpha-tied": lambda: _hunyuan_v1_moe(
        moe_topk=[1, 3, 2],
        tie_word_embeddings=True,
        num_key_value_heads=6,
        rope_parameters=rope("dynamic", alpha=1000.0, factor=1.0, beta_fast=32, beta_slow=1),
    ),
    "hunyuan_v1_moe-fused-biases": lambda: _hunyuan_v1_moe(attention_bias=True, num_key_value_heads=1),
    "ernie4_5_moe": _ernie4_5_moe,
    "ernie4_5_moe-untied-biases": lambda: _ernie4_5_moe(
        tie_word_embeddings=False,
        use_bias=True,
        moe_num_shared_experts=1,
        num_hidden_layers=5,
        moe_layer_start_index=1,
        moe_layer_end_index=3,
        moe_layer_interval=2,
    ),
    "ernie4_5_moe-fused-none-shared": lambda: _ernie4_5_moe(
        moe_num_shared_experts=0, moe_layer_start_index=0, moe_norm_min=0.7, num_key_value_heads=1
    ),
    "phimoe": _phimoe,
    "phimoe-window-longrope": lambda: _phimoe_longrope(sliding_window=33, num_key_value_heads=1),
    "phimoe-fused-longrope-tied": lambda: _phimoe_longrope(tie_word_embeddings=True, num_key_value_heads=6),
    "dbrx": _dbrx,
    "dbrx-clip": lambda: _dbrx(heads=1, clip=1.3),
    "dbrx-plain-weights": lambda: _dbrx(heads=6, clip=0.9, weights=None),
}

# A vision tower beside the text tower. Tokens from 128 on stand for images.
TOWERS: dict[str, Callable[[], Any]] = {"gemma3": _gemma3_towers, "gemma3-fused": _gemma3_towers}
