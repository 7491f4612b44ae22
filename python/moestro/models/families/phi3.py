"""phi3: dense, queries, keys and values in one matrix, gate and up in another; one sliding window or none."""

from __future__ import annotations

from moestro.models.config_reader import ConfigReader
from moestro.models.families.common import expect, num_layers, read_common
from moestro.models.family import Family
from moestro.models.spec import DenseSpec, ModelSpec


def _read(config: ConfigReader) -> ModelSpec:
    count = num_layers(config)
    for key in ("full_attn_mod", "interpolate_factor"):
        expect(config, key, 1)
    expect(config, "lm_head_bias", False)
    return read_common(
        config,
        model_type="phi3",
        mlps=[DenseSpec(config.integer("intermediate_size"))] * count,
        windows=[config.integer("sliding_window", None)] * count,
        rms_norm_eps=1e-5,
        partial_rotary=1.0,
    )


FAMILY = Family(
    "phi3",
    ("Phi3ForCausalLM",),
    _read,
    "queries, keys and values in one matrix, gate and up in another; LongRoPE",
    stacked={"self_attn.qkv_proj.weight": ("q", "k", "v"), "mlp.gate_up_proj.weight": ("gate", "up")},
    dense=True,
    examples="Phi-3, Phi-4, Phi-4-mini",
)
