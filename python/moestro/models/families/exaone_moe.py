"""exaone_moe: sigmoid routing by groups, dense layers first; layers with a sliding window are rotated, the others see
no positions."""

from __future__ import annotations

from dataclasses import replace

from moestro.models.config_reader import ConfigReader
from moestro.models.families.common import (
    all_but_every,
    expect,
    num_layers,
    predicts_further,
    read_common,
    read_window,
    typed_windows,
)
from moestro.models.families.moe_keys import (
    dense_first,
    read_num_experts,
    read_shared,
    read_sigmoid_router,
    read_top_k,
)
from moestro.models.family import Family
from moestro.models.spec import ModelSpec, MoeSpec


def _read(config: ConfigReader) -> ModelSpec:
    count, experts, width = num_layers(config), read_num_experts(config), config.integer("moe_intermediate_size")
    expect(config, "scoring_func", "sigmoid")
    expect(config, "topk_method", "noaux_tc")
    moe = MoeSpec(
        experts,
        read_top_k(config, experts),
        width,
        config.flag("norm_topk_prob", True),
        router=read_sigmoid_router(config, experts, scale=2.5),
        shared=read_shared(config, width, key="num_shared_experts"),
    )
    dense_key = config.one_of("first_k_dense_replace", "first_last_k_dense_replace")
    mlps = dense_first(config, count, moe, default=1, key=dense_key)
    expect(config, "is_moe_layer", [mlp is moe for mlp in mlps])
    window = read_window(config, 4096)
    windows = _windows(config, count, window)
    spec = read_common(
        config,
        model_type="exaone_moe",
        mlps=mlps,
        windows=windows,
        rotary=[window is None or own is not None for own in windows],  # no window at all: like other models
        rms_norm_eps=1e-5,
        qk_norm=True,
    )
    return replace(spec, predicts_further=predicts_further(config))


def _windows(config: ConfigReader, count: int, window: int | None) -> list[int | None]:
    sliding = [False] * count
    if config.take("layer_types", None) is not None:
        config.take("sliding_window_pattern", None)  # may be words then
    elif window is not None:
        sliding = all_but_every(count, config.integer("sliding_window_pattern", 4))
    return typed_windows(config, sliding, window)


FAMILY = Family(
    "exaone_moe",
    ("ExaoneMoeForCausalLM", "ExaoneMoEForCausalLM"),
    _read,
    "sigmoid routing, a shared expert, dense layers first; layers without a window see no positions",
    names={"router_correction": ("mlp.e_score_correction_bias", "mlp.gate.e_score_correction_bias")},
    examples="K-EXAONE",
)
