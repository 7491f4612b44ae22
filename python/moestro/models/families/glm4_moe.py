"""glm4_moe: sigmoid routing by groups after the first dense layers; half of each head is rotated."""

from __future__ import annotations

from dataclasses import replace

from moestro.models.config_reader import ConfigReader
from moestro.models.families.common import num_layers, predicts_further, read_common
from moestro.models.families.moe_keys import (
    dense_first,
    read_num_experts,
    read_shared,
    read_sigmoid_router,
    read_top_k,
)
from moestro.models.family import Family
from moestro.models.spec import ModelSpec, MoeSpec


def _read(config: ConfigReader) -> ModelSpec:
    count, experts, width = num_layers(config), read_num_experts(config), config.integer("moe_intermediate_size")
    moe = MoeSpec(
        experts,
        read_top_k(config, experts),
        width,
        config.flag("norm_topk_prob", True),
        router=read_sigmoid_router(config, experts),
        shared=read_shared(config, width),
    )
    spec = read_common(
        config,
        model_type="glm4_moe",
        mlps=dense_first(config, count, moe, default=1),
        windows=[None] * count,
        rms_norm_eps=1e-5,
        partial_rotary=0.5,
        qk_norm=config.flag("use_qk_norm", False),
        attention_bias=config.flag("attention_bias", False),
        o_bias=False,
    )
    return replace(spec, predicts_further=predicts_further(config, "num_mtp_layers", default=1))


FAMILY = Family(
    "glm4_moe",
    ("Glm4MoeForCausalLM",),
    _read,
    "sigmoid routing by groups, a shared expert, dense layers first; half of each head is rotated",
    examples="GLM-4.5, 4.6",
)
