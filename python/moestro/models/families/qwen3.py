"""qwen3: dense, query and key heads normed, sliding window from a given layer on where it is switched on."""

from __future__ import annotations

from moestro.models.config_reader import ConfigReader
from moestro.models.families.common import num_layers, qwen_windows, read_common
from moestro.models.family import Family
from moestro.models.spec import DenseSpec, ModelSpec


def _read(config: ConfigReader) -> ModelSpec:
    count = num_layers(config)
    return read_common(
        config,
        model_type="qwen3",
        mlps=[DenseSpec(config.integer("intermediate_size"))] * count,
        windows=qwen_windows(config, count),
        head_dim=128,
        rms_norm_eps=1e-6,
        qk_norm=True,
        attention_bias=config.flag("attention_bias", False),
    )


FAMILY = Family(
    "qwen3",
    ("Qwen3ForCausalLM",),
    _read,
    "query and key heads normed; sliding window from a given layer on",
    dense=True,
    examples="Qwen3-0.6B to 32B",
)
