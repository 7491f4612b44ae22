"""deepseek_v2: latent attention; experts chosen by their probability, in some models by groups first; the first layers
are dense."""

from __future__ import annotations

from moestro.models.config_reader import ConfigReader
from moestro.models.families.common import num_layers
from moestro.models.families.latent import read_latent
from moestro.models.families.moe_keys import dense_first, read_groups, read_num_experts, read_shared, read_top_k
from moestro.models.family import Family
from moestro.models.spec import ModelSpec, MoeSpec, RouterSpec


def _read(config: ConfigReader) -> ModelSpec:
    experts, width = read_num_experts(config), config.integer("moe_intermediate_size")
    config.take("norm_topk_prob", None)  # transformers never normalises them
    moe = MoeSpec(
        experts,
        read_top_k(config, experts),
        width,
        norm_topk_prob=False,
        router=_router(config, experts),
        shared=read_shared(config, width, default=2),
    )
    spec = read_latent(
        config,
        model_type="deepseek_v2",
        mlps=dense_first(config, num_layers(config), moe, default=0),
        q_lora_rank=1536,
        mlp_bias=config.flag("mlp_bias", False),
    )
    if not spec.rope_pairs:
        raise config.wrong("rope_interleave", False, "true")
    return spec


def _router(config: ConfigReader, experts: int) -> RouterSpec:
    """A group counts as its best expert."""
    config.choice("scoring_func", ("softmax",), "softmax")
    method = config.choice("topk_method", ("greedy", "group_limited_greedy"), "greedy")
    groups, kept = read_groups(config, experts)
    if method == "greedy":
        groups, kept = 1, 1
    return RouterSpec(groups=groups, kept_groups=kept, scale=config.number("routed_scaling_factor", 1.0))


FAMILY = Family(
    "deepseek_v2",
    ("DeepseekV2ForCausalLM",),
    _read,
    "latent attention; experts chosen by groups in some models; the first layers are dense",
    examples="DeepSeek-V2, V2-Lite, Coder-V2",
)
