"""Rotary settings of a config.json: rope_theta and rope_scaling (transformers 4) or rope_parameters (5)."""

from __future__ import annotations

from typing import Any

from moestro.errors import CheckpointError
from moestro.models.config_reader import ConfigReader
from moestro.models.rope import ROPE_TYPES
from moestro.models.spec import RopeSpec

# As the first checkpoints with it have it.
_OLDER_NAMES = {"su": "longrope"}
# Of layers, where rope_parameters has settings for each.
_KINDS = frozenset(("full_attention", "sliding_attention"))


def read_rope(
    config: ConfigReader,
    default_theta: float,
    max_position_embeddings: int,
    *,
    head_dim: int,
    partial: float | None = None,
    kind: str | None = None,
    theta_key: str = "rope_theta",
    settings: ConfigReader | None = None,
) -> RopeSpec:
    """The RopeSpec of a config. `default_theta` and `partial` (of a head's dimensions, how many are rotated; None: all,
    whatever the config says, or it is refused) are the family's, for configs that name none. kind: the entry of
    rope_parameters that is meant, where it has one per kind of layer ("full_attention"). settings: those of
    `rope_settings`, where the family takes some of them itself.
    """
    rope = rope_settings(config, kind) if settings is None else settings
    outer_theta = config.number(theta_key, default_theta, low=1.0)
    outer_partial = config.number("partial_rotary_factor", partial or 1.0)
    # Some checkpoints keep it outside; it wins over the nested one, as in transformers.
    outer_original = config.integer("original_max_position_embeddings", None)
    older_name = rope.take("type", "default")
    named = rope.choice("rope_type", (*ROPE_TYPES, *_OLDER_NAMES), older_name)
    type_ = _OLDER_NAMES.get(named, named)
    share = rope.number("partial_rotary_factor", outer_partial)
    rotated = int(head_dim * share)
    if partial is None and share != 1:
        raise rope.wrong("partial_rotary_factor", share, "1: the whole head is rotated")
    if share > 1 or rotated % 2 or rotated < 2:
        raise rope.wrong("partial_rotary_factor", share, f"an even number of {head_dim} dimensions to rotate")
    fields: dict[str, Any] = {
        "theta": rope.number("rope_theta", outer_theta, low=1.0),
        "type": type_,
        "rotary_dim": None if rotated == head_dim else rotated,
    }
    if type_ == "yarn":
        fields |= _yarn(rope, outer_original, max_position_embeddings)
    elif type_ == "llama3":
        fields |= _llama3(rope, outer_original, max_position_embeddings)
    elif type_ == "longrope":
        fields |= _longrope(rope, outer_original, max_position_embeddings)
        for factors in (fields["short_factor"], fields["long_factor"]):
            if len(factors) != rotated // 2:
                raise config.wrong("rope_scaling", type_, f"factors for each of {rotated // 2} frequencies")
    elif type_ != "default":
        fields["factor"] = rope.number("factor")
    if type_ == "dynamic":
        fields["max_position_embeddings"] = max_position_embeddings
    rope.finish()
    return RopeSpec(**fields)


def rope_settings(config: ConfigReader, kind: str | None = None, *, scaled: bool = True) -> ConfigReader:
    """The object with rotary settings, empty where there is none. scaled: that of transformers 4 is meant too."""
    scaling, parameters = config.take("rope_scaling", None), config.take("rope_parameters", None)
    if kind is not None and isinstance(parameters, dict) and not _KINDS.isdisjoint(parameters):
        parameters = parameters.get(kind)
    scaling = scaling if scaled else None
    chosen = scaling or parameters or {}
    where = f"{config.where}: {'rope_scaling' if scaling else 'rope_parameters'}"
    if not isinstance(chosen, dict):
        raise CheckpointError(f"{where}: expected an object, got {chosen!r}")
    return ConfigReader(chosen, where)


def read_ropes_by_kind(
    config: ConfigReader, full_theta: float, sliding_theta: float, max_position_embeddings: int, *, head_dim: int
) -> tuple[RopeSpec, RopeSpec]:
    """Those of layers with full attention and of layers with a window; in transformers 4, rope_scaling is of the first
    only. The thetas are the family's."""
    parameters = config.take("rope_parameters", None)
    if parameters is not None and not (isinstance(parameters, dict) and _KINDS.issuperset(parameters)):
        raise config.wrong("rope_parameters", parameters, f"entries {' and '.join(sorted(_KINDS))}")
    return (
        read_rope(config, full_theta, max_position_embeddings, head_dim=head_dim, kind="full_attention"),
        read_rope(
            config,
            sliding_theta,
            max_position_embeddings,
            head_dim=head_dim,
            theta_key="rope_local_base_freq",
            settings=rope_settings(config, "sliding_attention", scaled=False),
        ),
    )


def _llama3(rope: ConfigReader, outer_original: int | None, max_position_embeddings: int) -> dict[str, Any]:
    return {
        "factor": rope.number("factor"),
        "low_freq_factor": rope.number("low_freq_factor"),
        "high_freq_factor": rope.number("high_freq_factor"),
        "original_max_position_embeddings": _original(rope, outer_original, max_position_embeddings),
    }


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
