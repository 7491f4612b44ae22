"""phimoe: layer norms, biases on attention and head, two experts chosen one after the other (sparse mixer)."""

from __future__ import annotations

from dataclasses import replace

from moestro.models.config_reader import ConfigReader
from moestro.models.families.common import num_layers, read_common
from moestro.models.families.moe_keys import read_num_experts
from moestro.models.family import Family
from moestro.models.rope_config import read_rope, rope_settings
from moestro.models.spec import ModelSpec, MoeSpec, RopeSpec, RouterSpec

_TOP_K = 2  # whatever num_experts_per_tok says


def _read(config: ConfigReader) -> ModelSpec:
    for unused in ("num_experts_per_tok", "input_jitter_noise"):  # the latter is for training
        config.take(unused, None)
    count, experts = num_layers(config), read_num_experts(config)
    if experts < _TOP_K:
        raise config.wrong("num_local_experts", experts, f"at least {_TOP_K}")
    jitter = config.number("router_jitter_noise", 0.01, inclusive=True)
    moe = MoeSpec(
        experts,
        _TOP_K,
        config.integer("intermediate_size"),
        norm_topk_prob=False,
        router=RouterSpec(score="sparsemixer", jitter=jitter),
    )
    spec = read_common(
        config,
        model_type="phimoe",
        mlps=[moe] * count,
        windows=[config.integer("sliding_window", None)] * count,
        rms_norm_eps=1e-5,
        rope=_rope(config),
        attention_bias=config.flag("attention_bias", False),
    )
    return replace(spec, norm="layer", norm_bias=True, head_bias=config.flag("lm_head_bias", False))


def _rope(config: ConfigReader) -> RopeSpec:
    """transformers scales frequencies by short_factor at every length; only the factor on cos and sin might change, and
    never does in a published model."""
    hidden, heads = config.integer("hidden_size"), config.integer("num_attention_heads")
    longest, settings = config.integer("max_position_embeddings"), rope_settings(config)
    short, long = settings.number("short_mscale", None), settings.number("long_mscale", None)
    rope = read_rope(config, 1e6, longest, head_dim=config.integer("head_dim", hidden // heads), settings=settings)
    if rope.type == "default":
        return rope
    if rope.type != "longrope":
        raise settings.wrong("rope_type", rope.type, "default or longrope")
    if short is None or short != long:
        raise settings.wrong("long_mscale", long, f"the same number as short_mscale = {short!r}")
    return replace(rope, long_factor=rope.short_factor, attention_factor=short)


FAMILY = Family(
    "phimoe",
    ("PhimoeForCausalLM", "PhiMoEForCausalLM"),
    _read,
    "layer norms, biases, two experts chosen one after the other",
    names={
        "router": ("block_sparse_moe.gate.weight", "mlp.router.weight"),
        "expert_gate": "block_sparse_moe.experts.{e}.w1.weight",
        "expert_up": "block_sparse_moe.experts.{e}.w3.weight",
        "expert_down": "block_sparse_moe.experts.{e}.w2.weight",
    },
    examples="Phi-3.5-MoE",
)
