"""The runtime as Python sees it: experts streamed from a file equal float64 numpy, and every misuse is named."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from moestro import _core, errors

LAYERS, EXPERTS, HIDDEN, INTER, TOP_K = 3, 8, 48, 40, 3
BEFORE = 5  # bytes before the first weight: nothing in a checkpoint is aligned
BUDGET = 64 << 20


@pytest.fixture(scope="module")
def weights() -> Any:
    """float32 [layers, experts, gate | up | down, INTER * HIDDEN]."""
    rng = np.random.default_rng(1)
    return (rng.standard_normal((LAYERS, EXPERTS, 3, INTER * HIDDEN)) * 0.2).astype(np.float32)


@pytest.fixture
def path(tmp_path: Path, weights: Any) -> Path:
    file = tmp_path / "model.bin"
    file.write_bytes(b"x" * BEFORE + weights.tobytes())
    return file


Make = Callable[..., _core.Runtime]


@pytest.fixture
def make(path: Path) -> Make:
    def runtime(**options: Any) -> _core.Runtime:
        made = _core.Runtime(**({"threads": 2, "host_memory": BUDGET} | options))
        file = made.open_file(str(path))
        assert made.open_file(str(path)) == file
        tensor = np.arange(LAYERS * EXPERTS * 3).reshape(LAYERS, EXPERTS, 3)
        for layer in range(LAYERS):
            offsets = (BEFORE + 4 * INTER * HIDDEN * tensor[layer]).astype(np.uint64)
            shapes = [(*shape, "f32", 0, 1) for shape in ((INTER, HIDDEN), (INTER, HIDDEN), (HIDDEN, INTER))]
            made.add_expert_layer_inplace(layer, "f32", shapes, np.full((EXPERTS, 3), file, np.int32), offsets)
        made.set_experts()
        return made

    return runtime


def call(rows: int, seed: int) -> tuple[Any, Any, Any]:
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((rows, HIDDEN)).astype(np.float32)
    ids = np.stack([rng.permutation(EXPERTS)[:TOP_K] for _ in range(rows)]).astype(np.int32)
    return x, ids, rng.random((rows, TOP_K), np.float32)


def expected(weights: Any, layer: int, x: Any, ids: Any, scores: Any) -> Any:
    y = np.zeros(x.shape)
    for row, (picked, weight) in enumerate(zip(ids, scores, strict=True)):
        for expert, score in zip(picked, weight, strict=True):
            gate, up, down = weights[layer, expert].astype(np.float64)
            g, u = gate.reshape(INTER, HIDDEN) @ x[row], up.reshape(INTER, HIDDEN) @ x[row]
            y[row] += score * (down.reshape(HIDDEN, INTER) @ (g / (1 + np.exp(-g)) * u))
    return y


def run(runtime: _core.Runtime, layer: int, x: Any, ids: Any, scores: Any) -> Any:
    out = np.full(x.shape, np.nan, np.float32)
    runtime.wait(runtime.submit_experts(layer, x, ids, scores), out)
    return out


@pytest.mark.parametrize("slots", [2, 9, None])
@pytest.mark.parametrize("reader", ["auto", "threads"])
def test_experts_equal_float64(make: Make, weights: Any, slots: int | None, reader: str) -> None:
    runtime = make(expert_slots=slots, reader=reader)
    for step, rows in enumerate((1, 30, 2)):
        runtime.begin_step(rows)
        for layer in range(LAYERS):
            arguments = call(rows, 10 * step + layer)
            y, exact = run(runtime, layer, *arguments), expected(weights, layer, *arguments)
            assert np.square(y - exact).sum() <= 1e-12 * np.square(exact).sum()
        runtime.end_step()
        runtime.check_integrity()
    counters = runtime.counters()
    assert counters["misses"] > 0 and counters["steps"] == 3 and counters["rows"] == 33
    assert (counters["evictions"] > 0) == (slots is not None)
    assert runtime.residency()["slots"] == (slots or LAYERS * EXPERTS)


def test_a_budget_too_small_is_refused_with_the_arithmetic(make: Make) -> None:
    with pytest.raises(errors.BudgetError, match=r"two expert slots.*missing; held: staging"):
        make(host_memory=_core.Runtime.staging_bytes() + 4096)


def test_ledger_is_shared_with_python(make: Make) -> None:
    runtime = make(expert_slots=4)
    ledger = runtime.ledger
    held = ledger.held
    ledger.take("scratch", 1000)
    assert ledger.held == held + 1000
    with pytest.raises(errors.UsageError, match="scratch does not hold 1001"):
        ledger.give("scratch", 1001)
    with pytest.raises(errors.UsageError, match="staging is given back by the core"):
        ledger.give("staging", 4096)
    ledger.give("scratch", 1000)
    with pytest.raises(errors.BudgetError):
        ledger.take("scratch", BUDGET)
    assert {entry["name"] for entry in ledger.entries()} == {"staging", "expert slots", "scratch"}


def test_kv_blocks_come_from_the_expert_cache(make: Make) -> None:
    record = make(expert_slots=2).residency()["slot_bytes"]
    runtime = make(host_memory=_core.Runtime.staging_bytes() + 10 * record)
    kv = runtime.set_kv("f32", 1, 16, 2)
    blocks = [kv.allocate() for _ in range(kv.blocks_available)]
    assert runtime.residency()["slots"] == 2
    with pytest.raises(errors.BudgetError, match="KV block"):
        kv.allocate()
    for block in blocks:
        kv.release(block)
    assert runtime.residency()["slots"] == 10 and kv.blocks_in_use == 0
    with pytest.raises(errors.UsageError, match="not in use"):
        kv.release(blocks[0])


def test_failures_have_their_class_and_the_next_step_is_exact(make: Make, weights: Any) -> None:
    runtime = make(expert_slots=3, faults="eio@2")
    arguments = call(4, 1)
    runtime.begin_step(4)
    with pytest.raises(errors.StorageError, match=r"layer 1, expert \d+, \w+: .*model\.bin failed: Input/output error"):
        run(runtime, 1, *arguments)
    runtime.abort_step()
    runtime.begin_step(4)
    np.testing.assert_allclose(run(runtime, 1, *arguments), expected(weights, 1, *arguments), rtol=1e-4, atol=1e-5)
    runtime.end_step()


def test_wrong_arguments_are_named(make: Make) -> None:
    runtime = make()
    x, ids, scores = call(2, 1)
    runtime.begin_step(2)
    for wrong, message in (
        ((x[:, :-1].copy(), ids, scores), "argument x"),
        ((x, ids[:1], scores), "argument ids"),
        ((x, ids, scores[:, :1].copy()), "argument weights"),
        ((x, ids + EXPERTS, scores), "expert ids are 0 to 7"),
    ):
        with pytest.raises(errors.UsageError, match=message):
            runtime.submit_experts(0, *wrong)
    with pytest.raises(errors.UsageError, match="layer 9 has no experts"):
        runtime.submit_experts(9, x, ids, scores)
    ticket = runtime.submit_experts(0, x, ids, scores)
    with pytest.raises(errors.UsageError, match="argument out"):
        runtime.wait(ticket, np.empty((3, HIDDEN), np.float32))
    runtime.abort_step()
    with pytest.raises(errors.UsageError, match="this ticket is over"):
        runtime.wait(ticket, np.empty_like(x))


@pytest.mark.parametrize(
    "option", [{"policy": "x"}, {"reader": "x"}, {"cache": "x"}, {"verify": "x"}, {"faults": "x"}, {"expert_slots": 1}]
)
def test_wrong_options_are_refused_at_once(option: dict[str, Any]) -> None:
    with pytest.raises(errors.UsageError):
        _core.Runtime(**({"threads": 1, "host_memory": BUDGET} | option))


def test_a_ticket_keeps_its_input_alive(make: Make, weights: Any) -> None:
    runtime = make(expert_slots=2)
    arguments = call(5, 3)
    runtime.begin_step(5)
    ticket = runtime.submit_experts(2, arguments[0].copy(), arguments[1], arguments[2])
    out = np.empty_like(arguments[0])
    runtime.wait(ticket, out)
    np.testing.assert_allclose(out, expected(weights, 2, *arguments), rtol=1e-4, atol=1e-5)
    runtime.end_step()


def test_close_ends_everything(make: Make) -> None:
    runtime = make(expert_slots=2)
    kv, ledger, compute = runtime.set_kv("f32", 1, 16, 1), runtime.ledger, runtime.compute
    block = kv.allocate()
    x, ids, scores = call(2, 1)
    runtime.begin_step(2)
    ticket = runtime.submit_experts(0, x, ids, scores)
    runtime.close()
    runtime.close()
    assert ledger.held == 0, "everything was given back"
    for use in (runtime.counters, runtime.abort_step, kv.allocate, lambda: kv.release(block)):
        with pytest.raises(errors.UsageError, match="closed"):
            use()
    assert compute.threads == 2
    del ticket
