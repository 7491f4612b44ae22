"""glm4_moe_lite (GLM-4.7-Flash): deepseek_v3 with other defaults; the first layer is dense."""

from __future__ import annotations

from moestro.models.config_reader import ConfigReader
from moestro.models.families.latent import read_deepseek_v3
from moestro.models.family import Family
from moestro.models.spec import ModelSpec


def _read(config: ConfigReader) -> ModelSpec:
    # Transformers goes by mlp_layer_types alone.
    first = config.integer("first_k_dense_replace", 1, low=0)
    if first != 1 and not config.has("mlp_layer_types"):
        raise config.wrong("first_k_dense_replace", first, "1, or mlp_layer_types")
    return read_deepseek_v3(config, model_type="glm4_moe_lite", q_lora_rank=768, dense=1, scale=1.8, rms_norm_eps=1e-5)


FAMILY = Family(
    "glm4_moe_lite",
    ("Glm4MoeLiteForCausalLM",),
    _read,
    "latent attention; experts chosen with a correction; the first layer is dense",
    examples="GLM-4.7-Flash",
)
