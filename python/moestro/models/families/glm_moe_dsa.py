"""glm_moe_dsa (GLM-5): deepseek_v32 with other defaults, and an indexer in some layers only."""

from __future__ import annotations

from moestro.models.config_reader import ConfigReader
from moestro.models.families.latent import INDEXER, read_deepseek_v3, within_index
from moestro.models.family import Family
from moestro.models.spec import ModelSpec


def _read(config: ConfigReader) -> ModelSpec:
    spec = read_deepseek_v3(
        config,
        model_type="glm_moe_dsa",
        q_lora_rank=2048,
        dense=3,
        scale=2.5,
        rms_norm_eps=1e-5,
        full_attention="indexed_attention",
    )
    return within_index(config, spec)


FAMILY = Family(
    "glm_moe_dsa",
    ("GlmMoeDsaForCausalLM",),
    _read,
    "latent attention up to the context at which it becomes sparse; experts chosen with a correction",
    unused=(INDEXER,),
    examples="GLM-5",
)
