"""The core against the numpy model of docs/numerics.md, to the bit."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction

import numpy as np
import pytest
from core import numpy_model as model
from core import numpy_model_ops as ops

from moestro import _core

TABLES = [table["name"] for table in _core.isa_tables() if table["usable"]]
INTEGER = [("q8", "f16"), ("q8", "bf16"), ("q8", "f32"), ("q4", "f16"), ("q4", "bf16"), ("q4", "f32")]


@pytest.fixture(params=[(isa, threads) for isa in TABLES for threads in (1, 2)], ids=lambda p: f"{p[0]}-{p[1]}")
def compute(request: pytest.FixtureRequest) -> _core.Compute:
    isa, threads = request.param
    made = _core.Compute(threads, isa)
    assert made.isa == isa
    return made


def normal(*shape: int, seed: int = 0, scale: float = 1.0) -> model.F32:
    return (np.random.default_rng(seed).standard_normal(shape) * scale).astype(np.float32)


def raw(array: np.ndarray) -> model.U8:
    return np.ascontiguousarray(array).view(np.uint8).reshape(-1)


def assert_same_bits(actual: np.ndarray, expected: np.ndarray) -> None:
    assert actual.dtype == expected.dtype == np.float32
    np.testing.assert_array_equal(actual.view(np.uint32), np.ascontiguousarray(expected).view(np.uint32))


def pack(compute: _core.Compute, w: model.F32, fmt: str, scale: str) -> model.U8:
    out = np.empty(_core.matrix_bytes(fmt, scale, *w.shape), np.uint8)
    _core.pack_matrix(compute, raw(w), "f32", *w.shape, fmt, scale, out)
    return out


def test_fma_of_the_model_rounds_once() -> None:
    """Against exact rational arithmetic, on ties and near them."""
    rng = np.random.default_rng(1)
    a, b = (rng.standard_normal(20000).astype(np.float32) for _ in range(2))
    product = a.astype(np.float64) * b.astype(np.float64)
    spread = rng.integers(-60, 60, a.size)
    c = (product * np.ldexp(rng.choice([-1.0, 1.0, 0.75], a.size), spread)).astype(np.float32)
    got = model.fma(a, b, c)
    for i in range(a.size):
        exact = Fraction(float(a[i])) * Fraction(float(b[i])) + Fraction(float(c[i]))
        near = got[i]
        low, high = np.nextafter(near, np.float32(-np.inf)), np.nextafter(near, np.float32(np.inf))
        error = abs(Fraction(float(near)) - exact)
        for other in (low, high):
            distance = abs(Fraction(float(other)) - exact)
            assert error < distance or (error == distance and int(near.view(np.uint32)) % 2 == 0)


@pytest.mark.parametrize(("fmt", "scale"), INTEGER)
@pytest.mark.parametrize("shape", [(1, 1), (17, 33), (16, 256), (35, 300)])
def test_packing(compute: _core.Compute, fmt: str, scale: str, shape: tuple[int, int]) -> None:
    w = normal(*shape, scale=0.05)
    expected = (model.pack_q8 if fmt == "q8" else model.pack_q4)(w, scale)
    packed = pack(compute, w, fmt, scale)
    codes, scales = _core.unpack_codes(packed, fmt, scale, *shape)
    np.testing.assert_array_equal(codes, expected.codes[:, : shape[1]])
    assert_same_bits(scales, expected.scales)
    np.testing.assert_array_equal(packed, model.integer_layout(expected, fmt, scale))


@pytest.mark.parametrize("fmt", ["q8", "q4"])
@pytest.mark.parametrize("factor", [1.0, 1e-7, 1e8])
def test_choice_of_scale_type(fmt: str, factor: float) -> None:
    w = normal(20, 70, scale=factor)
    chosen = _core.choose_scale_type(raw(w), "f32", *w.shape, fmt)
    assert chosen == model.choose_scale_type(w, fmt) == ("f16" if factor == 1 else "f32")


@pytest.mark.parametrize("cols", [1, 31, 33, 300])
def test_activation_codes(compute: _core.Compute, cols: int) -> None:
    x = normal(5, cols, seed=cols)
    x[2] = 0
    codes, scales = _core.quantize_activations(compute, x)
    expected = model.quantise_activations(x)
    np.testing.assert_array_equal(codes, expected.codes)
    assert_same_bits(scales, expected.scales)


def quantised_linear(fmt: str, w: model.F32, x: model.F32, scale: str, bias: model.F32) -> model.F32:
    if fmt == "f32":
        return model.linear_float(x, w, bias)
    if fmt == "bf16":
        return model.linear_float(x, model.round_bf16(w), bias)
    return model.linear_integer(x, (model.pack_q8 if fmt == "q8" else model.pack_q4)(w, scale), bias)


@pytest.mark.parametrize(("fmt", "scale"), [("f32", "none"), ("bf16", "none"), *INTEGER])
@pytest.mark.parametrize(("rows", "outputs", "cols"), [(1, 1, 1), (2, 33, 31), (5, 17, 257), (9, 40, 545)])
def test_linear(compute: _core.Compute, fmt: str, scale: str, rows: int, outputs: int, cols: int) -> None:
    w, x, bias = normal(outputs, cols, scale=0.05), normal(rows, cols, seed=1), normal(outputs, seed=2)
    matrix = _core.Matrix.from_packed(pack(compute, w, fmt, scale), fmt, scale, outputs, cols, bias)
    out = np.empty((rows, outputs), np.float32)
    _core.linear(compute, x, [matrix], [out])
    assert_same_bits(out, quantised_linear(fmt, w, x, scale, bias))


@pytest.mark.parametrize("fmt", ["f32", "bf16", "q8", "q4"])
def test_gated_mlp(compute: _core.Compute, fmt: str) -> None:
    hidden, width, scale = 70, 45, "f16" if fmt in ("q8", "q4") else "none"
    gate, up = normal(width, hidden, seed=1, scale=0.1), normal(width, hidden, seed=2, scale=0.1)
    down, x = normal(hidden, width, seed=3, scale=0.1), normal(6, hidden, seed=4, scale=3)
    matrices = [
        _core.Matrix.from_packed(pack(compute, w, fmt, scale), fmt, scale, *w.shape, None) for w in (gate, up, down)
    ]
    out = np.empty((6, hidden), np.float32)
    _core.gated_mlp(compute, x, *matrices, out)
    zero = np.float32(0)
    g, u = (quantised_linear(fmt, w, x, scale, zero) for w in (gate, up))
    assert_same_bits(out, quantised_linear(fmt, down, ops.silu(g) * u, scale, zero))


@pytest.mark.parametrize("n", [1, 16, 33, 500])
def test_rms_norm(compute: _core.Compute, n: int) -> None:
    x, w = normal(4, n), normal(n, seed=1)
    out = np.empty_like(x)
    _core.rms_norm(compute, x, w, 1e-6, out)
    assert_same_bits(out, ops.rms_norm(x, w, 1e-6))


@pytest.mark.parametrize("normalise", [False, True])
@pytest.mark.parametrize(("experts", "top_k"), [(1, 1), (7, 2), (64, 8), (130, 6)])
def test_router(compute: _core.Compute, experts: int, top_k: int, normalise: bool) -> None:
    logits = normal(6, experts, scale=4)
    logits[0] = 1  # all tied
    logits[1] *= 30  # probabilities down to subnormals and zero
    ids, weights = _core.route_softmax_topk(compute, logits, top_k, normalise)
    expected_ids, expected = ops.route(logits, top_k, normalise)
    np.testing.assert_array_equal(ids, expected_ids)
    assert_same_bits(weights, expected)


def test_rope(compute: _core.Compute) -> None:
    positions = np.array([0, 1, 77, 4095, 131071, 1 << 20], np.int64)
    inv_freq = (1e4 ** -(np.arange(20) / 20)).astype(np.float32)
    cos, sin = _core.rope_table(positions, inv_freq, 1.25)
    expected_cos, expected_sin = ops.rope_table(positions, inv_freq, 1.25)
    assert_same_bits(cos, expected_cos)
    assert_same_bits(sin, expected_sin)
    x = normal(6, 3, 40)
    rotated = x.copy()
    _core.rope(compute, rotated, cos, sin)
    assert_same_bits(rotated, ops.rope(x, cos, sin))


KV_HEADS, HEADS, DIM = 2, 6, 20


@pytest.fixture(params=_core.KV_TYPES)
def kv_pool(request: pytest.FixtureRequest) -> Iterator[tuple[str, _core.KvPool]]:
    runtime = _core.Runtime(threads=1, host_memory=1 << 30)
    yield request.param, runtime.set_kv(request.param, KV_HEADS, DIM, 2)
    runtime.close()


@pytest.mark.parametrize(("window", "with_sinks"), [(0, False), (100, True)])
def test_attention(compute: _core.Compute, kv_pool: tuple[str, _core.KvPool], window: int, with_sinks: bool) -> None:
    kv, pool = kv_pool
    lengths = [1, 64, 65, 513, 700]
    q, sinks = normal(len(lengths), HEADS, DIM, seed=1), normal(HEADS, seed=2) if with_sinks else None
    tables, begins, expected = [], [], np.empty_like(q)
    for row, length in enumerate(lengths):
        k, v = normal(length, KV_HEADS, DIM, seed=10 + row), normal(length, KV_HEADS, DIM, seed=20 + row)
        blocks = np.array([pool.allocate() for _ in range(-(-length // _core.KV_BLOCK))], np.int32)
        positions = np.arange(length, dtype=np.int64)
        _core.kv_append(compute, pool, 1, k, v, positions, blocks[positions // _core.KV_BLOCK])
        begins.append(len(tables))
        tables.extend(blocks)
        for head in range(HEADS):
            shared = head // (HEADS // KV_HEADS)
            sink = None if sinks is None else float(sinks[head])
            expected[row, head] = ops.attend(q[row, head], k[:, shared], v[:, shared], 0.25, kv, window, sink)
    out = np.empty_like(q)
    at = np.array(lengths, np.int64) - 1
    begin = np.array(begins, np.int64)
    _core.attention(compute, pool, 1, q, at, np.array(tables, np.int32), begin, 0.25, out, window, sinks)
    assert_same_bits(out, expected)
