"""deepseek_v32 (DeepSeek V3.2): deepseek_v3 whose attention sees only so many tokens; contexts longer than that are
refused."""

from __future__ import annotations

from moestro.models.config_reader import ConfigReader
from moestro.models.families.latent import INDEXER, read_deepseek_v3, within_index
from moestro.models.family import Family
from moestro.models.spec import ModelSpec


def _read(config: ConfigReader) -> ModelSpec:
    spec = read_deepseek_v3(
        config,
        model_type="deepseek_v32",
        q_lora_rank=1536,
        dense=3,
        scale=2.5,
        groups=8,
        kept=4,
        full_attention="indexed_attention",
    )
    return within_index(config, spec)


FAMILY = Family(
    "deepseek_v32",
    ("DeepseekV32ForCausalLM",),
    _read,
    "deepseek_v3 up to the context at which its attention becomes sparse",
    unused=(INDEXER,),
    examples="DeepSeek-V3.2",
)
