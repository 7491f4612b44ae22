"""qwen3: dense, query and key heads normed, sliding window from a given layer on where it is switched on."""

from __future__ import annotations

from moestro.models.config_reader import ConfigReader
from moestro.models.families.pre_norm import is_sliding, layer_types, num_layers, qwen_window, read_pre_norm
from moestro.models.family import Family
from moestro.models.spec import DenseSpec, ModelSpec


def _read(config: ConfigReader) -> ModelSpec:
    count = num_layers(config)
    return read_pre_norm(
        config,
        model_type="qwen3",
        mlps=[DenseSpec(config.integer("intermediate_size"))] * count,
        windows=_windows(config, count),
        head_dim=128,
        rms_norm_eps=1e-6,
        qk_norm=True,
        attention_bias=config.flag("attention_bias", False),
    )


def _windows(config: ConfigReader, count: int) -> list[int | None]:
    window, first = qwen_window(config), config.integer("max_window_layers", 28, low=0)
    types = layer_types(config, count)
    if types is None:
        return [window if layer >= first else None for layer in range(count)]
    if window is None and any(map(is_sliding, types)):
        raise config.wrong("layer_types", types, "no sliding layer where use_sliding_window is off")
    return [window if is_sliding(kind) else None for kind in types]


FAMILY = Family("qwen3", ("Qwen3ForCausalLM",), _read)
