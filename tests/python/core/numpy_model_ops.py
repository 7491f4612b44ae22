"""The rest of docs/numerics.md in numpy: exp, reductions, norms, router, rotary embedding, attention.

Beside numpy_model.py, with its conventions.
"""

from __future__ import annotations

import numpy as np
from core.numpy_model import F32, fma, round_to
from numpy.typing import NDArray

I64 = NDArray[np.int64]
BLOCK = 64
ATTENTION_SEGMENT = 512


def exp(x: F32) -> F32:
    x = np.asarray(x, np.float32)
    clamped = np.clip(x, np.float32(-104), np.float32(89))
    n = np.rint(clamped * np.float32(1.44269504))
    r = fma(n, np.float32(-0.693359375), clamped)
    r = fma(n, np.float32(2.12194440e-4), r)
    p = np.float32(1.9875691500e-4)
    for c in (1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 5.0000001201e-1):
        p = fma(p, r, np.float32(c))
    p = fma(p, r * r, r) + np.float32(1)
    half = np.floor(n / 2).astype(np.int32)
    with np.errstate(over="ignore"):
        result = p * np.ldexp(np.float32(1), half) * np.ldexp(np.float32(1), n.astype(np.int32) - half)
    return np.where(x == -np.inf, np.float32(0), result).astype(np.float32)


def silu(v: F32) -> F32:
    return v / (np.float32(1) + exp(-v))


def fold_lanes(lanes: F32) -> F32:
    """[..., 16] -> [...] by the fixed tree."""
    for step in (8, 4, 2, 1):
        lanes = lanes[..., :step] + lanes[..., step : 2 * step]
    return lanes[..., 0]


def striped_sum(x: F32) -> F32:
    """Over the last dimension."""
    padded = np.concatenate([x, np.zeros((*x.shape[:-1], -x.shape[-1] % 16), np.float32)], axis=-1)
    lanes = np.zeros((*x.shape[:-1], 16), np.float32)
    for at in range(0, padded.shape[-1], 16):
        lanes = lanes + padded[..., at : at + 16]
    return fold_lanes(lanes)


def rms_norm(x: F32, w: F32, eps: float) -> F32:
    n = x.shape[-1]
    padded = np.concatenate([x, np.zeros((*x.shape[:-1], -n % 16), np.float32)], axis=-1)
    lanes = np.zeros((*x.shape[:-1], 16), np.float32)
    for at in range(0, padded.shape[-1], 16):
        part = padded[..., at : at + 16]
        lanes = fma(part, part, lanes)
    r = np.float32(1) / np.sqrt(fold_lanes(lanes) / np.float32(n) + np.float32(eps))
    return (x * r[..., None]) * w


def softmax(logits: F32) -> F32:
    e = exp(logits - logits.max(axis=-1, keepdims=True))
    return e / striped_sum(e)[..., None]


def route(logits: F32, top_k: int, normalise: bool) -> tuple[NDArray[np.int32], F32]:
    p = softmax(logits)
    ids = np.argsort(-p, axis=-1, kind="stable")[:, :top_k].astype(np.int32)
    weights = np.take_along_axis(p, ids, axis=-1)
    if normalise:
        total = np.zeros(len(p), np.float32)
        for j in range(top_k):
            total = total + weights[:, j]
        weights = weights / total[:, None]
    return ids, weights


def rope_table(positions: I64, inv_freq: F32, factor: float) -> tuple[F32, F32]:
    """cos, sin [rows, half]. The 80-bit functions round to binary32 as exact ones would, but for ties at 2^-40 odds."""
    angle = (positions.astype(np.float32)[:, None] * inv_freq).astype(np.longdouble)
    scale = np.float32(factor)
    return np.cos(angle).astype(np.float32) * scale, np.sin(angle).astype(np.float32) * scale


def rope(x: F32, cos: F32, sin: F32) -> F32:
    """x [rows, heads, head_dim]."""
    half = x.shape[-1] // 2
    a, b = x[..., :half], x[..., half:]
    c, s = cos[:, None], sin[:, None]
    return np.concatenate([fma(a, c, -(b * s)), fma(b, c, a * s)], axis=-1)


def combine(outputs: F32, weights: F32) -> F32:
    """outputs [rows, top_k, hidden] in router order."""
    y = np.zeros((outputs.shape[0], outputs.shape[2]), np.float32)
    for j in range(outputs.shape[1]):
        y = fma(weights[:, j, None], outputs[:, j], y)
    return y


def fold_block(state: tuple[F32, F32, F32], s: F32, v: F32) -> tuple[F32, F32, F32]:
    """One block of one head: state (m, l, o), scores s [64] with -inf where invisible, values v [64, head_dim]."""
    m, total, o = state
    raised = np.maximum(m, s.max())
    a = exp(m - raised)
    e = exp(s - raised)
    total = fma(total, a, striped_sum(e))
    o = o * a
    for j in np.flatnonzero(np.isfinite(s)):
        o = fma(e[j], v[j], o)
    return raised, total, o


def merge(left: tuple[F32, F32, F32], right: tuple[F32, F32, F32]) -> tuple[F32, F32, F32]:
    raised = np.maximum(left[0], right[0])
    keep, take = exp(left[0] - raised), exp(right[0] - raised)
    o = fma(left[2], keep, right[2] * take)
    return raised, fma(left[1], keep, right[1] * take), o


def attend(q: F32, k: F32, v: F32, scale: float, kv: str = "f32", window: int = 0, sink: float | None = None) -> F32:
    """One query head q [head_dim] that sees the last `window` (0: all) of its keys k, values v [length, head_dim]."""
    k, v = round_to(k, kv), round_to(v, kv)
    position, dim = len(k) - 1, len(q)
    lowest = max(0, position - window + 1) if window else 0
    zero = np.float32(0)
    start = (np.float32(-np.inf), zero, np.zeros(dim, np.float32))
    states = [] if sink is None else [(np.float32(sink), np.float32(1), np.zeros(dim, np.float32))]
    for segment in range(lowest // ATTENTION_SEGMENT, position // ATTENTION_SEGMENT + 1):
        state = start
        for base in range(segment * ATTENTION_SEGMENT, (segment + 1) * ATTENTION_SEGMENT, BLOCK):
            at = base + np.arange(BLOCK)
            visible = (at >= lowest) & (at <= position)
            if not visible.any():
                continue
            keys, values = k[np.minimum(at, position)], v[np.minimum(at, position)]
            d = np.zeros(BLOCK, np.float32)
            for i in range(dim):
                d = fma(q[i], keys[:, i], d)
            s = np.where(visible, np.float32(scale) * d, np.float32(-np.inf)).astype(np.float32)
            state = fold_block(state, s, values)
        states.append(state)
    total = states[0]
    for state in states[1:]:
        total = merge(total, state)
    return total[2] / total[1]
