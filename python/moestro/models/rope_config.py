"""Rotary settings of a config.json: rope_theta and rope_scaling (transformers 4) or rope_parameters (5)."""

from __future__ import annotations

from typing import Any

from moestro.errors import CheckpointError
from moestro.models.config_reader import ConfigReader
from moestro.models.rope import ROPE_TYPES
from moestro.models.spec import RopeSpec

# As the first checkpoints with it have it.
_OLDER_NAMES = {"su": "longrope"}


def read_rope(config: ConfigReader, default_theta: float, max_position_embeddings: int) -> RopeSpec:
    """The RopeSpec of a config. `default_theta` is the family's, for configs that name none."""
    scaling, parameters = config.take("rope_scaling", None), config.take("rope_parameters", None)
    outer_theta = config.number("rope_theta", default_theta, low=1.0)
    # Some checkpoints keep it outside; it wins over the nested one, as in transformers.
    outer_original = config.integer("original_max_position_embeddings", None)
    chosen = scaling or parameters or {}
    where = f"{config.where}: {'rope_scaling' if scaling else 'rope_parameters'}"
    if not isinstance(chosen, dict):
        raise CheckpointError(f"{where}: expected an object, got {chosen!r}")
    rope = ConfigReader(chosen, where)
    older_name = rope.take("type", "default")
    kind = rope.choice("rope_type", (*ROPE_TYPES, *_OLDER_NAMES), older_name)
    kind = _OLDER_NAMES.get(kind, kind)
    _refuse_partial(rope)
    fields: dict[str, Any] = {"theta": rope.number("rope_theta", outer_theta, low=1.0), "type": kind}
    if kind == "yarn":
        fields |= _yarn(rope, outer_original, max_position_embeddings)
    elif kind == "llama3":
        fields |= _llama3(rope, outer_original, max_position_embeddings)
    elif kind == "longrope":
        fields |= _longrope(rope, outer_original, max_position_embeddings)
    elif kind != "default":
        fields["factor"] = rope.number("factor")
    if kind == "dynamic":
        fields["max_position_embeddings"] = max_position_embeddings
    rope.finish()
    return RopeSpec(**fields)


def _refuse_partial(rope: ConfigReader) -> None:
    share = rope.take("partial_rotary_factor", 1.0)
    if share != 1:
        raise rope.wrong("partial_rotary_factor", share, "1: the whole head is rotated")


def _llama3(rope: ConfigReader, outer_original: int | None, max_position_embeddings: int) -> dict[str, Any]:
    fields = {
        "factor": rope.number("factor"),
        "low_freq_factor": rope.number("low_freq_factor"),
        "high_freq_factor": rope.number("high_freq_factor"),
        "original_max_position_embeddings": _original(rope, outer_original, max_position_embeddings),
    }
    if fields["high_freq_factor"] == fields["low_freq_factor"]:
        raise rope.wrong("high_freq_factor", fields["high_freq_factor"], "a value other than low_freq_factor")
    return fields


def _yarn(rope: ConfigReader, outer_original: int | None, max_position_embeddings: int) -> dict[str, Any]:
    original = _original(rope, outer_original, max_position_embeddings)
    factor = rope.number("factor", None)
    return {
        "original_max_position_embeddings": original,
        "factor": max_position_embeddings / original if factor is None else factor,
        "attention_factor": rope.number("attention_factor", None, inclusive=True),
        # transformers takes a zero for "not given"
        "beta_fast": rope.number("beta_fast", 32.0, inclusive=True) or 32.0,
        "beta_slow": rope.number("beta_slow", 1.0, inclusive=True) or 1.0,
        "mscale": rope.number("mscale", None, inclusive=True),
        "mscale_all_dim": rope.number("mscale_all_dim", None, inclusive=True),
        "truncate": rope.flag("truncate", True),
    }


def _longrope(rope: ConfigReader, outer_original: int | None, max_position_embeddings: int) -> dict[str, Any]:
    original = _original(rope, outer_original, max_position_embeddings)
    factor = rope.number("factor", None)
    return {
        "original_max_position_embeddings": original,
        "factor": max_position_embeddings / original if factor is None else factor,
        "attention_factor": rope.number("attention_factor", None, inclusive=True),
        "short_factor": _factors(rope, "short_factor"),
        "long_factor": _factors(rope, "long_factor"),
    }


def _factors(rope: ConfigReader, key: str) -> tuple[float, ...]:
    values = rope.take(key)
    if not isinstance(values, list) or not all(type(value) in (int, float) and value > 0 for value in values):
        raise rope.wrong(key, values, "a list of numbers above 0")
    return tuple(map(float, values))


def _original(rope: ConfigReader, outer: int | None, max_position_embeddings: int) -> int:
    inner = rope.integer("original_max_position_embeddings", max_position_embeddings)
    return int(inner if outer is None else outer)
