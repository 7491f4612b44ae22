"""mellum: query and key heads normed; layers with a sliding window have a rotary embedding of their own; layers may be
dense."""

from __future__ import annotations

from dataclasses import replace

from moestro.models.config_reader import ConfigReader
from moestro.models.families.common import num_layers, predicts_further, read_common, typed_windows
from moestro.models.families.moe_keys import dense_first, read_num_experts, read_top_k
from moestro.models.family import Family
from moestro.models.rope_config import read_ropes_by_kind
from moestro.models.spec import ModelSpec, MoeSpec

_HEAD_DIM, _KV_HEADS, _WINDOW = 128, 4, 1024  # where the keys are missing
_THETA, _SLIDING_THETA = 5e5, 1e4


def _read(config: ConfigReader) -> ModelSpec:
    for unused in ("mtp_layer_types", "mtp_mlp_layer_types"):  # of layers that have no part in the answer
        config.take(unused, None)
    for unused in ("max_window_layers", "use_sliding_window"):  # layer_types alone says where a window is
        config.take(unused, None)
    config.assume(head_dim=_HEAD_DIM, num_key_value_heads=_KV_HEADS)
    count, experts = num_layers(config), read_num_experts(config)
    moe = MoeSpec(
        experts,
        read_top_k(config, experts),
        config.integer("moe_intermediate_size"),
        config.flag("norm_topk_prob", True),
    )
    longest = config.integer("max_position_embeddings")
    full, local = read_ropes_by_kind(config, _THETA, _SLIDING_THETA, longest, head_dim=config.integer("head_dim"))
    window = config.integer("sliding_window", None if config.has("sliding_window") else _WINDOW)
    spec = read_common(
        config,
        model_type="mellum",
        mlps=dense_first(config, count, moe, default=0),
        windows=typed_windows(config, [False] * count, window),
        rms_norm_eps=1e-6,
        rope=full,
        qk_norm=True,
        attention_bias=config.flag("attention_bias", False),
    )
    return replace(
        spec,
        other_ropes=(local,),
        layers=tuple(replace(layer, rope=int(layer.sliding_window is not None)) for layer in spec.layers),
        predicts_further=predicts_further(config, "num_mtp_layers"),
    )


FAMILY = Family(
    "mellum",
    ("MellumForCausalLM",),
    _read,
    "query and key heads normed; layers with a window have a rotary embedding of their own; layers may be dense",
    examples="Mellum 2",
)
