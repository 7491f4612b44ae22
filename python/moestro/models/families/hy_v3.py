"""hy_v3: sigmoid routing with a correction, without groups, a shared expert, a dense layer first; query and key heads
normed."""

from __future__ import annotations

from dataclasses import replace

from moestro.models.config_reader import ConfigReader
from moestro.models.families.common import expect, num_layers, predicts_further, read_common
from moestro.models.families.moe_keys import dense_first, read_num_experts, read_top_k
from moestro.models.family import Family
from moestro.models.spec import ModelSpec, MoeSpec, RouterSpec, SharedSpec


def _read(config: ConfigReader) -> ModelSpec:
    count, experts, width = num_layers(config), read_num_experts(config), config.integer("moe_intermediate_size")
    _take_what_changes_nothing(config, width)
    moe = MoeSpec(
        experts,
        read_top_k(config, experts),
        width,
        norm_topk_prob=True,
        router=RouterSpec(
            score="sigmoid",
            correction=True,
            norm_eps=1e-20,
            scale=config.number("router_scaling_factor", 2.826),
        ),
        shared=SharedSpec(config.integer("num_shared_experts", 1) * width),
    )
    spec = read_common(
        config,
        model_type="hy_v3",
        mlps=dense_first(config, count, moe, default=1),
        windows=[None] * count,
        head_dim=128,
        rms_norm_eps=1e-5,
        rope_theta=11158840.0,
        qk_norm=True,
        attention_bias=config.flag("attention_bias", False),
        mlp_bias=config.flag("mlp_bias", False),
    )
    return replace(spec, predicts_further=predicts_further(config))


def _take_what_changes_nothing(config: ConfigReader, width: int) -> None:
    expect(config, "expert_hidden_dim", width)
    for key in ("qk_norm", "route_norm", "moe_router_enable_expert_bias", "moe_router_use_sigmoid"):
        expect(config, key, True)
    # What is computed in float32 in a model of half precision; here it always is.
    for key in ("enable_moe_fp32_combine", "enable_lm_head_fp32", "enable_attention_fp32_softmax"):
        config.take(key, None)
    config.take("use_grouped_mm", None)  # which kernel


FAMILY = Family(
    "hy_v3",
    ("HYV3ForCausalLM",),
    _read,
    "sigmoid routing, a shared expert, a dense layer first; query and key heads normed",
    names={
        "router": ("mlp.router.gate.weight", "mlp.gate.weight"),
        "router_correction": ("mlp.expert_bias", "mlp.e_score_correction_bias"),
        **{
            f"shared_{part}": (f"mlp.shared_mlp.{part}_proj.weight", f"mlp.shared_experts.{part}_proj.weight")
            for part in ("gate", "up", "down")
        },
    },
    examples="Hy3",
)
