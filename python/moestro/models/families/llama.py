"""llama: dense, optional biases on attention and MLP."""

from __future__ import annotations

from moestro.models.config_reader import ConfigReader
from moestro.models.families.common import num_layers, read_common
from moestro.models.family import Family
from moestro.models.spec import DenseSpec, ModelSpec


def _read(config: ConfigReader) -> ModelSpec:
    count = num_layers(config)
    return read_common(
        config,
        model_type="llama",
        mlps=[DenseSpec(config.integer("intermediate_size"))] * count,
        windows=[None] * count,
        rms_norm_eps=1e-6,
        attention_bias=config.flag("attention_bias", False),
        mlp_bias=config.flag("mlp_bias", False),
    )


FAMILY = Family(
    "llama",
    ("LlamaForCausalLM", "LLaMAForCausalLM"),
    _read,
    "optional biases on attention and MLP",
    dense=True,
    examples="Llama 2 and 3, TinyLlama, SmolLM2",
)
