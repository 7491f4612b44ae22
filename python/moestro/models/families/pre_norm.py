"""What the llama-like families share: a pre-norm decoder with grouped-query attention and gated MLPs.

Each family states its differences from here; the keys are those of config.json in transformers 4 and 5.
"""

from __future__ import annotations

from collections.abc import Sequence

from moestro.models.config_reader import ConfigReader
from moestro.models.rope_config import read_rope
from moestro.models.spec import DenseSpec, LayerSpec, ModelSpec, MoeSpec

_DTYPES = {"float32": "f32", "bfloat16": "bf16", "float16": "f16"}
_FULL, _SLIDING = "full_attention", "sliding_attention"


def num_layers(config: ConfigReader) -> int:
    return int(config.integer("num_hidden_layers"))


def read_pre_norm(
    config: ConfigReader,
    *,
    model_type: str,
    mlps: Sequence[DenseSpec | MoeSpec],
    windows: Sequence[int | None],
    rotary: Sequence[bool] | None = None,
    head_dim: int | None = None,
    rms_norm_eps: float,
    rope_theta: float = 1e4,
    qk_norm: bool = False,
    attention_bias: bool = False,
    o_bias: bool | None = None,
    mlp_bias: bool = False,
    tied: bool = False,
) -> ModelSpec:
    """The ModelSpec from the common keys and a family's own answers: mlp, window and rotary (None: all) of every layer.

    `head_dim`, `rms_norm_eps`, `rope_theta` and `tied` are the family's defaults; head_dim None means hidden_size
    / heads, o_bias None the same as attention_bias.
    """
    hidden, heads = config.integer("hidden_size"), config.integer("num_attention_heads")
    kv_heads = config.integer("num_key_value_heads", heads)
    if heads % kv_heads:
        raise config.wrong("num_key_value_heads", kv_heads, f"a divisor of num_attention_heads = {heads}")
    dim = config.integer("head_dim", head_dim or hidden // heads, low=4)
    if dim % 2:
        raise config.wrong("head_dim", dim, "an even number: the rotary embedding turns pairs")
    config.choice("hidden_act", ("silu",), "silu")
    longest = config.integer("max_position_embeddings")
    rope = read_rope(config, rope_theta, longest)
    for factors in (rope.short_factor, rope.long_factor):
        if rope.type == "longrope" and len(factors) != dim // 2:
            raise config.wrong("rope_scaling", rope.type, f"factors for each of {dim // 2} frequencies")
    _check_layer_types(config, windows)
    return ModelSpec(
        model_type=model_type,
        vocab_size=config.integer("vocab_size"),
        hidden_size=hidden,
        num_heads=heads,
        num_kv_heads=kv_heads,
        head_dim=dim,
        rms_norm_eps=config.number("rms_norm_eps", rms_norm_eps, inclusive=True),
        rope=rope,
        qk_norm=qk_norm,
        qkv_bias=attention_bias,
        o_bias=attention_bias if o_bias is None else o_bias,
        mlp_bias=mlp_bias,
        tie_word_embeddings=config.flag("tie_word_embeddings", tied),
        max_position_embeddings=longest,
        dtype=_dtype(config),
        activation="silu",
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


def layer_types(config: ConfigReader, count: int) -> list[str] | None:
    """`layer_types` where the config has it, checked for length and known names."""
    types = config.take("layer_types", None)
    if types is None:
        return None
    if not isinstance(types, list) or len(types) != count or any(kind not in (_FULL, _SLIDING) for kind in types):
        raise config.wrong("layer_types", types, f"{count} entries of {_FULL} or {_SLIDING}")
    return types


def is_sliding(kind: str) -> bool:
    return kind == _SLIDING


def _check_layer_types(config: ConfigReader, windows: Sequence[int | None]) -> None:
    """A config may repeat in layer_types what the family already decided; it may not say something else."""
    types = layer_types(config, len(windows))
    if types is not None and [is_sliding(kind) for kind in types] != [window is not None for window in windows]:
        raise config.wrong("layer_types", types, "what sliding_window and use_sliding_window say")


def _dtype(config: ConfigReader) -> str:
    newer, older = config.take("dtype", None), config.take("torch_dtype", None)
    name = newer or older or "float32"
    if name not in _DTYPES:
        raise config.wrong("dtype" if newer else "torch_dtype", name, f"one of {', '.join(_DTYPES)}")
    return _DTYPES[name]
