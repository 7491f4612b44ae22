"""cohere2_moe: attention and mlp read the same norm and are added together; layers with a sliding window are rotated,
of the others only dense ones; the chosen logits are weighed by softmax or sigmoid."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from moestro.models.config_reader import ConfigReader
from moestro.models.families.common import (
    all_but_every,
    expect,
    num_layers,
    read_common,
    read_window,
    typed_windows,
)
from moestro.models.families.moe_keys import dense_first, read_num_experts, read_shared, read_top_k
from moestro.models.family import Family
from moestro.models.spec import DenseSpec, ModelSpec, MoeSpec, RouterSpec


def _read(config: ConfigReader) -> ModelSpec:
    count = num_layers(config)
    _take_what_changes_nothing(config)
    mlps = _mlps(config, count)
    prefix_every = config.integer("prefix_dense_sliding_window_pattern", 1)
    windows = _windows(config, count, prefix_every)
    rms = config.take("rms_norm_eps", None) is not None  # else the norms subtract the mean
    spec = read_common(
        config,
        model_type="cohere2_moe",
        mlps=mlps,
        windows=windows,
        rotary=_rotary(windows, mlps, prefix_every),
        head_dim=128,
        rms_norm_eps=1e-5,
        norm_eps_key="rms_norm_eps" if rms else "layer_norm_eps",
        attention_bias=config.flag("attention_bias", False),
        tied=True,
    )
    config.take("layer_norm_eps", None)
    return replace(
        spec,
        block="parallel",
        norm="rms" if rms else "layer",
        rope_pairs=True,
        logit_multiplier=config.number("logit_scale", 0.0625),
    )


def _mlps(config: ConfigReader, count: int) -> list[DenseSpec | MoeSpec]:
    experts, width = read_num_experts(config), config.integer("intermediate_size")
    chosen = config.choice("expert_selection_fn", ("softmax", "sigmoid"), "softmax")
    normed = config.flag("norm_topk_prob", True)
    shared = read_shared(config, width, key="num_shared_experts", default=0)
    together = config.choice("shared_expert_combination_strategy", ("average", "sum"), "average")
    moe = MoeSpec(
        experts,
        read_top_k(config, experts),
        width,
        norm_topk_prob=normed and chosen == "sigmoid",  # a softmax adds up to one already
        router=RouterSpec(score="chosen" if chosen == "softmax" else "sigmoid_of_chosen"),
        shared=shared,
        average=shared is not None and together == "average",
    )
    dense = DenseSpec(config.integer("prefix_dense_intermediate_size", width))
    return [moe if mlp is moe else dense for mlp in dense_first(config, count, moe, default=0)]


def _windows(config: ConfigReader, count: int, prefix_every: int) -> list[int | None]:
    """The dense layers at the beginning have a pattern of their own, where layer_types says nothing else."""
    every, first = config.integer("sliding_window_pattern", 4), config.integer("first_k_dense_replace", 0, low=0)
    first = min(first, count)
    sliding = all_but_every(first, prefix_every) + all_but_every(count - first, every)
    return typed_windows(config, sliding, read_window(config, 4096))


def _rotary(windows: Sequence[int | None], mlps: Sequence[DenseSpec | MoeSpec], prefix_every: int) -> list[bool]:
    """Dense layers that have no window by their pattern are rotated all the same."""
    return [
        window is not None or (prefix_every == 1 and isinstance(mlp, DenseSpec))
        for window, mlp in zip(windows, mlps, strict=True)
    ]


def _take_what_changes_nothing(config: ConfigReader) -> None:
    for key in ("use_parallel_block", "use_gated_activation"):
        expect(config, key, True)
    for key in ("use_qk_norm", "layer_norm_bias"):
        expect(config, key, False)
    expect(config, "position_embedding_type", "rope_gptj")
    expect(config, "rotary_pct", 1.0)
    if config.take("rope_scaling", None) is not None:
        # Transformers does not look at it here, only at rope_parameters.
        raise config.wrong("rope_scaling", config.take("rope_scaling"), "null, or rope_parameters")
    # How the weights are shared between machines, and what tie_word_embeddings and layer_types say too.
    for key in ("use_parallel_embedding", "use_embedding_sharing", "order_of_interleaved_layers", "layer_switch"):
        config.take(key, None)


FAMILY = Family(
    "cohere2_moe",
    ("Cohere2MoeForCausalLM",),
    _read,
    "attention and mlp side by side; layers without a window see no positions, unless they are dense",
    examples="Command A MoE",
)
