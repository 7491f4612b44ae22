"""gemma3_text: gemma2 with query and key heads normed instead of soft caps; five of six layers have a sliding window
and a rotary embedding of their own."""

from __future__ import annotations

from dataclasses import replace

from moestro.models.config_reader import ConfigReader
from moestro.models.families.common import num_layers, typed_windows
from moestro.models.families.gemma2 import HEAD_DIM, NAMES, read_gemma, sliding_window
from moestro.models.family import Family
from moestro.models.rope_config import read_ropes_by_kind
from moestro.models.spec import ModelSpec

_THETA, _SLIDING_THETA = 1e6, 1e4


def _read(config: ConfigReader) -> ModelSpec:
    # Repositories with a vision tower write only what differs from these.
    config.assume(
        vocab_size=262_208,
        hidden_size=2304,
        intermediate_size=9216,
        num_hidden_layers=26,
        num_attention_heads=8,
        num_key_value_heads=4,
        head_dim=HEAD_DIM,
        max_position_embeddings=131_072,
    )
    config.take("attn_logit_softcapping", None)  # transformers hands it to nobody
    config.take("_sliding_window_pattern", None)  # beside the layer_types that came of it
    every = config.integer("sliding_window_pattern", 6)
    sliding = [(layer + 1) % every != 0 for layer in range(num_layers(config))]
    windows = typed_windows(config, sliding, sliding_window(config))
    longest = config.integer("max_position_embeddings")
    full, local = read_ropes_by_kind(config, _THETA, _SLIDING_THETA, longest, head_dim=config.integer("head_dim"))
    spec = read_gemma(config, "gemma3_text", windows, rope=full)
    return replace(
        spec,
        qk_norm=True,
        other_ropes=(local,),
        layers=tuple(replace(layer, rope=int(layer.sliding_window is not None)) for layer in spec.layers),
        logit_softcap=config.number("final_logit_softcapping", None),
    )


FAMILY = Family(
    "gemma3_text",
    ("Gemma3ForCausalLM",),
    _read,
    "gemma2 with query and key heads normed; most layers have a window and a rotary embedding of their own",
    names=NAMES,
    dense=True,
    examples="Gemma 3 (its text tower)",
)
