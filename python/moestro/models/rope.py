"""Rotary frequencies in float32, rounded where transformers rounds (its `modeling_rope_utils`, version 5.23).

Two operations of torch are spelled out: `scalar / tensor` is a reciprocal and a product, and powers are computed in
float64 and rounded once. torch's own float32 power misses the last bit of some frequencies, which ones depends on the
CPU. cos, sin and the rotation itself are the core's.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from moestro.errors import CheckpointError
from moestro.models.spec import RopeSpec

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]

ROPE_TYPES = ("default", "linear", "dynamic", "llama3", "yarn", "longrope")


def inv_freq(rope: RopeSpec, head_dim: int, effective_length: int | None = None) -> F32:
    """Inverse frequencies, float32 [head_dim / 2]: the angle of position p in dimension i is float32(p * inv_freq[i]).

    `effective_length` matters where `depends_on_length`; None means any length that needs no scaling.
    """
    if rope.type == "dynamic":
        return _dynamic(rope, head_dim, effective_length)
    if rope.type == "longrope":
        return _longrope(rope, head_dim, effective_length)
    return _FIXED[rope.type](rope, head_dim)


def effective_length(prompt_length: int, position: int) -> int:
    """The length that length-dependent scalings use at a position: a function of the request, never of the chunk."""
    return max(prompt_length, position + 1)


def depends_on_length(rope: RopeSpec) -> bool:
    return rope.type in ("dynamic", "longrope")


def unscaled_length(rope: RopeSpec) -> int:
    """Up to which effective length all lengths have the same frequencies, where they depend on it."""
    return rope.original_max_position_embeddings or rope.max_position_embeddings


def attention_factor(rope: RopeSpec) -> float:
    """What cos and sin are multiplied by (in float32, by the core)."""
    if rope.type not in ("yarn", "longrope"):
        return 1.0
    if rope.attention_factor is not None:
        return rope.attention_factor
    if rope.type == "longrope":
        return 1.0 if rope.factor <= 1 else math.sqrt(1 + math.log(rope.factor) / math.log(unscaled_length(rope)))
    if rope.mscale and rope.mscale_all_dim:
        return _yarn_mscale(rope.factor, rope.mscale) / _yarn_mscale(rope.factor, rope.mscale_all_dim)
    return _yarn_mscale(rope.factor, 1.0)


def _powers(base: float, head_dim: int) -> F32:
    """float32(base) ** (2 i / head_dim), the exponent rounded to float32."""
    exponents = np.arange(0, head_dim, 2, dtype=np.float32) / np.float32(head_dim)
    return _power(np.float32(base), exponents)


def _power(base: np.float32, exponent: F32) -> F32:
    exact: F64 = np.power(np.float64(base), exponent.astype(np.float64))
    return exact.astype(np.float32)


def _inverse(values: F32) -> F32:
    inverse: F32 = np.float32(1) / values
    return inverse


def _default(rope: RopeSpec, head_dim: int) -> F32:
    return _inverse(_powers(rope.theta, head_dim))


def _linear(rope: RopeSpec, head_dim: int) -> F32:
    frequencies = _default(rope, head_dim)
    frequencies /= np.float32(rope.factor)
    return frequencies


def _dynamic(rope: RopeSpec, head_dim: int, length: int | None) -> F32:
    limit = rope.max_position_embeddings
    exponent = head_dim / (head_dim - 2)
    if length is None or length <= limit:
        # Python arithmetic here, tensor arithmetic below: transformers computes the first set when the model is made.
        base = rope.theta * ((rope.factor * limit / limit) - (rope.factor - 1)) ** exponent
    else:
        growth = np.float32(rope.factor) * np.float32(length) / np.float32(limit) - np.float32(rope.factor - 1)
        # The exponent stays in float64: torch takes a Python number as it is.
        base = float(np.float32(rope.theta) * np.float32(np.float64(growth) ** exponent))
    return _inverse(_powers(base, head_dim))


def _longrope(rope: RopeSpec, head_dim: int, length: int | None) -> F32:
    """LongRoPE (2402.13753): a factor per frequency, one set for short sequences and one for long ones."""
    is_long = length is not None and length > unscaled_length(rope)
    factors = np.array(rope.long_factor if is_long else rope.short_factor, np.float32)
    return _inverse(factors * _powers(rope.theta, head_dim))


def _llama3(rope: RopeSpec, head_dim: int) -> F32:
    low, high, original = rope.low_freq_factor, rope.high_freq_factor, rope.original_max_position_embeddings
    if low is None or high is None or original is None:
        raise CheckpointError(
            "rope type llama3 needs low_freq_factor, high_freq_factor, original_max_position_embeddings"
        )
    one, factor = np.float32(1), np.float32(rope.factor)
    frequencies = _default(rope, head_dim)
    wavelengths = _inverse(frequencies) * np.float32(2 * math.pi)
    is_long, is_short = wavelengths > np.float32(original / low), wavelengths < np.float32(original / high)
    scaled = np.where(is_long, frequencies / factor, frequencies)
    band = high - low or 1.0  # where there is none, nothing lies in it
    smooth = (_inverse(wavelengths) * np.float32(original) - np.float32(low)) / np.float32(band)
    blended = (one - smooth) * scaled / factor + smooth * scaled
    return np.where(is_long | is_short, scaled, blended)


def _yarn(rope: RopeSpec, head_dim: int) -> F32:
    powers = _powers(rope.theta, head_dim)
    extrapolated, interpolated = _inverse(powers), _inverse(np.float32(rope.factor) * powers)
    low, high = _yarn_range(rope, head_dim)
    width = high - low if high != low else 0.001
    ramp = (np.arange(head_dim // 2, dtype=np.float32) - np.float32(low)) / np.float32(width)
    keep = np.float32(1) - np.clip(ramp, np.float32(0), np.float32(1))
    blended: F32 = interpolated * (np.float32(1) - keep) + extrapolated * keep
    return blended


def _yarn_range(rope: RopeSpec, head_dim: int) -> tuple[float, float]:
    """First and last dimension of the ramp from kept to interpolated frequencies."""
    original = rope.original_max_position_embeddings
    if original is None:
        raise CheckpointError("rope type yarn needs original_max_position_embeddings")

    def dimension(rotations: float) -> float:
        return (head_dim * math.log(original / (rotations * 2 * math.pi))) / (2 * math.log(rope.theta))

    low, high = dimension(rope.beta_fast), dimension(rope.beta_slow)
    if rope.truncate:
        low, high = math.floor(low), math.ceil(high)
    return max(low, 0), min(high, head_dim - 1)


def _yarn_mscale(factor: float, mscale: float) -> float:
    return 1.0 if factor <= 1 else 0.1 * mscale * math.log(factor) + 1.0


_FIXED: dict[str, Callable[[RopeSpec, int], F32]] = {
    "default": _default,
    "linear": _linear,
    "llama3": _llama3,
    "yarn": _yarn,
}
