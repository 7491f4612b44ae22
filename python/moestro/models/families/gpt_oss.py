"""gpt_oss: attention sinks, a sliding window in every other layer, experts with biases and a clamped activation that
are fused, transposed and interleaved."""

from __future__ import annotations

from dataclasses import replace

from moestro.models.config_reader import ConfigReader
from moestro.models.families.common import expect, num_layers, read_common, read_window, typed_windows
from moestro.models.families.moe_keys import read_num_experts, read_top_k
from moestro.models.family import Family, FusedExperts
from moestro.models.spec import ModelSpec, MoeSpec, RopeSpec, RouterSpec


def _read(config: ConfigReader) -> ModelSpec:
    count, experts = num_layers(config), read_num_experts(config)
    expect(config, "swiglu_alpha", 1.702)
    expect(config, "swiglu_limit", 7.0)
    config.take("initial_context_length", None)  # the rotary settings say so themselves
    moe = MoeSpec(
        experts,
        read_top_k(config, experts, "experts_per_token"),
        config.integer("intermediate_size"),
        norm_topk_prob=False,  # they add up to one already
        router=RouterSpec(score="chosen", bias=True),
        expert_bias=True,
    )
    scaled = config.take("rope_scaling", None) or config.take("rope_parameters", None)
    spec = read_common(
        config,
        model_type="gpt_oss",
        mlps=[moe] * count,
        windows=typed_windows(config, [layer % 2 == 0 for layer in range(count)], read_window(config, 128)),
        head_dim=64,
        rms_norm_eps=1e-5,
        rope_theta=150000.0,
        attention_bias=config.flag("attention_bias", True),
        activation="clamped_swiglu",
    )
    return replace(spec, rope=spec.rope if scaled else _usual_rope(spec.rope), sinks=True)


def _usual_rope(rope: RopeSpec) -> RopeSpec:
    """Of configs that say nothing."""
    return replace(rope, type="yarn", factor=32.0, original_max_position_embeddings=4096, truncate=False)


FAMILY = Family(
    "gpt_oss",
    ("GptOssForCausalLM",),
    _read,
    "attention sinks, a window in every other layer, experts with biases and a clamped activation; bf16 only",
    names={"router": "mlp.router.weight"},
    fused_experts=(
        FusedExperts(
            "mlp.experts.gate_up_proj",
            "mlp.experts.down_proj",
            transposed=True,
            interleaved=True,
            gate_up_bias="mlp.experts.gate_up_proj_bias",
            down_bias="mlp.experts.down_proj_bias",
        ),
    ),
    single_experts=False,
    examples="gpt-oss-20b, 120b, saved as bf16",
)
