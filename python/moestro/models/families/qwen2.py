"""qwen2: dense, biases on queries, keys and values, sliding window from a given layer on where it is switched on."""

from __future__ import annotations

from moestro.models.config_reader import ConfigReader
from moestro.models.families.common import num_layers, qwen_windows, read_common
from moestro.models.family import Family
from moestro.models.spec import DenseSpec, ModelSpec


def _read(config: ConfigReader) -> ModelSpec:
    count = num_layers(config)
    return read_common(
        config,
        model_type="qwen2",
        mlps=[DenseSpec(config.integer("intermediate_size"))] * count,
        windows=qwen_windows(config, count),
        rms_norm_eps=1e-6,
        attention_bias=True,
        o_bias=False,
    )


FAMILY = Family(
    "qwen2",
    ("Qwen2ForCausalLM",),
    _read,
    "biases on queries, keys and values",
    dense=True,
    examples="Qwen2, Qwen2.5",
)
