"""llama4_text: one routed expert, whose input is weighed by a sigmoid, beside a shared one; rotated layers attend in
chunks and norm queries and keys, every fourth layer sees no positions and all tokens."""

from __future__ import annotations

from dataclasses import replace

from moestro.models.config_reader import ConfigReader
from moestro.models.families.common import all_but_every, layer_types, num_layers, read_common
from moestro.models.families.moe_keys import read_num_experts, read_top_k
from moestro.models.family import LAYER_NAMES, Family, FusedExperts, renamed
from moestro.models.spec import DenseSpec, LayerSpec, ModelSpec, MoeSpec, QueryTemperature, RouterSpec, SharedSpec

_CHUNKED, _FULL = "chunked_attention", "full_attention"


def _read(config: ConfigReader) -> ModelSpec:
    count = num_layers(config)
    config.take("for_llm_compressor", None)  # how other software is to arrange the experts
    config.take("cache_implementation", None)
    rotary = _rotary(config, count)
    spec = read_common(
        config,
        model_type="llama4_text",
        mlps=_mlps(config, count),
        windows=[None] * count,
        rotary=rotary,
        head_dim=128,
        rms_norm_eps=1e-5,
        rope_theta=5e5,
        qk_norm=config.flag("use_qk_norm", True),
        attention_bias=config.flag("attention_bias", False),
        full_attention=(_CHUNKED, _FULL),
    )
    return replace(
        spec,
        layers=_in_chunks(config, spec.layers),
        qk_norm_kind="plain_after_rope",
        rope_pairs=True,
        query_temperature=_temperature(config),
    )


def _mlps(config: ConfigReader, count: int) -> list[DenseSpec | MoeSpec]:
    experts, width = read_num_experts(config), config.integer("intermediate_size")
    top_k = read_top_k(config, experts)
    if top_k != 1:
        raise config.wrong("num_experts_per_tok", top_k, "1")
    moe = MoeSpec(
        experts,
        top_k,
        width,
        norm_topk_prob=False,
        router=RouterSpec(score="sigmoid_of_chosen"),
        shared=SharedSpec(width),
        weigh_input=True,
    )
    step, layers = config.integer("interleave_moe_layer_step", 1), config.take("moe_layers", None)
    if layers is None:
        layers = list(range(step - 1, count, step))
    if not isinstance(layers, list) or any(type(layer) is not int for layer in layers):
        raise config.wrong("moe_layers", layers, "a list of layer numbers")
    dense = DenseSpec(config.integer("intermediate_size_mlp", 16384))
    return [moe if layer in layers else dense for layer in range(count)]


def _rotary(config: ConfigReader, count: int) -> list[bool]:
    """`no_rope_layers` says 1 where a layer has the embedding, whatever its name."""
    interval = config.integer("no_rope_layer_interval", 4)
    flags = config.take("no_rope_layers", None)
    if not flags:
        return all_but_every(count, interval)
    if not isinstance(flags, list) or len(flags) != count or any(flag not in (0, 1) for flag in flags):
        raise config.wrong("no_rope_layers", flags, f"{count} entries of 0 or 1")
    return [bool(flag) for flag in flags]


def _in_chunks(config: ConfigReader, layers: tuple[LayerSpec, ...]) -> tuple[LayerSpec, ...]:
    chunk, types = config.integer("attention_chunk_size", 8192), layer_types(config, len(layers), (_CHUNKED, _FULL))
    chunked = [layer.rotary for layer in layers] if types is None else [kind == _CHUNKED for kind in types]
    return tuple(
        replace(layer, chunk=chunk if in_chunks else None) for layer, in_chunks in zip(layers, chunked, strict=True)
    )


def _temperature(config: ConfigReader) -> QueryTemperature | None:
    tuned = config.take("attn_temperature_tuning", True)  # early configs have a number here
    floor_scale, scale = config.number("floor_scale", 8192.0), config.number("attn_scale", 0.1)
    if type(tuned) not in (bool, int):
        raise config.wrong("attn_temperature_tuning", tuned, "true or false")
    return QueryTemperature(floor_scale, scale) if tuned else None


FAMILY = Family(
    "llama4_text",
    ("Llama4ForCausalLM",),
    _read,
    "one routed expert beside a shared one; attention in chunks, every fourth layer sees no positions",
    names={
        **renamed(LAYER_NAMES, "mlp.", "feed_forward."),
        **renamed(LAYER_NAMES, "mlp.shared_experts.", "feed_forward.shared_expert."),
        "router": "feed_forward.router.weight",
    },
    fused_experts=(
        FusedExperts("feed_forward.experts.gate_up_proj", "feed_forward.experts.down_proj", transposed=True),
    ),
    single_experts=False,
    examples="Llama 4 Scout, Maverick (their text towers)",
)
