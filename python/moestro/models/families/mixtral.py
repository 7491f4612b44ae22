"""mixtral: every layer is a mixture whose kept probabilities are normalised; one sliding window for all, or none."""

from __future__ import annotations

from moestro.models.config_reader import ConfigReader
from moestro.models.families.common import num_layers, read_common
from moestro.models.families.moe_keys import read_num_experts, read_top_k
from moestro.models.family import Family
from moestro.models.spec import ModelSpec, MoeSpec


def _read(config: ConfigReader) -> ModelSpec:
    count, experts = num_layers(config), read_num_experts(config)
    moe = MoeSpec(experts, read_top_k(config, experts), config.integer("intermediate_size"), norm_topk_prob=True)
    return read_common(
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
    names={
        "router": ("block_sparse_moe.gate.weight", "mlp.gate.weight"),
        "expert_gate": "block_sparse_moe.experts.{e}.w1.weight",
        "expert_up": "block_sparse_moe.experts.{e}.w3.weight",
        "expert_down": "block_sparse_moe.experts.{e}.w2.weight",
    },
    examples="Mixtral 8x7B, 8x22B",
)
