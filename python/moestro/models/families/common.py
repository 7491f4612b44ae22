"""What families share: the keys of config.json in transformers 4 and 5 that describe a llama-like decoder.

Each family states its differences from here; what only some models have it sets on the ModelSpec itself, with
dataclasses.replace.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from moestro.models.config_reader import ConfigReader
from moestro.models.rope_config import read_rope
from moestro.models.spec import DenseSpec, LayerSpec, ModelSpec, MoeSpec, RopeSpec

_DTYPES = {"float32": "f32", "bfloat16": "bf16", "float16": "f16"}
# Names of an activation in configs, the usual one first.
_ACTIVATIONS = {
    "silu": ("silu", "swish"),
    "gelu_tanh": ("gelu_pytorch_tanh",),
    "clamped_swiglu": ("silu",),
}
_FULL, _SLIDING = "full_attention", "sliding_attention"


def num_layers(config: ConfigReader) -> int:
    return int(config.integer("num_hidden_layers"))


def read_common(
    config: ConfigReader,
    *,
    model_type: str,
    mlps: Sequence[DenseSpec | MoeSpec],
    windows: Sequence[int | None],
    rotary: Sequence[bool] | None = None,
    head_dim: int | None = None,
    rms_norm_eps: float,
    norm_eps_key: str = "rms_norm_eps",
    rope: RopeSpec | None = None,
    rope_theta: float = 1e4,
    partial_rotary: float | None = None,
    qk_norm: bool = False,
    attention_bias: bool = False,
    o_bias: bool | None = None,
    mlp_bias: bool = False,
    tied: bool = False,
    activation: str = "silu",
    activation_key: str = "hidden_act",
    full_attention: str | tuple[str, ...] = _FULL,
) -> ModelSpec:
    """The ModelSpec from the common keys and a family's own answers: mlp, window and rotary (None: all) of every layer.

    `head_dim`, `rms_norm_eps`, `rope_theta`, `partial_rotary` (None: no such thing) and `tied` are the family's
    defaults; head_dim None means hidden_size / heads, o_bias None the same as attention_bias. rope: where the family
    reads it itself. full_attention: what layer_types calls layers without a window.
    """
    hidden, heads = config.integer("hidden_size"), config.integer("num_attention_heads")
    kv_heads = config.integer("num_key_value_heads", heads)
    if heads % kv_heads:
        raise config.wrong("num_key_value_heads", kv_heads, f"a divisor of num_attention_heads = {heads}")
    dim = config.integer("head_dim", head_dim or hidden // heads, low=4)
    if dim % 2:
        raise config.wrong("head_dim", dim, "an even number: the rotary embedding turns pairs")
    config.choice(activation_key, _ACTIVATIONS[activation], _ACTIVATIONS[activation][0])
    longest = config.integer("max_position_embeddings")
    if rope is None:
        rope = read_rope(config, rope_theta, longest, head_dim=dim, partial=partial_rotary)
    _check_layer_types(config, windows, full_attention)
    return ModelSpec(
        model_type=model_type,
        vocab_size=config.integer("vocab_size"),
        hidden_size=hidden,
        num_heads=heads,
        num_kv_heads=kv_heads,
        head_dim=dim,
        rms_norm_eps=config.number(norm_eps_key, rms_norm_eps, inclusive=True),
        rope=rope,
        qk_norm=qk_norm,
        qkv_bias=attention_bias,
        o_bias=attention_bias if o_bias is None else o_bias,
        mlp_bias=mlp_bias,
        tie_word_embeddings=config.flag("tie_word_embeddings", tied),
        max_position_embeddings=longest,
        dtype=read_dtype(config),
        activation=activation,
        layers=tuple(
            LayerSpec(window, mlp, turned)
            for window, mlp, turned in zip(windows, mlps, rotary or [True] * len(mlps), strict=True)
        ),
    )


def qwen_window(config: ConfigReader) -> int | None:
    """The window of the Qwen families: the number counts only where use_sliding_window is set."""
    used = config.flag("use_sliding_window", False)
    if not used:
        config.take("sliding_window", None)
        return None
    window = config.integer("sliding_window", None)
    return None if window is None else int(window)


def qwen_windows(config: ConfigReader, count: int) -> list[int | None]:
    """Of the dense Qwen families: from max_window_layers on, where layer_types says nothing else."""
    window, first = qwen_window(config), config.integer("max_window_layers", 28, low=0)
    types = layer_types(config, count)
    if types is None:
        return [window if layer >= first else None for layer in range(count)]
    if window is None and any(map(is_sliding, types)):
        raise config.wrong("layer_types", types, "no sliding layer where use_sliding_window is off")
    return [window if is_sliding(kind) else None for kind in types]


def layer_types(config: ConfigReader, count: int, full: str | tuple[str, ...] = _FULL) -> list[str] | None:
    """`layer_types` where the config has it, checked for length and known names."""
    types = config.take("layer_types", None)
    if types is None:
        return None
    known = (*((full,) if isinstance(full, str) else full), _SLIDING)
    if not isinstance(types, list) or len(types) != count or any(kind not in known for kind in types):
        raise config.wrong("layer_types", types, f"{count} entries of {' or '.join(known)}")
    return types


def typed_windows(config: ConfigReader, sliding: Sequence[bool], window: int | None) -> list[int | None]:
    """One window for the layers that layer_types names sliding or, where it is missing, that `sliding` does."""
    types = layer_types(config, len(sliding))
    sliding = sliding if types is None else [is_sliding(kind) for kind in types]
    if window is None and any(sliding):
        raise config.wrong("sliding_window", window, "a number, as some layers have a window")
    return [window if slides else None for slides in sliding]


def is_sliding(kind: str) -> bool:
    return kind == _SLIDING


def all_but_every(count: int, interval: int) -> list[bool]:
    """False for every `interval`-th of `count` layers."""
    return [(layer + 1) % interval != 0 for layer in range(count)]


def read_window(config: ConfigReader, default: int) -> int | None:
    """`sliding_window`: null means none, `default` is for where the key is missing."""
    window = config.integer("sliding_window", None if config.has("sliding_window") else default)
    return None if window is None else int(window)


def expect(config: ConfigReader, key: str, *values: Any) -> None:
    """Takes a key that may be there to say what the family does anyway, and nothing else."""
    value = config.take(key, values[0])
    if value not in values:
        raise config.wrong(key, value, " or ".join(map(repr, values)))


def predicts_further(config: ConfigReader, *names: str, default: int = 0) -> bool:
    """Whether checkpoints may hold layers that guess the tokens after the next. names: besides the usual key."""
    key = config.one_of("num_nextn_predict_layers", *names)
    return bool(config.integer(key, default, low=0))


def _check_layer_types(config: ConfigReader, windows: Sequence[int | None], full: str | tuple[str, ...]) -> None:
    """A config may repeat in layer_types what the family already decided; it may not say something else."""
    types = layer_types(config, len(windows), full)
    if types is not None and [is_sliding(kind) for kind in types] != [window is not None for window in windows]:
        raise config.wrong("layer_types", types, "what sliding_window and use_sliding_window say")


def read_dtype(config: ConfigReader) -> str:
    newer, older = config.take("dtype", None), config.take("torch_dtype", None)
    name = newer or older or "float32"
    if name not in _DTYPES:
        raise config.wrong("dtype" if newer else "torch_dtype", name, f"one of {', '.join(_DTYPES)}")
    return _DTYPES[name]
