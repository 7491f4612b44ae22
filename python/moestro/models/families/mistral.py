"""mistral: dense, one sliding window for all layers or none."""

from __future__ import annotations

from moestro.models.config_reader import ConfigReader
from moestro.models.families.common import num_layers, read_common
from moestro.models.family import Family
from moestro.models.spec import DenseSpec, ModelSpec

_WINDOW = 4096  # where the key is missing; null means none


def _read(config: ConfigReader) -> ModelSpec:
    count = num_layers(config)
    window = config.integer("sliding_window", None if config.has("sliding_window") else _WINDOW)
    return read_common(
        config,
        model_type="mistral",
        mlps=[DenseSpec(config.integer("intermediate_size"))] * count,
        windows=[window] * count,
        rms_norm_eps=1e-6,
    )


FAMILY = Family(
    "mistral",
    ("MistralForCausalLM",),
    _read,
    "one sliding window for all layers, or none",
    dense=True,
    examples="Mistral 7B, Mistral Small 3 (its text tower)",
)
