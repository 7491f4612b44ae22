"""phi3: dense, queries, keys and values in one matrix, gate and up in another; one sliding window or none."""

from __future__ import annotations

from moestro.models.config_reader import ConfigReader
from moestro.models.families.pre_norm import num_layers, read_pre_norm
from moestro.models.family import Family
from moestro.models.spec import DenseSpec, ModelSpec


def _read(config: ConfigReader) -> ModelSpec:
    count = num_layers(config)
    return read_pre_norm(
        config,
        model_type="phi3",
        mlps=[DenseSpec(config.integer("intermediate_size"))] * count,
        windows=[config.integer("sliding_window", None)] * count,
        rms_norm_eps=1e-5,
    )


FAMILY = Family(
    "phi3",
    ("Phi3ForCausalLM",),
    _read,
    "queries, keys and values in one matrix, gate and up in another; LongRoPE",
    fused=True,
)
