"""smollm3: dense, every fourth layer without a rotary embedding; these may have a sliding window."""

from __future__ import annotations

from moestro.models.config_reader import ConfigReader
from moestro.models.families.common import is_sliding, layer_types, num_layers, qwen_window, read_common
from moestro.models.family import Family
from moestro.models.spec import DenseSpec, ModelSpec


def _read(config: ConfigReader) -> ModelSpec:
    count = num_layers(config)
    config.take("max_window_layers", None)  # the embedding decides which layers may have a window
    rotary = _rotary(config, count)
    return read_common(
        config,
        model_type="smollm3",
        mlps=[DenseSpec(config.integer("intermediate_size"))] * count,
        windows=_windows(config, rotary),
        rotary=rotary,
        rms_norm_eps=1e-6,
        rope_theta=2e6,
        attention_bias=config.flag("attention_bias", False),
        mlp_bias=config.flag("mlp_bias", False),
        tied=True,
    )


def _rotary(config: ConfigReader, count: int) -> list[bool]:
    """`no_rope_layers` says 1 where a layer has the embedding, whatever its name."""
    interval = config.integer("no_rope_layer_interval", 4)
    flags = config.take("no_rope_layers", None)
    if not flags:
        return [(layer + 1) % interval != 0 for layer in range(count)]
    if not isinstance(flags, list) or len(flags) != count or any(flag not in (0, 1) for flag in flags):
        raise config.wrong("no_rope_layers", flags, f"{count} entries of 0 or 1")
    return [bool(flag) for flag in flags]


def _windows(config: ConfigReader, rotary: list[bool]) -> list[int | None]:
    window, types = qwen_window(config), layer_types(config, len(rotary))
    if types is None:
        return [None if has_rotary else window for has_rotary in rotary]
    return [window if is_sliding(kind) else None for kind in types]


FAMILY = Family(
    "smollm3",
    ("SmolLM3ForCausalLM",),
    _read,
    "every fourth layer without rotary embedding",
    dense=True,
    examples="SmolLM3-3B",
)
