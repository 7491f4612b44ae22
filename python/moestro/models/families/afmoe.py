"""afmoe: norms before and after attention and mlp, a gate on the heads' outputs, sigmoid routing after the first dense
layers; layers with a sliding window are rotated, the others see no positions."""

from __future__ import annotations

from dataclasses import replace

from moestro.models.config_reader import ConfigReader
from moestro.models.families.common import (
    all_but_every,
    expect,
    num_layers,
    read_common,
    read_window,
    typed_windows,
)
from moestro.models.families.moe_keys import dense_first, read_num_experts, read_shared, read_top_k
from moestro.models.family import Family
from moestro.models.spec import ModelSpec, MoeSpec, RouterSpec


def _read(config: ConfigReader) -> ModelSpec:
    count, experts, width = num_layers(config), read_num_experts(config), config.integer("moe_intermediate_size")
    _take_what_changes_nothing(config)
    moe = MoeSpec(
        experts,
        read_top_k(config, experts),
        width,
        norm_topk_prob=True,
        router=RouterSpec(score="sigmoid", correction=True, norm_eps=1e-20, scale=config.number("route_scale", 1.0)),
        shared=read_shared(config, width, key="num_shared_experts", default=2),
    )
    sliding = all_but_every(count, config.integer("global_attn_every_n_layers", 4))
    windows = typed_windows(config, sliding, read_window(config, 1024))
    spec = read_common(
        config,
        model_type="afmoe",
        mlps=dense_first(config, count, moe, default=1, key="num_dense_layers"),
        windows=windows,
        rotary=[window is not None for window in windows],
        head_dim=128,
        rms_norm_eps=1e-5,
        qk_norm=True,
        attention_bias=config.flag("attention_bias", False),
    )
    scaled = config.flag("mup_enabled", False)
    return replace(
        spec,
        block="sandwich",
        attention_gate=True,
        embedding_multiplier=spec.hidden_size**0.5 if scaled else 1.0,
    )


def _take_what_changes_nothing(config: ConfigReader) -> None:
    expect(config, "score_func", "sigmoid")
    expect(config, "route_norm", True)
    for key in ("n_group", "topk_group", "num_expert_groups", "num_limited_groups"):
        expect(config, key, 1)
    config.take("load_balance_coeff", None)  # training
    config.take("use_grouped_mm", None)  # which kernel


FAMILY = Family(
    "afmoe",
    ("AfmoeForCausalLM",),
    _read,
    "norms before and after attention and mlp, gated heads, sigmoid routing; layers without a window see no positions",
    names={
        "attention_out_norm": "post_attention_layernorm.weight",
        "post_attention_norm": "pre_mlp_layernorm.weight",
        "mlp_out_norm": "post_mlp_layernorm.weight",
        "attention_gate": "self_attn.gate_proj.weight",
        "router": "mlp.router.gate.weight",
        "router_correction": "mlp.expert_bias",
    },
    examples="Trinity",
)
