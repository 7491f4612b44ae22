"""Other Python threads run while the core computes."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from moestro import _core

ROWS, WIDTH = 64, 1024


def calls(path: Path) -> dict[str, Callable[[], object]]:
    """Each takes many milliseconds in one call."""
    compute, rng = _core.Compute(1), np.random.default_rng(0)
    weights = rng.standard_normal((WIDTH, WIDTH), dtype=np.float32)
    raw = weights.view(np.uint8).reshape(-1)
    packed = np.empty(_core.matrix_bytes("q4", "f16", WIDTH, WIDTH), np.uint8)
    _core.pack_matrix(compute, raw, "f32", WIDTH, WIDTH, "q4", "f16", packed)
    plain = np.empty(_core.matrix_bytes("f32", "none", WIDTH, WIDTH), np.uint8)
    _core.pack_matrix(compute, raw, "f32", WIDTH, WIDTH, "f32", "none", plain)
    matrix = _core.Matrix.from_packed(plain, "f32", "none", WIDTH, WIDTH)
    x, out = rng.standard_normal((8 * ROWS, WIDTH), dtype=np.float32), np.empty((8 * ROWS, WIDTH), np.float32)
    large, count = np.ones((64 * ROWS, WIDTH), np.float32), 64 << 20
    scratch, positions = np.empty_like(large), np.arange(1 << 18, dtype=np.int64)
    frequencies, data = np.ones(16, np.float32), np.zeros(256 << 20, np.uint8)
    work, norm, rows = _workspace(8 * ROWS), np.ones(WIDTH, np.float32), np.arange(8 * ROWS)
    mlp = _core.MlpLayer(compute, 0, norm=norm, eps=1e-6, gate=matrix, up=matrix, down=matrix)
    head = _core.Head(compute, norm=norm, eps=1e-6, slices=[matrix])
    return {
        "linear": lambda: _core.linear(compute, x, [matrix], [out]),
        "gated_mlp": lambda: _core.gated_mlp(compute, x, matrix, matrix, matrix, out),
        "MlpLayer.run": lambda: mlp.run(work),
        "Head.run": lambda: head.run(work, rows),
        "rms_norm": lambda: _core.rms_norm(compute, large, large[0], 1e-6, scratch),
        "add": lambda: _core.add(compute, scratch, large),
        "route_softmax_topk": lambda: _core.route_softmax_topk(compute, large, 8, True),
        "rope_table": lambda: _core.rope_table(positions, frequencies, 1.0),
        "quantize_activations": lambda: _core.quantize_activations(compute, large),
        "widen": lambda: _core.widen(data[: 2 * count], "bf16", count),
        "pack_matrix": lambda: _core.pack_matrix(compute, raw, "f32", WIDTH, WIDTH, "q4", "f16", packed),
        "choose_scale_type": lambda: _core.choose_scale_type(raw, "f32", WIDTH, WIDTH, "q4"),
        "unpack_matrix": lambda: _core.unpack_matrix(packed, "q4", "f16", WIDTH, WIDTH),
        "unpack_codes": lambda: _core.unpack_codes(packed, "q4", "f16", WIDTH, WIDTH),
        "xxh64": lambda: _core.xxh64(data),
        "measure_read_rate": lambda: _core.measure_read_rate(str(path), 4096, 1, "threads", "buffered", 0.1),
    }


def _workspace(rows: int) -> _core.Workspace:
    """With ones as its residual stream."""
    work = _core.Workspace(hidden=WIDTH, heads=1, kv_heads=1, head_dim=16, experts=0, top_k=0, max_rows=rows)
    tables, frequencies = np.zeros(rows // 64, np.int32), np.ones(8, np.float32)
    zeros = np.zeros(rows, np.int64)
    work.begin(np.arange(rows), tables, zeros, zeros.astype(np.int32), [(frequencies, 1.0)])
    work.x[:] = 1.0
    return work


NAMES = (
    "linear",
    "gated_mlp",
    "MlpLayer.run",
    "Head.run",
    "rms_norm",
    "add",
    "route_softmax_topk",
    "rope_table",
    "quantize_activations",
    "widen",
    "pack_matrix",
    "choose_scale_type",
    "unpack_matrix",
    "unpack_codes",
    "xxh64",
    "measure_read_rate",
)


@pytest.fixture(scope="module")
def long_calls(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Callable[[], object]]:
    path = tmp_path_factory.mktemp("gil") / "file"
    path.write_bytes(bytes(64 << 20))
    return calls(path)


def ticks_inside(call: Callable[[], object]) -> tuple[int, float]:
    """Moments at which this thread ran well inside a call made by another one, and how long the call took."""
    ended = threading.Event()
    span = [0.0, 0.0]

    def run() -> None:
        span[0] = time.perf_counter()
        call()
        span[1] = time.perf_counter()
        ended.set()

    worker, moments = threading.Thread(target=run), []
    worker.start()
    while not ended.is_set():
        moments.append(time.perf_counter())
        time.sleep(0.0001)
    worker.join()
    took = span[1] - span[0]
    early, late = span[0] + 0.25 * took, span[1] - 0.25 * took
    return sum(early < moment < late for moment in moments), took


@pytest.mark.parametrize("name", NAMES)
def test_other_threads_run_meanwhile(name: str, long_calls: dict[str, Callable[[], object]]) -> None:
    for _ in range(20):  # another process may have had the processor
        ticks, _ = ticks_inside(long_calls[name])
        if ticks:
            return
    pytest.fail(f"{name} holds the interpreter's lock")


def test_the_check_itself_sees_a_held_lock() -> None:
    """Sorting a list of ints is one call that keeps the lock."""
    values = np.random.default_rng(0).permutation(1 << 20).tolist()
    ticks, took = ticks_inside(lambda: sorted(values))
    assert took > 0.01
    assert ticks == 0
