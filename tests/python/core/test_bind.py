"""The binding's own promises: wrong arguments are named, arrays cross without a copy, errors have their class."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from moestro import _core, core, errors

ROWS, COLS, OUT = 3, 40, 5
F32_BYTES = _core.matrix_bytes("f32", "none", OUT, COLS)


@pytest.fixture(scope="module")
def compute() -> _core.Compute:
    return _core.Compute(2)


@pytest.fixture(scope="module")
def weights() -> np.ndarray:
    return np.random.default_rng(0).standard_normal((OUT, COLS)).astype(np.float32)


def packed(compute: _core.Compute, weights: np.ndarray) -> np.ndarray:
    rows, cols = weights.shape
    out = np.empty(_core.matrix_bytes("f32", "none", rows, cols), np.uint8)
    _core.pack_matrix(compute, weights.view(np.uint8).reshape(-1), "f32", rows, cols, "f32", "none", out)
    return out


@pytest.fixture(scope="module")
def matrix(compute: _core.Compute, weights: np.ndarray) -> _core.Matrix:
    return _core.Matrix.from_packed(packed(compute, weights), "f32", "none", OUT, COLS)


def floats(*shape: int) -> np.ndarray:
    return np.ones(shape, np.float32)


def read_only(array: np.ndarray) -> np.ndarray:
    array.flags.writeable = False
    return array


def misaligned(rows: int, cols: int) -> np.ndarray:
    return np.zeros(rows * cols * 4 + 1, np.uint8)[1:].view(np.float32).reshape(rows, cols)


# (what is wrong, the x and the out of a linear, what the message must say)
WRONG_LINEAR: list[tuple[str, Any, Any, list[str]]] = [
    ("dtype", np.ones((ROWS, COLS)), floats(ROWS, OUT), ["argument x", "float32", "float64 [3, 40]"]),
    ("rank", floats(COLS), floats(ROWS, OUT), ["argument x", "[any, any]", "[40]"]),
    ("inner size", floats(ROWS, COLS + 1), floats(ROWS, OUT), ["argument weights[0]", "[any, 41]", "[5, 40]"]),
    ("order", floats(COLS, ROWS).T, floats(ROWS, OUT), ["argument x", "not C-contiguous"]),
    ("gaps", floats(ROWS, 2 * COLS)[:, ::2], floats(ROWS, OUT), ["argument x", "not C-contiguous"]),
    ("alignment", misaligned(ROWS, COLS), floats(ROWS, OUT), ["argument x", "misaligned"]),
    ("list", [[1.0]], floats(ROWS, OUT), ["argument x", "got list"]),
    ("none", None, floats(ROWS, OUT), ["argument x", "got NoneType"]),
    ("byte order", floats(ROWS, COLS).astype(">f4"), floats(ROWS, OUT), ["argument x", ">f4"]),
    ("out shape", floats(ROWS, COLS), floats(ROWS, OUT + 1), ["argument outs[0]", "[3, 5]", "[3, 6]"]),
    ("out dtype", floats(ROWS, COLS), np.ones((ROWS, OUT), np.int32), ["argument outs[0]", "float32", "int32"]),
    ("out read-only", floats(ROWS, COLS), read_only(floats(ROWS, OUT)), ["argument outs[0]", "read-only"]),
    ("out transposed", floats(ROWS, COLS), floats(OUT, ROWS).T, ["argument outs[0]", "rows are not contiguous"]),
    ("out reversed", floats(ROWS, COLS), floats(ROWS, OUT)[::-1], ["argument outs[0]", "rows are not contiguous"]),
    ("out repeated", floats(ROWS, COLS), np.broadcast_to(floats(1, OUT), (ROWS, OUT)), ["argument outs[0]"]),
]


@pytest.mark.parametrize(
    ("x", "out", "said"), [case[1:] for case in WRONG_LINEAR], ids=[case[0] for case in WRONG_LINEAR]
)
def test_wrong_arrays_are_named(
    compute: _core.Compute, matrix: _core.Matrix, x: Any, out: Any, said: list[str]
) -> None:
    with pytest.raises(errors.UsageError) as caught:
        _core.linear(compute, x, [matrix], [out])
    assert all(part in str(caught.value) for part in said), caught.value


def wrong_calls(compute: _core.Compute, matrix: _core.Matrix) -> list[tuple[Callable[[], object], str]]:
    """(call, what its message must say)."""
    square = _core.Matrix.from_packed(packed(compute, floats(COLS, COLS)), "f32", "none", COLS, COLS)
    raw, x, y = np.zeros(F32_BYTES, np.uint8), floats(ROWS, COLS), floats(ROWS, OUT)
    both = floats(2 * ROWS, COLS)
    return [
        (lambda: _core.linear(compute, x, [matrix, matrix], [y]), "weights and outs"),
        (lambda: _core.linear(compute, x, [raw], [y]), "argument weights[0]: expected a Matrix; got ndarray"),
        (lambda: _core.linear(compute, x, [square], [x]), "shares memory with x"),
        (lambda: _core.linear(compute, both[:ROWS], [square], [both[1 : ROWS + 1]]), "shares memory with x"),
        (lambda: _core.gated_mlp(compute, x, matrix, matrix, matrix, floats(ROWS, COLS)), "argument down"),
        (lambda: _core.gated_mlp(compute, x, matrix, square, square, floats(ROWS, COLS)), "argument up"),
        (lambda: _core.rms_norm(compute, x, floats(COLS - 1), 1e-6, x), "argument weight"),
        (lambda: _core.rms_norm(compute, x, floats(COLS), 1e-6, floats(ROWS, 1, COLS)), "argument out"),
        (lambda: _core.rms_norm(compute, both[:ROWS], floats(COLS), 1e-6, both[1 : ROWS + 1]), "shares memory with x"),
        (lambda: _core.add(compute, x, floats(ROWS * COLS)), "argument y"),
        (lambda: _core.route_softmax_topk(compute, x, COLS + 1, True), "argument top_k: expected 1 to 40"),
        (lambda: _core.route_softmax_topk(compute, x, 0, True), "argument top_k"),
        (lambda: _core.rope_table(np.zeros(3, np.int32), floats(4), 1.0), "argument positions"),
        (lambda: _core.rope_table(np.zeros(3, np.int64), floats(2, 4), 1.0), "argument inv_freq"),
        (lambda: _core.rope(compute, floats(3, 2, 8), floats(3, 3), floats(3, 4)), "argument cos"),
        (lambda: _core.rope(compute, floats(3, 2, 7), floats(3, 3), floats(3, 3)), "even head_dim"),
        (lambda: _core.widen(np.zeros(7, np.uint8), "f16", 4), "argument source"),
        (lambda: _core.widen(np.zeros(8, np.uint8), "f8", 4), "f8"),
        (lambda: _core.matrix_bytes("q5", "none", 1, 1), "q5"),
        (lambda: _core.matrix_bytes("q8", "f64", 1, 1), "f64"),
        (lambda: _core.matrix_bytes("q8", "none", 1, 1), "needs scales"),
        (lambda: _core.matrix_bytes("bf16", "f16", 1, 1), "has no scales"),
        (lambda: _core.matrix_bytes("f32", "none", -1, 1), "argument rows"),
        (lambda: _core.matrix_bytes("f32", "none", 1, 2**31), "argument cols"),
        (lambda: _core.matrix_bytes("f32", "none", 0, 1), "at least one row"),
        (lambda: _core.matrix_bytes("f32", "none", 2**31 - 1, 2**31 - 1), "too large"),
        (lambda: _core.choose_scale_type(raw, "f32", OUT, COLS, "q8"), "argument source"),
        (lambda: _core.pack_matrix(compute, raw, "f32", OUT, COLS, "f32", "none", raw), "argument source"),
        (lambda: _core.unpack_matrix(raw[:-1], "f32", "none", OUT, COLS), "argument packed"),
        (lambda: _core.unpack_codes(raw, "f32", "none", OUT, COLS), "integer format"),
        (lambda: _core.Matrix.from_packed(raw, "f32", "none", OUT, COLS, floats(OUT + 1)), "argument bias"),
        (lambda: _core.Compute(0), "argument threads"),
        (lambda: _core.Compute(5000), "argument threads"),
        (lambda: _core.Compute(1, "sse9"), "sse9"),
        (lambda: _core.xxh64([1, 2]), "argument data"),
        (lambda: _core.xxh64(np.zeros((4, 4))[:, ::2]), "argument data"),
        (lambda: _core.measure_read_rate("/dev/null", 4096, 1, "auto", "cached", 1.0), "argument cache"),
        (lambda: _core.measure_read_rate("/dev/null", 0, 1, "auto", "direct", 1.0), "block_bytes"),
    ]


def test_every_wrong_call_is_a_usage_error(compute: _core.Compute, matrix: _core.Matrix) -> None:
    for call, said in wrong_calls(compute, matrix):
        with pytest.raises(errors.UsageError) as caught:
            call()
        assert said in str(caught.value), (said, str(caught.value))


def wrong_kv_calls(compute: _core.Compute, kv: _core.KvPool, block: int) -> list[tuple[Callable[[], object], str]]:
    """The same of a pool of 2 layers, 2 heads of 8."""
    k, at, ids = floats(3, 2, 8), np.arange(3), np.full(3, block, np.int32)
    q, out, begin = floats(3, 4, 8), floats(3, 4, 8), np.zeros(3, np.int64)

    def append(layer: int = 0, k: Any = k, v: Any = k, at: Any = at, ids: Any = ids) -> Callable[[], object]:
        return lambda: _core.kv_append(compute, kv, layer, k, v, at, ids)

    def attend(
        layer: int = 0, q: Any = q, at: Any = at, tables: Any = ids, begin: Any = begin, out: Any = out, **more: Any
    ) -> Callable[[], object]:
        return lambda: _core.attention(compute, kv, layer, q, at, tables, begin, 1.0, out, **more)

    free = block + 1
    return [
        (append(layer=2), "argument layer: expected 0 to 1; got 2"),
        (append(k=floats(3, 1, 8)), "argument k"),
        (append(v=floats(2, 2, 8)), "argument v"),
        (append(at=at.astype(np.int32)), "argument positions"),
        (append(at=np.array([0, -1, 2])), "row 1 has -1"),
        (append(ids=ids[:2]), "argument blocks"),
        (append(ids=np.full(3, free, np.int32)), f"block {free} is not in use"),
        (append(ids=np.full(3, -1, np.int32)), "block -1 is not in use"),
        (attend(layer=-1), "argument layer"),
        (attend(q=floats(3, 4, 7)), "argument q"),
        (attend(q=floats(3, 3, 8), out=floats(3, 3, 8)), "multiple of 2 heads"),
        (attend(out=floats(3, 4, 7)), "argument out"),
        (attend(out=q), "shares memory with q"),
        (attend(at=np.array([0, 1, 64 * 3])), "row 2 at position 192 needs 4 blocks from index 0, but tables has 3"),
        (attend(begin=np.array([0, 0, 3])), "argument table_begin: row 2"),
        (attend(begin=np.array([0, -1, 0])), "argument table_begin: row 1"),
        (attend(begin=np.array([0, 2**62, 0])), "argument table_begin: row 1"),
        (attend(tables=np.full(3, free, np.int32)), f"block {free} is not in use"),
        (attend(tables=np.array([-1, block, block], np.int32)), "sees block 0 of its sequence, which is -1"),
        (attend(at=np.array([0, 1, 130]), tables=np.array([block, -1, block], np.int32), window=70), "sees block 1"),
        (attend(window=-1), "argument window"),
        (attend(sinks=floats(2)), "argument sinks"),
    ]


def test_every_wrong_kv_call_is_a_usage_error_and_a_closed_runtime_too(compute: _core.Compute) -> None:
    runtime = _core.Runtime(threads=1, host_memory=64 << 20)
    kv = runtime.set_kv("f32", 2, 8, 2)
    block = kv.allocate()
    for call, said in wrong_kv_calls(compute, kv, block):
        with pytest.raises(errors.UsageError) as caught:
            call()
        assert said in str(caught.value), (said, str(caught.value))
    runtime.close()
    with pytest.raises(errors.UsageError, match="closed"):
        _core.kv_append(compute, kv, 0, floats(1, 2, 8), floats(1, 2, 8), np.zeros(1, np.int64), np.zeros(1, np.int32))


def test_blocks_before_the_window_need_not_exist(compute: _core.Compute) -> None:
    runtime = _core.Runtime(threads=1, host_memory=64 << 20)
    kv = runtime.set_kv("f32", 2, 8, 1)
    block, at = kv.allocate(), np.array([130])
    k = floats(1, 2, 8)
    _core.kv_append(compute, kv, 0, k, 3 * k, at, np.array([block], np.int32))
    out = np.zeros((1, 4, 8), np.float32)
    _core.attention(
        compute, kv, 0, floats(1, 4, 8), at, np.array([-1, -1, block], np.int32), np.zeros(1, np.int64), 1.0, out, 1
    )
    assert (out == 3).all()
    runtime.close()


@pytest.mark.parametrize("argument", ["3", None, 1.5])
def test_wrong_python_types_are_type_errors(argument: Any) -> None:
    with pytest.raises(TypeError, match="rows"):
        _core.matrix_bytes("f32", "none", argument, 1)


def test_torch_tensors_cross_without_a_copy(compute: _core.Compute, matrix: _core.Matrix, weights: np.ndarray) -> None:
    x = torch.randn(ROWS, COLS, generator=torch.Generator().manual_seed(1))
    expected = np.empty((ROWS, OUT), np.float32)
    _core.linear(compute, x.numpy(), [matrix], [expected])
    out = torch.zeros(ROWS, OUT)
    _core.linear(compute, x, [matrix], [out])
    assert np.array_equal(out.numpy(), expected)
    assert np.allclose(expected, x.numpy().astype(np.float64) @ weights.T.astype(np.float64), atol=1e-4)


@pytest.mark.parametrize(
    ("tensor", "said"),
    [
        (torch.ones(ROWS, COLS, requires_grad=True), "numpy.from_dlpack"),
        (torch.ones(ROWS, COLS, dtype=torch.bfloat16), "numpy.from_dlpack"),
        (torch.ones(ROWS, COLS, dtype=torch.float64), "float64"),
        (torch.ones(COLS, ROWS).T, "not C-contiguous"),
    ],
)
def test_torch_tensors_that_do_not_fit_are_named(
    compute: _core.Compute, matrix: _core.Matrix, tensor: torch.Tensor, said: str
) -> None:
    with pytest.raises(errors.UsageError, match="argument x") as caught:
        _core.linear(compute, tensor, [matrix], [floats(ROWS, OUT)])
    assert said in str(caught.value)


def test_an_output_may_be_a_column_slice(compute: _core.Compute, matrix: _core.Matrix) -> None:
    x = np.random.default_rng(2).standard_normal((ROWS, COLS)).astype(np.float32)
    alone, wide = floats(ROWS, OUT), np.full((ROWS, 2 * OUT + 3), 7, np.float32)
    _core.linear(compute, x, [matrix], [alone])
    _core.linear(compute, x, [matrix, matrix], [wide[:, 1 : OUT + 1], wide[:, OUT + 2 : -1]])
    assert np.array_equal(wide[:, 1 : OUT + 1], alone)
    assert np.array_equal(wide[:, OUT + 2 : -1], alone)
    assert (wide[:, [0, OUT + 1, -1]] == 7).all()


def test_no_rows_are_no_work(compute: _core.Compute, matrix: _core.Matrix) -> None:
    _core.linear(compute, floats(0, COLS), [matrix], [floats(0, OUT)])
    _core.rms_norm(compute, floats(0, COLS), floats(COLS), 1e-6, floats(0, COLS))
    _core.add(compute, floats(0), floats(0))
    ids, _ = _core.route_softmax_topk(compute, floats(0, 4), 2, True)
    assert ids.shape == (0, 2)
    cos, _ = _core.rope_table(np.zeros(0, np.int64), floats(4), 1.0)
    assert cos.shape == (0, 4)


def test_a_matrix_keeps_its_own_copy(compute: _core.Compute, weights: np.ndarray) -> None:
    memory, bias = packed(compute, weights), np.arange(OUT, dtype=np.float32)
    kept = _core.Matrix.from_packed(memory, "f32", "none", OUT, COLS, bias)
    x, before, after = floats(ROWS, COLS), floats(ROWS, OUT), floats(ROWS, OUT)
    _core.linear(compute, x, [kept], [before])
    memory[:], bias[:] = 0, 0
    _core.linear(compute, x, [kept], [after])
    assert np.array_equal(before, after)
    assert (kept.rows, kept.cols, kept.format, kept.nbytes) == (OUT, COLS, "f32", F32_BYTES)


def test_errors_have_their_class_and_message(compute: _core.Compute) -> None:
    with pytest.raises(errors.NumericError) as numeric:
        _core.rms_norm(compute, np.full((1, 4), np.nan, np.float32), floats(4), 1e-6, floats(1, 4))
    assert isinstance(numeric.value, ArithmeticError)
    with pytest.raises(errors.StorageError, match="/nowhere/at/all") as storage:
        _core.measure_read_rate("/nowhere/at/all", 4096, 1, "auto", "buffered", 1.0)
    assert isinstance(storage.value, OSError)
    refused = [table for table in _core.isa_tables() if not table["usable"]]
    for table in refused:
        with pytest.raises(errors.UnsupportedError, match=table["reason"]):
            _core.Compute(1, table["name"])


@pytest.mark.parametrize("table", _core.isa_tables(), ids=lambda table: table["name"])
def test_the_forced_table_is_live(table: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    if not table["usable"]:
        pytest.skip(f"{table['name']}: {table['reason']}")
    monkeypatch.setenv("MOESTRO_ISA", table["name"])
    forced = core.make_compute()
    assert forced.isa == table["name"]
    faster = [entry["name"] for entry in _core.isa_tables()]
    faster = faster[faster.index(table["name"]) + 1 :]
    assert [line.split(":")[0] for line in forced.refused] == faster
    assert not any(line.startswith(f"{table['name']}:") for line in forced.refused)


def test_the_best_table_is_taken_unless_forced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MOESTRO_ISA", raising=False)
    assert core.make_compute().isa == [table["name"] for table in _core.isa_tables() if table["usable"]][-1]


def test_core_exports_everything_there_is() -> None:
    public = {name for name in vars(_core) if not name.startswith("_")} - {"F32", "I32", "I64", "U8"}
    assert public <= set(core.__all__)
