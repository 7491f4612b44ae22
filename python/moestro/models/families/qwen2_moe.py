"""qwen2_moe: a shared expert that a gate of its own weighs; some layers may be dense, some have a sliding window."""

from __future__ import annotations

from moestro.models.config_reader import ConfigReader
from moestro.models.families.common import is_sliding, layer_types, num_layers, read_common
from moestro.models.families.moe_keys import mixed, read_num_experts, read_top_k, sparse_step
from moestro.models.family import LAYER_NAMES, Family, renamed
from moestro.models.spec import ModelSpec, MoeSpec, SharedSpec

_WINDOW = 4096  # where the key is missing


def _read(config: ConfigReader) -> ModelSpec:
    count, experts = num_layers(config), read_num_experts(config)
    moe = MoeSpec(
        experts,
        read_top_k(config, experts),
        config.integer("moe_intermediate_size"),
        config.flag("norm_topk_prob", False),
        shared=SharedSpec(config.integer("shared_expert_intermediate_size"), gated=True),
    )
    return read_common(
        config,
        model_type="qwen2_moe",
        mlps=mixed(config, sparse_step(config, count), moe),
        windows=_windows(config, count),
        rms_norm_eps=1e-6,
        attention_bias=config.flag("qkv_bias", True),
        o_bias=False,
    )


def _windows(config: ConfigReader, count: int) -> list[int | None]:
    """Every other layer of the first max_window_layers, where layer_types says nothing else."""
    first_full, types = config.integer("max_window_layers", 28, low=0), layer_types(config, count)
    if not config.flag("use_sliding_window", False):
        config.take("sliding_window", None)  # some number, 0 among them, and none of it matters
        if types is not None and any(map(is_sliding, types)):
            raise config.wrong("layer_types", types, "no sliding layer where use_sliding_window is off")
        return [None] * count
    window = config.integer("sliding_window", _WINDOW)
    if types is None:
        return [window if layer % 2 == 0 and layer < first_full else None for layer in range(count)]
    return [window if is_sliding(kind) else None for kind in types]


FAMILY = Family(
    "qwen2_moe",
    ("Qwen2MoeForCausalLM",),
    _read,
    "a gated shared expert; biases on queries, keys and values; some layers may be dense or have a window",
    names=renamed(LAYER_NAMES, "mlp.shared_experts.", "mlp.shared_expert."),
    examples="Qwen1.5-MoE-A2.7B, Qwen2-57B-A14B",
)
