"""ernie4_5_moe: neighbours turned by the rotary embedding; a correction for the choice of experts; dense layers at the
start, the end or between."""

from __future__ import annotations

from dataclasses import replace

from moestro.models.config_reader import ConfigReader
from moestro.models.families.common import expect, num_layers, predicts_further, read_common
from moestro.models.families.moe_keys import mixed, read_num_experts, read_shared, read_top_k
from moestro.models.family import Family
from moestro.models.spec import DenseSpec, ModelSpec, MoeSpec, RouterSpec

_UNUSED = ("moe_capacity", "moe_gate", "moe_use_aux_free", "is_quantized")  # the training code's


def _read(config: ConfigReader) -> ModelSpec:
    for key in _UNUSED:
        config.take(key, None)
    expect(config, "use_rmsnorm", True)
    expect(config, "compression_ratio", 1.0)
    count, biased = num_layers(config), config.flag("use_bias", False)
    spec = read_common(
        config,
        model_type="ernie4_5_moe",
        mlps=_mlps(config, count),
        windows=[None] * count,
        rms_norm_eps=1e-5,
        rope_theta=5e5,
        attention_bias=biased,
        mlp_bias=biased,
        tied=True,
    )
    return replace(spec, rope_pairs=True, head_bias=biased, predicts_further=predicts_further(config))


def _mlps(config: ConfigReader, count: int) -> list[DenseSpec | MoeSpec]:
    experts, width = read_num_experts(config), config.integer("moe_intermediate_size")
    moe = MoeSpec(
        experts,
        read_top_k(config, experts, "moe_k"),
        width,
        norm_topk_prob=True,
        router=RouterSpec(correction=True, norm_min=config.number("moe_norm_min", 1e-12, inclusive=True)),
        shared=read_shared(config, width, key="moe_num_shared_experts", default=2),
    )
    first, last = config.integer("moe_layer_start_index", 1, low=0), config.integer("moe_layer_end_index", -1, low=-1)
    every, last = config.integer("moe_layer_interval", 1), count - 1 if last == -1 else last
    return mixed(config, [first <= layer <= last and (layer + 1) % every == 0 for layer in range(count)], moe)


FAMILY = Family(
    "ernie4_5_moe",
    ("Ernie4_5_MoeForCausalLM",),
    _read,
    "a correction for the choice of experts; rotary embedding of neighbours; some layers are dense",
    names={
        "router_correction": (
            "mlp.moe_statics.e_score_correction_bias",
            "mlp.gate.moe_statics.e_score_correction_bias",
        ),
    },
    examples="ERNIE-4.5-21B-A3B, 300B-A47B",
)
