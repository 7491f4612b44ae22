"""hunyuan_v1_moe: query and key heads normed after the rotary embedding; a shared expert beside normalised ones."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from moestro.models.config_reader import ConfigReader
from moestro.models.families.common import expect, num_layers, read_common
from moestro.models.families.moe_keys import read_num_experts
from moestro.models.family import LAYER_NAMES, Family, renamed
from moestro.models.rope_config import read_rope, rope_settings
from moestro.models.spec import ModelSpec, MoeSpec, RopeSpec, SharedSpec

# Switches of the code that came with the first checkpoints, for which transformers has no other setting than these.
_FIXED: Mapping[str, Any] = {
    "add_classification_head": False,
    "group_limited_greedy": False,
    "moe_layer_num_skipped": 0,
    "norm_topk_prob": True,
    "position_embedding_xdrope": False,
    "use_cla": False,
    "use_mixed_mlp_moe": True,
    "use_mla": False,
    "use_rotary_pos_emb": True,
}
# And what follows from them, belongs to towers that are not there, or was for training.
_UNUSED = """
    cla_share_factor kv_lora_rank q_lora_rank qk_nope_head_dim qk_rope_head_dim v_head_dim xdrope_section
    n_group topk_group routed_scaling_factor moe_drop_tokens moe_random_routing_dropped_token
    class_num dense_list mask_init_id norm_type org_vocab_size pool_type skip_cls_token num_media_embeds
    anyres_pooling_size anyres_vit_max_image_size anyres_vit_two_views
    vit_add_patchemb_bias vit_input_resolution vit_mapping_type vit_norm_type vit_patch vit_path vit_remove_prenorm
    vit_token vit_type vit_used_rms_norm max_image_size max_vit_seq_len
    eod_token_id pad_id im_end_id im_newline_id im_start_id image_token_id text_end_id text_start_id video_end_id
    video_start_id
"""


def _read(config: ConfigReader) -> ModelSpec:
    for key, value in _FIXED.items():
        expect(config, key, value)
    for key in _UNUSED.split():
        config.take(key, None)
    count, experts, width = num_layers(config), read_num_experts(config), config.integer("intermediate_size")
    expect(config, "moe_intermediate_size", width, [width] * count)  # once, or for every layer
    expect(config, "num_shared_expert", 1, [1] * count)
    config.assume(head_dim=config.integer(config.one_of("head_dim", "attention_head_dim"), None))
    moes = [
        MoeSpec(experts, top_k, width, norm_topk_prob=True, shared=SharedSpec(width))
        for top_k in _top_ks(config, count, experts)
    ]
    spec = read_common(
        config,
        model_type="hunyuan_v1_moe",
        mlps=moes,
        windows=[None] * count,
        rms_norm_eps=1e-5,
        rope=_rope(config),
        qk_norm=True,
        attention_bias=config.flag("attention_bias", False),
    )
    return replace(spec, qk_norm_kind="head_after_rope")


def _top_ks(config: ConfigReader, count: int, experts: int) -> list[int]:
    """Of every layer: one number or a list."""
    key = config.one_of("moe_topk", "num_experts_per_tok")
    value = config.take(key)
    top_ks = value if isinstance(value, list) else [value] * count
    if len(top_ks) != count or any(type(top_k) is not int or not 1 <= top_k <= experts for top_k in top_ks):
        raise config.wrong(key, value, f"a number from 1 to {experts}, or one for each of {count} layers")
    return top_ks


def _rope(config: ConfigReader) -> RopeSpec:
    """Type "dynamic" with an `alpha` means a base stretched once, whatever the length."""
    hidden, heads = config.integer("hidden_size"), config.integer("num_attention_heads")
    dim, longest = config.integer("head_dim", hidden // heads, low=4), config.integer("max_position_embeddings")
    settings = rope_settings(config)
    alpha = settings.number("alpha", 0.0, inclusive=True)
    if alpha:
        settings.assume(factor=1.0)  # which then has no effect
    for unused in ("beta_fast", "beta_slow", "mscale", "mscale_all_dim"):
        settings.take(unused, None)
    rope = read_rope(config, 1e4, longest, head_dim=dim, settings=settings)
    if rope.type != "dynamic" or not alpha:
        return rope
    return RopeSpec(rope.theta * alpha ** (dim / (dim - 2)))


FAMILY = Family(
    "hunyuan_v1_moe",
    ("HunYuanMoEV1ForCausalLM",),
    _read,
    "query and key heads normed after the rotary embedding; a shared expert",
    names={
        **renamed(LAYER_NAMES, "mlp.shared_experts.", "mlp.shared_mlp."),
        "q_norm": "self_attn.query_layernorm.weight",
        "k_norm": "self_attn.key_layernorm.weight",
        "router": "mlp.gate.wg.weight",
    },
    examples="Hunyuan-A13B",
)
