"""dots1: sigmoid routing by groups after the first dense layers; query and key heads normed, sliding window from a
given layer on."""

from __future__ import annotations

from moestro.models.config_reader import ConfigReader
from moestro.models.families.common import expect, num_layers, read_common, read_window, typed_windows
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
    expect(config, "scoring_func", "sigmoid", "noaux_tc")
    expect(config, "topk_method", "noaux_tc")
    expect(config, "moe_layer_freq", 1)
    moe = MoeSpec(
        experts,
        read_top_k(config, experts),
        width,
        config.flag("norm_topk_prob", False),
        router=read_sigmoid_router(config, experts),
        shared=read_shared(config, width, default=0),
    )
    return read_common(
        config,
        model_type="dots1",
        mlps=dense_first(config, count, moe, default=0),
        windows=_windows(config, count),
        rms_norm_eps=1e-6,
        qk_norm=True,
        attention_bias=config.flag("attention_bias", False),
    )


def _windows(config: ConfigReader, count: int) -> list[int | None]:
    window, first = read_window(config, 4096), config.integer("max_window_layers", 62, low=0)
    config.take("use_sliding_window", None)  # transformers goes by the other two
    return typed_windows(config, [window is not None and layer >= first for layer in range(count)], window)


FAMILY = Family(
    "dots1",
    ("Dots1ForCausalLM",),
    _read,
    "sigmoid routing by groups, shared experts, dense layers first; query and key heads normed",
    examples="dots.llm1",
)
