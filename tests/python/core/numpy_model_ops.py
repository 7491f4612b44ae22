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


def sigmoid(v: F32) -> F32:
    return np.float32(1) / (np.float32(1) + exp(np.float32(0) - v))


def tanh(x: F32) -> F32:
    z = x * x
    p = np.float32(-5.70498872745e-3)
    for c in (2.06390887954e-2, -5.37397155531e-2, 1.33314422036e-1, -3.33332819422e-1):
        p = fma(p, z, np.float32(c))
    small = fma(p * z, x, x)
    e = exp(np.float32(-2) * np.abs(x))
    large = (np.float32(1) - e) / (np.float32(1) + e)
    return np.where(np.abs(x) < np.float32(0.625), small, np.where(x < 0, -large, large)).astype(np.float32)


def softcap(x: F32, cap: float) -> F32:
    return np.float32(cap) * tanh(x / np.float32(cap)) if cap > 0 else x


def silu(v: F32) -> F32:
    return v / (np.float32(1) + exp(-v))


def gated(kind: str, g: F32, u: F32) -> F32:
    one, seven = np.float32(1), np.float32(7)
    if kind == "silu":
        return silu(g) * u
    if kind == "gelu_tanh":
        z = g * fma(g * g, np.float32(0.0713548162726), np.float32(1.59576912161))
        return (g / (one + exp(np.float32(0) - z))) * u
    a, b = np.minimum(seven, g), np.maximum(-seven, np.minimum(seven, u))
    return (b + one) * (a / (one + exp(np.float32(-1.702) * a)))


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


def sum_of_squares(x: F32) -> F32:
    """Over the last dimension."""
    padded = np.concatenate([x, np.zeros((*x.shape[:-1], -x.shape[-1] % 16), np.float32)], axis=-1)
    lanes = np.zeros((*x.shape[:-1], 16), np.float32)
    for at in range(0, padded.shape[-1], 16):
        part = padded[..., at : at + 16]
        lanes = fma(part, part, lanes)
    return fold_lanes(lanes)


def rms_norm(x: F32, w: F32, eps: float) -> F32:
    r = np.float32(1) / np.sqrt(sum_of_squares(x) / np.float32(x.shape[-1]) + np.float32(eps))
    return (x * r[..., None]) * w


def layer_norm(x: F32, w: F32, bias: F32 | None, eps: float) -> F32:
    n = np.float32(x.shape[-1])
    c = x - (striped_sum(x) / n)[..., None]
    r = np.float32(1) / np.sqrt(sum_of_squares(c) / n + np.float32(eps))
    y = (c * r[..., None]) * w
    return y if bias is None else y + bias


def softmax(logits: F32) -> F32:
    e = exp(logits - logits.max(axis=-1, keepdims=True))
    return e / striped_sum(e)[..., None]


def descending(scores: F32, count: int) -> I64:
    """The columns of the largest, ties to the lower one."""
    return np.argsort(-scores, axis=-1, kind="stable")[:, :count]


def keep_groups(scores: F32, groups: int, kept: int, best: int) -> F32:
    """-inf where a group does not take part."""
    cut = scores.reshape(len(scores), groups, -1)
    largest = -np.sort(-cut, axis=-1)
    values = largest[..., 0] if best == 1 else largest[..., 0] + largest[..., 1]
    stays = np.zeros(values.shape, bool)
    np.put_along_axis(stays, descending(values, kept), True, axis=-1)
    return np.where(stays[..., None], cut, np.float32(-np.inf)).reshape(scores.shape)


def route(
    logits: F32,
    top_k: int,
    normalise: bool,
    *,
    score: str = "softmax",
    correction: F32 | None = None,
    groups: int = 1,
    kept_groups: int = 1,
    group_best: int = 1,
    norm_eps: float = 0.0,
    norm_min: float = 0.0,
    scale: float = 1.0,
    jitter: float = 0.0,
) -> tuple[NDArray[np.int32], F32]:
    if score == "sparsemixer":
        ids, weights = sparsemixer(logits, top_k, jitter)
    else:
        scores = softmax(logits) if score == "softmax" else sigmoid(logits) if score == "sigmoid" else logits
        choosing = scores if correction is None else scores + correction
        ids = descending(choosing if groups == 1 else keep_groups(choosing, groups, kept_groups, group_best), top_k)
        weights = np.take_along_axis(scores, ids, axis=-1)
        if score == "chosen":
            weights = softmax(weights)
        if score == "sigmoid_of_chosen":
            weights = sigmoid(weights)
    if normalise:
        total = np.zeros(len(logits), np.float32)
        for j in range(top_k):
            total = total + weights[:, j]
        weights = weights / np.maximum(total + np.float32(norm_eps), np.float32(norm_min))[:, None]
    return ids.astype(np.int32), weights * np.float32(scale)


def sparsemixer(logits: F32, rounds: int, jitter: float) -> tuple[I64, F32]:
    left, ids, weights = logits.copy(), [], []
    for _ in range(rounds):
        best = np.argmax(left, axis=-1)[:, None]
        b = np.take_along_axis(left, best, axis=-1)
        with np.errstate(invalid="ignore"):  # 0 / 0 is not above anything
            far = (b - logits) / np.maximum(np.abs(logits), b) > np.float32(2) * np.float32(jitter)
        p = softmax(np.where((left < logits) | far, b - np.float32(1000), logits).astype(np.float32))
        ids.append(best)
        weights.append(np.take_along_axis(p, best, axis=-1))
        np.put_along_axis(left, best, np.float32(-np.inf), axis=-1)
    return np.concatenate(ids, axis=-1), np.concatenate(weights, axis=-1)


def rope_table(positions: I64, inv_freq: F32, factor: float) -> tuple[F32, F32]:
    """cos, sin [rows, half]. The 80-bit functions round to binary32 as exact ones would, but for ties at 2^-40 odds."""
    angle = (positions.astype(np.float32)[:, None] * inv_freq).astype(np.longdouble)
    scale = np.float32(factor)
    return np.cos(angle).astype(np.float32) * scale, np.sin(angle).astype(np.float32) * scale


def rope(x: F32, cos: F32, sin: F32, first: int = 0, neighbours: bool = False) -> F32:
    """x [rows, heads, head_dim], of which as many elements are turned, from `first` on, as cos and sin say."""
    half, y = cos.shape[-1], x.copy()
    if neighbours:
        at = first + 2 * np.arange(half)
        partner = at + 1
    else:
        at = first + np.arange(half)
        partner = at + half
    a, b = x[..., at], x[..., partner]
    c, s = cos[:, None], sin[:, None]
    y[..., at], y[..., partner] = fma(a, c, -(b * s)), fma(b, c, a * s)
    return y


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


def attend(
    q: F32,
    k: F32,
    v: F32,
    scale: float,
    kv: str = "f32",
    window: int = 0,
    sink: float | None = None,
    *,
    chunk: int = 0,
    cap: float = 0.0,
) -> F32:
    """One query head q [key_dim] at the last position of k [length, key_dim] and v [length, value_dim].

    window, chunk, cap: 0 is none.
    """
    k, v = round_to(k, kv), round_to(v, kv)
    position, dim = len(k) - 1, v.shape[1]
    lowest = max(0, position - window + 1 if window else 0, position // chunk * chunk if chunk else 0)
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
            for i in range(len(q)):
                d = fma(q[i], keys[:, i], d)
            s = np.where(visible, softcap(np.float32(scale) * d, cap), np.float32(-np.inf)).astype(np.float32)
            state = fold_block(state, s, values)
        states.append(state)
    total = states[0]
    for state in states[1:]:
        total = merge(total, state)
    return total[2] / total[1]
