"""mixtral: every layer is a mixture whose kept probabilities are normalised; one sliding window for all, or none."""

from __future__ import annotations

from moestro.models.config_reader import ConfigReader
from moestro.models.families.moe_keys import read_num_experts, read_top_k
from moestro.models.families.pre_norm import num_layers, read_pre_norm
from moestro.models.family import ExpertNames, Family
from moestro.models.spec import ModelSpec, MoeSpec


def _read(config: ConfigReader) -> ModelSpec:
    count, experts = num_layers(config), read_num_experts(config)
    moe = MoeSpec(experts, read_top_k(config, experts), config.integer("intermediate_size"), norm_topk_prob=True)
    return read_pre_norm(
        config,
        model_type="mixtral",
        mlps=[moe] * count,
        windows=[config.integer("sliding_window", None)] * count,
        rms_norm_eps=1e-5,
        rope_theta=1e6,
    )


FAMILY = Family(
    "mixtral",
    ("MixtralForCausalLM",),
    _read,
    "every layer is a mixture whose kept probabilities are normalised; one sliding window, or none",
    ExpertNames(
        router="block_sparse_moe.gate.weight",
        gate="block_sparse_moe.experts.{e}.w1.weight",
        up="block_sparse_moe.experts.{e}.w3.weight",
        down="block_sparse_moe.experts.{e}.w2.weight",
    ),
)
