"""granitemoe: multipliers on embedding, attention scores, what layers add, and logits; weights are the softmax of the
chosen logits."""

from __future__ import annotations

from dataclasses import replace

from moestro.models.config_reader import ConfigReader
from moestro.models.families.common import num_layers, read_common
from moestro.models.families.moe_keys import read_num_experts, read_top_k
from moestro.models.family import Family, FusedExperts
from moestro.models.spec import ModelSpec, MoeSpec, RouterSpec, SharedSpec

# The published layout, then the fused one of transformers 5.
FUSED_EXPERTS = (
    FusedExperts("block_sparse_moe.input_linear.weight", "block_sparse_moe.output_linear.weight"),
    FusedExperts("block_sparse_moe.experts.gate_up_proj", "block_sparse_moe.experts.down_proj"),
)
NAMES = {"router": ("block_sparse_moe.router.layer.weight", "block_sparse_moe.router.weight")}


def read_granite(config: ConfigReader, model_type: str, shared: SharedSpec | None) -> ModelSpec:
    count, experts = num_layers(config), read_num_experts(config)
    moe = MoeSpec(
        experts,
        read_top_k(config, experts),
        config.integer("intermediate_size"),
        norm_topk_prob=False,  # they add up to one already
        router=RouterSpec(score="chosen"),
        shared=shared,
    )
    spec = read_common(
        config,
        model_type=model_type,
        mlps=[moe] * count,
        windows=[None] * count,
        rms_norm_eps=1e-6,
        attention_bias=config.flag("attention_bias", False),
    )
    return replace(
        spec,
        embedding_multiplier=config.number("embedding_multiplier", 1.0),
        attention_scale=config.number("attention_multiplier", 1.0),
        residual_multiplier=config.number("residual_multiplier", 1.0),
        logit_multiplier=1 / config.number("logits_scaling", 1.0),
    )


def _read(config: ConfigReader) -> ModelSpec:
    return read_granite(config, "granitemoe", None)


FAMILY = Family(
    "granitemoe",
    ("GraniteMoeForCausalLM",),
    _read,
    "multipliers on embedding, attention scores, what layers add, and logits",
    names=NAMES,
    fused_experts=FUSED_EXPERTS,
    single_experts=False,
    examples="Granite 3.0 MoE",
)
