"""gemma2: norms before and after attention and mlp, their weights counted from one; soft caps on attention scores and
logits; every other layer has a sliding window."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from moestro.models.config_reader import ConfigReader
from moestro.models.families.common import expect, num_layers, read_common, typed_windows
from moestro.models.family import Family
from moestro.models.spec import DenseSpec, ModelSpec, RopeSpec

HEAD_DIM = 256  # these families', where the key is missing
NAMES = {
    "attention_out_norm": "post_attention_layernorm.weight",
    "post_attention_norm": "pre_feedforward_layernorm.weight",
    "mlp_out_norm": "post_feedforward_layernorm.weight",
}
_WINDOW = 4096


def sliding_window(config: ConfigReader) -> int | None:
    window: int | None = config.integer("sliding_window", None if config.has("sliding_window") else _WINDOW)
    return window


def read_gemma(
    config: ConfigReader, model_type: str, windows: Sequence[int | None], *, rope: RopeSpec | None = None
) -> ModelSpec:
    """What gemma2 and gemma3 share."""
    for inert in ("hidden_act", "cache_implementation"):  # an older name of hidden_activation, unused; of the KV cache
        config.take(inert, None)
    expect(config, "use_bidirectional_attention", False)
    spec = read_common(
        config,
        model_type=model_type,
        mlps=[DenseSpec(config.integer("intermediate_size"))] * len(windows),
        windows=windows,
        head_dim=HEAD_DIM,
        rms_norm_eps=1e-6,
        rope=rope,
        attention_bias=config.flag("attention_bias", False),
        tied=True,
        activation="gelu_tanh",
        activation_key="hidden_activation",
    )
    return replace(
        spec,
        block="sandwich",
        norm="rms_plus_one",
        attention_scale=config.number("query_pre_attn_scalar", 256.0) ** -0.5,
        embedding_multiplier=spec.hidden_size**0.5,
    )


def _softcap(config: ConfigReader, key: str, default: float) -> float | None:
    """Null means none."""
    cap: float | None = config.number(key, None if config.has(key) else default)
    return cap


def _read(config: ConfigReader) -> ModelSpec:
    config.take("sliding_window_size", None)  # a name from before the first release, unused
    every_other = [layer % 2 == 0 for layer in range(num_layers(config))]
    spec = read_gemma(config, "gemma2", typed_windows(config, every_other, sliding_window(config)))
    return replace(
        spec,
        attention_softcap=_softcap(config, "attn_logit_softcapping", 50.0),
        logit_softcap=_softcap(config, "final_logit_softcapping", 30.0),
    )


FAMILY = Family(
    "gemma2",
    ("Gemma2ForCausalLM",),
    _read,
    "norms before and after each branch; soft caps; every other layer has a window",
    names=NAMES,
    dense=True,
    examples="Gemma 2",
)
