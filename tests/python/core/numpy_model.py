"""docs/numerics.md once more, in numpy: an oracle that shares no code with the core.

Every function returns exactly the bits that the page defines. Loops run over the positions whose order the page fixes;
numpy runs over everything else. Arrays are float32 unless said.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
I8 = NDArray[np.int8]
U8 = NDArray[np.uint8]
GROUP = 32
SEGMENT = 256


def fma(a: F32, b: F32, c: F32) -> F32:
    """a·b + c rounded once.

    The product is exact in binary64. Its sum with c is rounded to odd there (an inexact result gets an odd last bit),
    so that the second rounding, to binary32, still sees on which side of a tie the exact sum lies.
    """
    product = np.asarray(a, np.float64) * np.asarray(b, np.float64)
    addend = np.asarray(c, np.float64)
    total = np.asarray(product + addend)
    back = total - product
    error = (product - (total - back)) + (addend - back)
    bits = total.view(np.int64) if total.ndim else total.reshape(1).view(np.int64).reshape(())
    inexact_even = (error != 0) & ((bits & 1) == 0)
    away = np.where((error > 0) == (total > 0), 1, -1)
    odd = np.asarray(bits + np.where(inexact_even, away, 0), np.int64)
    with np.errstate(over="ignore"):
        return np.frombuffer(odd.tobytes(), np.float64).reshape(total.shape).astype(np.float32)


def round_bf16(x: F32) -> F32:
    """Nearest bfloat16, ties to even, widened back. Finite values only."""
    bits = np.ascontiguousarray(x, np.float32).view(np.uint32)
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) & np.uint32(0xFFFF0000)
    return rounded.view(np.float32)


def round_to(x: F32, kind: str) -> F32:
    """x rounded to "f32", "bf16" or "f16" and widened back."""
    if kind == "bf16":
        return round_bf16(x)
    with np.errstate(over="ignore"):
        return x.astype(np.float16).astype(np.float32) if kind == "f16" else np.asarray(x, np.float32)


def pad_columns(x: NDArray, multiple: int = GROUP) -> NDArray:
    return np.pad(x, ((0, 0), (0, -x.shape[1] % multiple)))


@dataclass(frozen=True)
class Quantised:
    """codes int8 [rows, padded cols], scales [rows, groups] already rounded to their stored type."""

    codes: I8
    scales: F32


def choose_scale_type(w: F32, fmt: str) -> str:
    groups = pad_columns(w).reshape(w.shape[0], -1, GROUP)
    scale = np.abs(groups).max(axis=2) / np.float32(127 if fmt == "q8" else 8)
    used = scale[scale != 0]
    return "f16" if np.all((used >= 2.0**-18) & (used <= 65504)) else "f32"


def divide_and_round(groups: F32, scale: F32, low: int, high: int) -> F32:
    safe = np.where(scale == 0, np.float32(1), scale)[..., None]
    codes = np.clip(np.rint(groups / safe), low, high)
    return np.where(scale[..., None] == 0, np.float32(0), codes)


def pack_q8(w: F32, scale_type: str) -> Quantised:
    groups = pad_columns(w).reshape(w.shape[0], -1, GROUP)
    scales = round_to(np.abs(groups).max(axis=2) / np.float32(127), scale_type)
    codes = divide_and_round(groups, scales, -127, 127).astype(np.int8)
    return Quantised(codes.reshape(w.shape[0], -1), scales)


def pack_q4(w: F32, scale_type: str) -> Quantised:
    groups = pad_columns(w).reshape(w.shape[0], -1, GROUP)
    where = np.abs(groups).argmax(axis=2)[..., None]  # the first one on a tie
    extreme = np.take_along_axis(groups, where, axis=2)[..., 0]
    best_scale = np.zeros_like(extreme)
    best_codes = np.zeros_like(groups)
    least = np.full(extreme.shape, np.inf, np.float32)
    for i in range(-8, 9):
        with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
            scale = round_to(extreme / np.float32(-8 - i / 8), scale_type)
            inverse = np.float32(1) / scale
            codes = np.clip(np.rint(groups * inverse[..., None]), -8, 7)
            error = np.zeros(extreme.shape, np.float32)
            for k in range(GROUP):
                difference = groups[..., k] - scale * codes[..., k]
                error += difference * difference
        wins = np.isfinite(scale) & np.isfinite(inverse) & (error < least)
        least = np.where(wins, error, least)
        best_scale = np.where(wins, scale, best_scale)
        best_codes = np.where(wins[..., None], codes, best_codes)
    return Quantised(best_codes.astype(np.int8).reshape(w.shape[0], -1), best_scale)


def stored(x: F32, kind: str) -> U8:
    """Little-endian bytes of x as "f32", "bf16" or "f16"."""
    if kind == "bf16":
        return (round_bf16(x).view(np.uint32) >> 16).astype(np.uint16).view(np.uint8)
    return np.ascontiguousarray(x).astype(np.float16 if kind == "f16" else np.float32).view(np.uint8)


def integer_layout(q: Quantised, fmt: str, scale_type: str) -> U8:
    """The packed bytes of a q8 or q4 matrix."""
    rows, cols = q.codes.shape
    panels = -(-rows // 16)
    codes = np.zeros((panels * 16, cols), np.int8)
    codes[:rows] = q.codes
    scales = np.zeros((panels * 16, cols // GROUP), np.float32)
    scales[:rows] = q.scales
    out: list[U8] = []
    for panel in range(panels):
        lanes = slice(16 * panel, 16 * panel + 16)
        for begin in range(0, cols, SEGMENT):
            end = min(begin + SEGMENT, cols)
            by_group = np.ascontiguousarray(scales[lanes, begin // GROUP : end // GROUP].T)
            scale_bytes = stored(by_group, scale_type).ravel()
            out.append(np.pad(scale_bytes, (0, -scale_bytes.size % 64)))
            group = codes[lanes, begin:end].reshape(16, -1, GROUP)
            if fmt == "q8":  # group, quad, lane, byte
                out.append(group.reshape(16, -1, 8, 4).transpose(1, 2, 0, 3).ravel().view(np.uint8))
            else:
                offset = (group + 8).astype(np.uint8)
                both = offset[..., :16] | offset[..., 16:] << 4
                out.append(both.reshape(16, -1, 4, 4).transpose(1, 2, 0, 3).ravel())
    return np.concatenate(out)


def quantise_activations(x: F32) -> Quantised:
    return pack_q8(x, "f32")  # the same rule, with unrounded scales


def linear_float(x: F32, w: F32, bias: F32 | None = None) -> F32:
    """x [rows, K], w [N, K] (bf16 values widened) -> [rows, N]."""
    total = np.zeros((x.shape[0], w.shape[0]), np.float32)
    for begin in range(0, x.shape[1], SEGMENT):
        acc = np.zeros_like(total)
        for k in range(begin, min(begin + SEGMENT, x.shape[1])):
            acc = fma(w[None, :, k], x[:, None, k], acc)
        total = total + acc
    return total if bias is None else total + bias


def linear_integer(x: F32, w: Quantised, bias: F32 | None = None) -> F32:
    """x [rows, K] float32, quantised here; -> [rows, N]."""
    q = quantise_activations(x)
    rows, groups = q.scales.shape
    a = q.codes.astype(np.int32).reshape(rows, groups, GROUP)
    b = w.codes.astype(np.int32).reshape(w.codes.shape[0], groups, GROUP)
    dots = np.einsum("rgk,ngk->grn", a, b).astype(np.float32)  # exact: at most 32·127·127
    total = np.zeros(dots.shape[1:], np.float32)
    for begin in range(0, groups, SEGMENT // GROUP):
        acc = np.zeros_like(total)
        for g in range(begin, min(begin + SEGMENT // GROUP, groups)):
            acc = fma(w.scales[None, :, g] * q.scales[:, None, g], dots[g], acc)
        total = total + acc
    return total if bias is None else total + bias
