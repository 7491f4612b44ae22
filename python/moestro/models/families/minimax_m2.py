"""minimax_m2: every layer is a mixture routed by the sigmoid; queries and keys normed over all heads together, the
first `rotary_dim` dimensions of a head are rotated."""

from __future__ import annotations

from dataclasses import replace

from moestro.models.config_reader import ConfigReader
from moestro.models.families.common import expect, num_layers, predicts_further, read_common
from moestro.models.families.mixtral import FAMILY as MIXTRAL
from moestro.models.families.moe_keys import read_num_experts, read_top_k
from moestro.models.family import Family
from moestro.models.spec import ModelSpec, MoeSpec, RouterSpec

_HEAD_DIM = 128  # where the key is missing


def _read(config: ConfigReader) -> ModelSpec:
    count, experts = num_layers(config), read_num_experts(config)
    _take_what_changes_nothing(config, count)
    moe = MoeSpec(
        experts,
        read_top_k(config, experts),
        config.integer("intermediate_size"),
        norm_topk_prob=True,
        router=RouterSpec(score="sigmoid", correction=True),
    )
    head_dim = config.integer("head_dim", _HEAD_DIM)
    spec = read_common(
        config,
        model_type="minimax_m2",
        mlps=[moe] * count,
        windows=[None] * count,
        head_dim=head_dim,
        rms_norm_eps=1e-6,
        rope_theta=5e6,
        partial_rotary=config.integer("rotary_dim", head_dim) / head_dim,
        qk_norm=True,
    )
    return replace(spec, qk_norm_kind="whole", predicts_further=predicts_further(config, "num_mtp_modules"))


def _take_what_changes_nothing(config: ConfigReader, count: int) -> None:
    """Published configs name the choices of a relative with linear attention too, and layers that predict further."""
    expect(config, "attn_type_list", [1] * count)
    for key in ("layernorm_full_attention_beta", "layernorm_linear_attention_beta", "layernorm_mlp_beta"):
        expect(config, key, 1)
    expect(config, "qk_norm_type", "per_layer")
    expect(config, "use_qk_norm", True)
    expect(config, "scoring_func", "sigmoid")
    expect(config, "use_routing_bias", True)
    expect(config, "shared_intermediate_size", 0)
    # Of what is not there: a shared expert, dense layers, and layers that predict further.
    for key in ("shared_moe_mode", "mlp_intermediate_size", "use_mtp", "mtp_transformer_layers"):
        config.take(key, None)


FAMILY = Family(
    "minimax_m2",
    ("MiniMaxM2ForCausalLM",),
    _read,
    "every layer is a mixture routed by the sigmoid; queries and keys normed over all heads; part of a head is rotated",
    names={
        **MIXTRAL.names,
        "router_correction": ("block_sparse_moe.e_score_correction_bias", "mlp.e_score_correction_bias"),
    },
    examples="MiniMax-M2",
)
