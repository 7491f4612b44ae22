"""Layers as Python binds them: the bits of the single operations, wrong arguments named, what was given kept alive."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from moestro import _core, errors

HIDDEN, HEADS, KV_HEADS, HEAD_DIM, WIDTH, VOCAB = 40, 4, 2, 16, 24, 50
EPS, SCALE, FACTOR = 1e-5, 0.25, 1.25


@pytest.fixture
def runtime() -> Iterator[_core.Runtime]:
    made = _core.Runtime(threads=2, host_memory=64 << 20)
    yield made
    made.close()


@pytest.fixture
def kv(runtime: _core.Runtime) -> _core.KvPool:
    return runtime.set_kv("f32", KV_HEADS, HEAD_DIM, 1)


def floats(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype(np.float32)


def matrix(rows: int, cols: int, seed: int = 0) -> _core.Matrix:
    out = np.empty(_core.matrix_bytes("f32", "none", rows, cols), np.uint8)
    raw = floats(rows, cols, seed=seed).view(np.uint8).reshape(-1)
    _core.pack_matrix(_core.Compute(), raw, "f32", rows, cols, "f32", "none", out)
    return _core.Matrix.from_packed(out, "f32", "none", rows, cols)


def workspace(**changes: int) -> _core.Workspace:
    shape = {"hidden": HIDDEN, "heads": HEADS, "kv_heads": KV_HEADS, "head_dim": HEAD_DIM}
    return _core.Workspace(**{**shape, "experts": 4, "top_k": 2, "max_rows": 8, **changes})


def places(rows: int, block: int = 0, **changes: Any) -> dict[str, Any]:
    return {
        "positions": np.arange(rows),
        "tables": np.array([block], np.int32),
        "table_begin": np.zeros(rows, np.int64),
        "blocks": np.full(rows, block, np.int32),
        "rotary": [(floats(HEAD_DIM // 2, seed=1), FACTOR)],
    } | changes


def attention_weights() -> dict[str, Any]:
    return {
        "norm": floats(HIDDEN, seed=2),
        "q": matrix(HEADS * HEAD_DIM, HIDDEN, 3),
        "k": matrix(KV_HEADS * HEAD_DIM, HIDDEN, 4),
        "v": matrix(KV_HEADS * HEAD_DIM, HIDDEN, 5),
        "o": matrix(HIDDEN, HEADS * HEAD_DIM, 6),
        "q_norm": floats(HEAD_DIM, seed=7),
        "k_norm": floats(HEAD_DIM, seed=8),
    }


def by_hand(compute: _core.Compute, kv: _core.KvPool, block: int, x: np.ndarray) -> np.ndarray:
    weights, at = attention_weights(), places(len(x), block)
    normed, branch = np.empty_like(x), np.empty_like(x)
    q, k, v = (np.empty((len(x), heads, HEAD_DIM), np.float32) for heads in (HEADS, KV_HEADS, KV_HEADS))
    _core.rms_norm(compute, x, weights["norm"], EPS, normed)
    flat = [array.reshape(len(x), -1) for array in (q, k, v)]
    _core.linear(compute, normed, [weights["q"], weights["k"], weights["v"]], flat)
    _core.rms_norm(compute, q, weights["q_norm"], EPS, q)
    _core.rms_norm(compute, k, weights["k_norm"], EPS, k)
    cos, sin = _core.rope_table(at["positions"], *at["rotary"][0])
    _core.rope(compute, q, cos, sin)
    _core.rope(compute, k, cos, sin)
    _core.kv_append(compute, kv, 0, k, v, at["positions"], at["blocks"])
    attended = np.empty_like(q)
    _core.attention(compute, kv, 0, q, at["positions"], at["tables"], at["table_begin"], SCALE, attended, 5)
    _core.linear(compute, attended.reshape(len(x), -1), [weights["o"]], [branch])
    return x + branch


@pytest.mark.parametrize("rows", [1, 8])
def test_attention_gives_the_bits_of_the_operations(runtime: _core.Runtime, kv: _core.KvPool, rows: int) -> None:
    compute, work, x = runtime.compute, workspace(), floats(rows, HIDDEN)
    layer = _core.AttentionLayer(compute, kv, 0, **attention_weights(), eps=EPS, scale=SCALE, window=5)
    gc.collect()  # the layer alone keeps its weights
    work.begin(**places(rows, kv.allocate()))
    work.x[:] = x
    layer.run(work)
    np.testing.assert_array_equal(work.x, by_hand(compute, kv, kv.allocate(), x))
    assert work.busy_ns > 0


def test_mlp_and_head_give_the_bits_of_the_operations() -> None:
    compute, work, x = _core.Compute(2), workspace(), floats(3, HIDDEN)
    norm, out, logits = floats(HIDDEN, seed=2), np.empty((3, HIDDEN), np.float32), np.empty((3, VOCAB), np.float32)
    gate, up, down = matrix(WIDTH, HIDDEN, 1), matrix(WIDTH, HIDDEN, 2), matrix(HIDDEN, WIDTH, 3)
    slices = [matrix(32, HIDDEN, 4), matrix(VOCAB - 32, HIDDEN, 5)]
    layer = _core.MlpLayer(compute, 0, norm=norm.copy(), eps=EPS, gate=gate, up=up, down=down)
    head = _core.Head(compute, norm=norm.copy(), eps=EPS, slices=slices)
    assert head.vocab == VOCAB
    gc.collect()
    work.begin(**places(3))
    work.x[:] = x
    layer.run(work)
    got = head.run(work, np.array([2, 0]))

    normed = np.empty_like(x)
    _core.rms_norm(compute, x, norm, EPS, normed)
    _core.gated_mlp(compute, normed, gate, up, down, out)
    np.testing.assert_array_equal(work.x, x + out)
    _core.rms_norm(compute, x + out, norm, EPS, normed)
    _core.linear(compute, normed, slices, [logits[:, :32], logits[:, 32:]])
    np.testing.assert_array_equal(got, logits[[2, 0]])
    assert head.run(work, np.empty(0, np.int64)).shape == (0, VOCAB)


def test_x_is_a_view_that_keeps_the_workspace() -> None:
    work = workspace()
    assert work.x.shape == (0, HIDDEN)
    work.begin(**places(5))
    x = work.x
    x[:] = 3.0
    np.testing.assert_array_equal(work.x, x)
    assert (x.shape, x.flags.c_contiguous, x.flags.writeable) == ((5, HIDDEN), True, True)
    del work
    gc.collect()
    assert (x == 3.0).all()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"positions": np.arange(3, dtype=np.int32)}, r"argument positions: .*int64"),
        ({"tables": np.zeros(1)}, r"argument tables: .*int32"),
        ({"table_begin": np.zeros(2, np.int64)}, r"argument table_begin: .*\[3\]"),
        ({"blocks": np.zeros(2, np.int32)}, r"argument blocks: .*\[3\]"),
        ({"rotary": [(floats(HEAD_DIM), 1.0)]}, r"argument inv_freq: .*\[\.\.\., 8\]"),
        ({"rotary": [(floats(2, HEAD_DIM // 2), 1.0)]}, "one row per position"),
        ({"positions": np.array([0, -1, 2])}, "row 1 has -1"),
        ({"positions": np.array([0, 1, 64])}, "needs 2 blocks"),
        ({"rotary": [(np.full(HEAD_DIM // 2, 1e9, np.float32), 1.0)]}, "rotary angle"),
    ],
)
def test_places_that_make_no_sense_are_named(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(errors.UsageError, match=said):
        workspace().begin(**places(3, **changes))


def test_more_rows_than_there_is_room_for() -> None:
    with pytest.raises(errors.UsageError, match="1 to 8 rows"):
        workspace().begin(**places(9))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"q": matrix(3 * HEAD_DIM, HIDDEN)}, "argument q: expected a multiple of 32"),
        ({"k": matrix(HEADS * HEAD_DIM, HIDDEN)}, r"argument k: .*\[32, 40\]"),
        ({"v": matrix(KV_HEADS * HEAD_DIM, HIDDEN + 1)}, r"argument v: .*\[32, 40\]"),
        ({"o": matrix(HEADS * HEAD_DIM, HIDDEN)}, r"argument o: .*\[40, 64\]"),
        ({"norm": floats(HIDDEN + 1)}, r"argument norm: .*\[40\]"),
        ({"q_norm": floats(HIDDEN)}, r"argument q_norm: .*\[16\]"),
        ({"window": -1}, "argument window"),
    ],
)
def test_wrong_attention_weights_are_named(
    runtime: _core.Runtime, kv: _core.KvPool, changes: dict[str, Any], said: str
) -> None:
    arguments = attention_weights() | {"eps": EPS, "scale": SCALE} | changes
    with pytest.raises(errors.UsageError, match=said):
        _core.AttentionLayer(runtime.compute, kv, 0, **arguments)
    with pytest.raises(errors.UsageError, match="argument layer: expected 0 to 0"):
        _core.AttentionLayer(runtime.compute, kv, 1, **(attention_weights() | {"eps": EPS, "scale": SCALE}))


def test_other_wrong_weights_are_named(runtime: _core.Runtime) -> None:
    compute, norm, square = runtime.compute, floats(HIDDEN), matrix(HIDDEN, HIDDEN)
    wrong: list[tuple[str, Callable[[], object]]] = [
        (
            r"argument up: .*\[24, 40\]",
            lambda: _core.MlpLayer(
                compute, 0, norm=norm, eps=EPS, gate=matrix(WIDTH, HIDDEN), up=square, down=matrix(HIDDEN, WIDTH)
            ),
        ),
        (
            r"argument norm: .*\[40\]",
            lambda: _core.MlpLayer(compute, 0, norm=norm[1:], eps=EPS, gate=square, up=square, down=square),
        ),
        (
            "argument top_k: expected 1 to 40",
            lambda: _core.MoeLayer(runtime, 0, norm=norm, eps=EPS, router=square, top_k=41, normalise=True),
        ),
        ("argument slices: expected at least one", lambda: _core.Head(compute, norm=norm, eps=EPS, slices=[])),
        (
            r"argument slices: .*\[any, 40\]",
            lambda: _core.Head(compute, norm=norm, eps=EPS, slices=[square, matrix(HIDDEN, WIDTH)]),
        ),
    ]
    for said, make in wrong:
        with pytest.raises(errors.UsageError, match=said):
            make()


def test_layers_of_a_closed_runtime_are_refused(runtime: _core.Runtime, kv: _core.KvPool) -> None:
    attention = _core.AttentionLayer(runtime.compute, kv, 0, **attention_weights(), eps=EPS, scale=SCALE)
    experts = _core.MoeLayer(
        runtime, 0, norm=floats(HIDDEN), eps=EPS, router=matrix(4, HIDDEN), top_k=2, normalise=True
    )
    work = workspace()
    work.begin(**places(1, kv.allocate()))
    with pytest.raises(errors.UsageError, match="no experts"):
        experts.submit(work)
    runtime.close()
    for call in (attention.run, experts.submit, experts.wait):
        with pytest.raises(errors.UsageError, match="closed"):
            call(work)


def test_a_workspace_says_its_bytes() -> None:
    shape = {"hidden": 1024, "heads": 16, "kv_heads": 4, "head_dim": 128, "experts": 64, "top_k": 8}
    widths = 3 * 1024 + 2 * 16 * 128 + 2 * 4 * 128 + 128 + 64 + 3 * 8 + 1
    for rows in (1, 64, 512):
        assert 0 <= _core.Workspace.nbytes(**shape, max_rows=rows) - 4 * rows * widths < 4096 + 14 * 64
