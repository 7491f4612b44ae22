"""deepseek_v3 (DeepSeek V3 and R1, Moonlight, Kimi K2): latent attention; experts chosen by groups, with a correction;
the first layers are dense."""

from __future__ import annotations

from moestro.models.config_reader import ConfigReader
from moestro.models.families.latent import read_deepseek_v3
from moestro.models.family import Family
from moestro.models.spec import ModelSpec


def _read(config: ConfigReader) -> ModelSpec:
    return read_deepseek_v3(config, model_type="deepseek_v3", q_lora_rank=1536, dense=3, scale=2.5, groups=8, kept=4)


FAMILY = Family(
    "deepseek_v3",
    ("DeepseekV3ForCausalLM",),
    _read,
    "latent attention; experts chosen by groups, with a correction; the first layers are dense",
    examples="DeepSeek-V3, R1, Kimi-K2, Moonlight",
)
