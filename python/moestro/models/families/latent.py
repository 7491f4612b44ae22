"""What families with multi-head latent attention share: their own keys, and the mixture of DeepSeek V3 and its kin."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from moestro.models.config_reader import ConfigReader
from moestro.models.families.common import num_layers, read_common
from moestro.models.families.moe_keys import (
    dense_first,
    read_num_experts,
    read_shared,
    read_sigmoid_router,
    read_top_k,
)
from moestro.models.rope_config import read_rope
from moestro.models.spec import DenseSpec, MlaSpec, ModelSpec, MoeSpec, RopeSpec

# Tensors of the part that picks which tokens a sparse attention sees.
INDEXER = r"self_attn\.indexer\..*"


def read_latent(
    config: ConfigReader,
    *,
    model_type: str,
    mlps: Sequence[DenseSpec | MoeSpec],
    q_lora_rank: int,
    rms_norm_eps: float = 1e-6,
    mlp_bias: bool = False,
    full_attention: str = "full_attention",
) -> ModelSpec:
    """The ModelSpec from the keys of these families. q_lora_rank: where the key is missing; null means that queries
    come from the hidden state directly. full_attention: what layer_types calls every layer.
    """
    mla = MlaSpec(
        kv_lora_rank=config.integer("kv_lora_rank"),
        qk_nope_head_dim=config.integer("qk_nope_head_dim"),
        qk_rope_head_dim=config.integer("qk_rope_head_dim", low=4),
        v_head_dim=config.integer("v_head_dim"),
        q_lora_rank=config.integer("q_lora_rank", None if config.has("q_lora_rank") else q_lora_rank),
    )
    if mla.kv_lora_rank % 2:
        raise config.wrong("kv_lora_rank", mla.kv_lora_rank, "an even number")
    _take_what_changes_nothing(config)
    spec = read_common(
        config,
        model_type=model_type,
        mlps=mlps,
        windows=[None] * len(mlps),
        head_dim=mla.qk_rope_head_dim,
        rms_norm_eps=rms_norm_eps,
        rope=read_rope(config, 1e4, config.integer("max_position_embeddings"), head_dim=mla.qk_rope_head_dim),
        attention_bias=config.flag("attention_bias", False),
        mlp_bias=mlp_bias,
        full_attention=full_attention,
    )
    if spec.num_kv_heads != spec.num_heads:
        raise config.wrong("num_key_value_heads", spec.num_kv_heads, f"num_attention_heads = {spec.num_heads}")
    return replace(
        spec,
        num_kv_heads=1,
        head_dim=mla.kv_lora_rank + mla.qk_rope_head_dim,
        attention_scale=_attention_scale(spec.rope, mla),
        rope_pairs=_read_rope_interleave(config),
        mla=mla,
    )


def read_deepseek_v3(
    config: ConfigReader,
    *,
    model_type: str,
    q_lora_rank: int,
    dense: int,
    scale: float,
    groups: int = 1,
    kept: int = 1,
    rms_norm_eps: float = 1e-6,
    full_attention: str = "full_attention",
) -> ModelSpec:
    """The ModelSpec of deepseek_v3 and its kin; what is given are the family's defaults."""
    experts, width = read_num_experts(config), config.integer("moe_intermediate_size")
    # Transformers looks at neither; nothing else has been published under these types.
    config.choice("scoring_func", ("sigmoid",), "sigmoid")
    config.choice("topk_method", ("noaux_tc",), "noaux_tc")
    moe = MoeSpec(
        experts,
        read_top_k(config, experts),
        width,
        config.flag("norm_topk_prob", True),
        router=read_sigmoid_router(config, experts, scale=scale, groups=groups, kept=kept),
        shared=read_shared(config, width),
    )
    spec = read_latent(
        config,
        model_type=model_type,
        mlps=dense_first(config, num_layers(config), moe, default=dense),
        q_lora_rank=q_lora_rank,
        rms_norm_eps=rms_norm_eps,
        full_attention=full_attention,
    )
    return replace(spec, predicts_further=True)


def within_index(config: ConfigReader, spec: ModelSpec) -> ModelSpec:
    """For attention that sees `index_topk` tokens at most, those an indexer picks: up to so many it picks all, and the
    rest of the indexer changes nothing."""
    for key in (
        *("index_head_dim", "index_n_heads", "index_topk_freq", "index_topk_pattern", "index_skip_topk_offset"),
        *("indexer_types", "indexer_rope_interleave", "index_share_for_mtp_iteration"),
    ):
        config.take(key, None)
    if not spec.rope_pairs:
        raise config.wrong("rope_interleave", False, "true, whatever the indexer does")
    return replace(spec, dense_context=config.integer("index_topk", 2048))


def _read_rope_interleave(config: ConfigReader) -> bool:
    """Null switches it off."""
    return config.flag("rope_interleave", not config.has("rope_interleave"))


def _attention_scale(rope: RopeSpec, mla: MlaSpec) -> float:
    """In the order in which transformers rounds it."""
    scale: float = (mla.qk_nope_head_dim + mla.qk_rope_head_dim) ** -0.5
    if not rope.mscale_all_dim or rope.factor <= 1:
        return scale
    mscale = 0.1 * rope.mscale_all_dim * math.log(rope.factor) + 1.0
    return scale * mscale * mscale


def _take_what_changes_nothing(config: ConfigReader) -> None:
    # Training; how many machines held the experts; routers compute in float32 anyway; the sum of two other sizes.
    for key in ("aux_loss_alpha", "seq_aux", "ep_size", "moe_router_dtype", "qk_head_dim"):
        config.take(key, None)
    # Layers that guess the tokens after the next.
    config.integer(config.one_of("num_nextn_predict_layers", "num_mtp_layers"), 0, low=0)
    every = config.take("moe_layer_freq", 1)
    if every != 1:
        raise config.wrong("moe_layer_freq", every, "1: every layer after the dense ones is a mixture")
