"""flex_olmo: norms stand after attention and mixture only; queries and keys are normed over all heads together."""

from __future__ import annotations

from dataclasses import replace

from moestro.models.config_reader import ConfigReader
from moestro.models.families.common import num_layers, read_common
from moestro.models.families.moe_keys import read_num_experts, read_top_k
from moestro.models.family import Family
from moestro.models.spec import ModelSpec, MoeSpec


def _read(config: ConfigReader) -> ModelSpec:
    count, experts = num_layers(config), read_num_experts(config)
    moe = MoeSpec(
        experts,
        read_top_k(config, experts),
        config.integer("intermediate_size"),
        config.flag("norm_topk_prob", False),
    )
    spec = read_common(
        config,
        model_type="flex_olmo",
        mlps=[moe] * count,
        windows=[None] * count,
        rms_norm_eps=1e-6,
        rope_theta=5e5,
        qk_norm=True,
        attention_bias=config.flag("attention_bias", False),
    )
    return replace(spec, block="post", qk_norm_kind="whole")


FAMILY = Family(
    "flex_olmo",
    ("FlexOlmoForCausalLM",),
    _read,
    "norms after attention and mixture only; queries and keys normed over all heads together",
    names={
        "attention_out_norm": "post_attention_layernorm.weight",
        "mlp_out_norm": "post_feedforward_layernorm.weight",
    },
    examples="FlexOlmo",
)
