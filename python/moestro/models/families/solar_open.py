"""solar_open: every layer is a mixture with a shared expert, routed by the sigmoid; plain grouped-query attention."""

from __future__ import annotations

from moestro.models.config_reader import ConfigReader
from moestro.models.families.common import expect, num_layers, read_common
from moestro.models.families.moe_keys import read_num_experts, read_shared, read_sigmoid_router, read_top_k
from moestro.models.family import Family
from moestro.models.spec import ModelSpec, MoeSpec


def _read(config: ConfigReader) -> ModelSpec:
    count, experts, width = num_layers(config), read_num_experts(config), config.integer("moe_intermediate_size")
    expect(config, "first_k_dense_replace", 0)
    expect(config, "use_qk_norm", False)
    config.take("intermediate_size", None)  # of dense layers, of which there are none
    moe = MoeSpec(
        experts,
        read_top_k(config, experts),
        width,
        config.flag("norm_topk_prob", True),
        router=read_sigmoid_router(config, experts),
        shared=read_shared(config, width),
    )
    return read_common(
        config,
        model_type="solar_open",
        mlps=[moe] * count,
        windows=[None] * count,
        head_dim=128,
        rms_norm_eps=1e-5,
        rope_theta=1e6,
        partial_rotary=1.0,
        attention_bias=config.flag("attention_bias", False),
        o_bias=False,
    )


FAMILY = Family(
    "solar_open",
    ("SolarOpenForCausalLM",),
    _read,
    "every layer is a mixture with a shared expert, routed by the sigmoid by groups",
    examples="Solar Open",
)
