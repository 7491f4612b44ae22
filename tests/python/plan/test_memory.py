"""The memory plan: its sums, its choices, its refusals, and that a loaded model holds what was planned."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moestro import core
from moestro.config import EngineConfig
from moestro.errors import BudgetError, UsageError
from moestro.models.load import load_model
from moestro.models.opening import open_model
from moestro.pack import pack_checkpoint
from moestro.plan.footprint import Footprint
from moestro.plan.memory import AUTO_CHUNKS, LEAST_KV_TOKENS, MemoryPlan, plan_memory
from moestro.plan.work import work_buffers, work_bytes

GIB = 1 << 30

# Qwen3-30B-A3B in q4.
LARGE = Footprint(
    trunk=900 << 20,
    small=52 << 20,
    units=(14 << 20,) * 48 + (8 << 20,) * 22,
    in_place=False,
    record=2 << 20,
    records=48 * 128 * (2 << 20),
    layers=48,
    moe_layers=48,
    hidden=2048,
    vocab=151936,
    heads=32,
    kv_heads=4,
    head_dim=128,
    dense_width=0,
    trunk_integer=True,
    bf16=False,
    experts=128,
    top_k=8,
    expert_width=768,
    experts_integer=True,
    dtype="bf16",
    max_len=40960,
)
DENSE = dataclasses.replace(
    LARGE, record=0, records=0, moe_layers=0, dense_width=6144, experts=0, top_k=0, expert_width=0
)


def plan(model: Footprint, host_memory: int | str, threads: int = 2, **settled: Any) -> MemoryPlan:
    """The trunk stays in memory unless `settled` says otherwise."""
    config = EngineConfig(model="m", host_memory=host_memory, **{"stream": "off", **settled})
    return plan_memory(model, config, threads)


def lines(made: MemoryPlan) -> dict[str, int]:
    return {line.name: line.nbytes for line in made.lines}


def test_min_is_the_least_and_one_byte_less_is_refused() -> None:
    for settled in ({}, {"prefill_chunk": 64}, {"max_model_len": 4096}, {"kv_dtype": "f32"}, {"expert_slots": 9}):
        least = plan(LARGE, "min", **settled)
        assert least.budget == least.least == plan(LARGE, least.budget, **settled).least
        with pytest.raises(BudgetError, match=r"1 bytes\) are missing"):
            plan(LARGE, least.budget - 1, **settled)


def test_the_lines_of_the_least() -> None:
    made = plan(LARGE, "min", kv_dtype="f16")
    assert lines(made) == {
        "trunk": LARGE.trunk,
        "expert slots": 2 * LARGE.record,
        "staging": core.Runtime.staging_bytes(),
        "scratch": work_bytes(LARGE, 1, 2, LEAST_KV_TOKENS),
        "kv": LEAST_KV_TOKENS * 48 * 2 * 4 * 128 * 2,
    }
    assert (made.prefill_chunk, made.expert_slots, made.scratch) == (1, 2, lines(made)["scratch"])


def test_a_refusal_shows_the_sum_and_the_way_out() -> None:
    with pytest.raises(BudgetError) as refused:
        plan(LARGE, GIB // 2, prefill_chunk=256, max_model_len=8192)
    text = str(refused.value)
    numbers = [int(found.replace(",", "")) for found in re.findall(r"^ +([\d,]+)  ", text, re.M)]
    assert sum(numbers[:-1]) == numbers[-1] == plan(LARGE, "min", prefill_chunk=256, max_model_len=8192).budget
    assert f"{numbers[-1] - GIB // 2:,} bytes" in text
    for way in ("host_memory", "prefill_chunk", "max_model_len", "moestro pack"):
        assert way in text
    with pytest.raises(BudgetError) as refused:
        plan(LARGE, GIB // 2)
    assert "max_model_len" not in str(refused.value)
    assert "prefill_chunk" not in str(refused.value)


def test_auto_takes_the_largest_chunk_that_stays_small() -> None:
    assert plan(LARGE, 64 * GIB).prefill_chunk == AUTO_CHUNKS[0] == 512
    chunks = [plan(LARGE, budget).prefill_chunk for budget in range(GIB, 4 * GIB, 64 << 20)]
    assert chunks == sorted(chunks)
    assert len(set(chunks)) > 4
    for budget in (GIB, GIB + GIB // 4, GIB + GIB // 2):
        made = plan(LARGE, budget)
        larger = [rows for rows in AUTO_CHUNKS if rows > made.prefill_chunk][-1]
        assert work_bytes(LARGE, made.prefill_chunk, 2, LEAST_KV_TOKENS) <= (budget - LARGE.trunk) // 8
        assert work_bytes(LARGE, larger, 2, LEAST_KV_TOKENS) > (budget - LARGE.trunk) // 8


def test_given_chunks_are_taken_as_they_are() -> None:
    assert plan(LARGE, 8 * GIB, prefill_chunk=777).prefill_chunk == 777


def test_a_dense_model_has_no_expert_slots() -> None:
    made = plan(DENSE, "min")
    assert "expert slots" not in lines(made)
    assert made.expert_slots == 0
    assert work_buffers(DENSE, 64, 2, 256)["experts"] == 0


def test_context_beyond_the_model_is_refused() -> None:
    with pytest.raises(UsageError, match="max_model_len"):
        plan(LARGE, "min", max_model_len=LARGE.max_len + 1)


def test_long_contexts_need_scratch_only_where_their_kv_fits() -> None:
    assert plan(LARGE, "min", threads=16).scratch < plan(LARGE, 64 * GIB, threads=16, prefill_chunk=1).scratch


@settings(max_examples=200, deadline=None)
@given(
    budget=st.integers(GIB, 40 * GIB),
    threads=st.integers(1, 64),
    chunk=st.one_of(st.just("auto"), st.integers(1, 2048)),
    tokens=st.one_of(st.none(), st.integers(1, LARGE.max_len)),
    model=st.sampled_from([LARGE, DENSE]),
)
def test_a_plan_never_exceeds_its_budget(
    budget: int, threads: int, chunk: int | str, tokens: int | None, model: Footprint
) -> None:
    settled = {"prefill_chunk": chunk, "max_model_len": tokens}
    try:
        made = plan(model, budget, threads, **settled)
    except BudgetError:
        assert plan(model, "min", threads, **settled).budget > budget
        return
    assert made.least <= made.budget == budget
    slots = made.expert_slots * model.record
    assert slots <= max(model.records, 2 * model.record)
    assert made.least - lines(made).get("expert slots", 0) + slots <= budget
    assert 1 <= made.logit_rows <= made.prefill_chunk


def test_what_does_not_fit_is_streamed_and_what_fits_is_not() -> None:
    least = plan(LARGE, "min", stream="auto")
    assert least.stream is None
    assert least == plan(LARGE, "min"), "'min' keeps the trunk in memory"
    made = plan(LARGE, least.budget - 1, stream="auto")
    assert made.stream is not None
    assert made.expert_slots >= 2
    window = made.stream.shape.window
    assert lines(made)["trunk"] == LARGE.small
    assert lines(made)["layer stream"] == window * max(LARGE.units)
    assert made.stream.kept > 0.8 * made.stream.units, "nearly all of it fits"
    assert made.stream.bytes_per_step + made.stream.kept_bytes == sum(LARGE.units)
    assert made.stream.kept_bytes <= made.stream.keep_bytes
    smallest = plan(LARGE, "min", stream="interleave")
    assert smallest.least == sum(lines(smallest).values()) < LARGE.trunk / 2
    with pytest.raises(BudgetError, match="layer stream"):
        plan(LARGE, smallest.least - 1, stream="auto")


def test_more_memory_streams_less() -> None:
    smallest = plan(DENSE, "min", stream="interleave").least
    made = [plan(DENSE, budget, stream="auto") for budget in range(smallest, 2 * GIB, 40 << 20)]
    reads = [one.stream.bytes_per_step if one.stream else 0 for one in made]
    assert reads == sorted(reads, reverse=True)
    assert reads[0] == sum(DENSE.units) and reads[-1] == 0
    assert all(one.least <= one.budget for one in made)


@pytest.mark.parametrize(
    ("name", "window", "batch"),
    [("zero-inference", 2, 1), ("superpipeline:6,3", 6, 3), ("tpi-llm:3", 3, 1), ("se-moe:5", 5, 1), ("tpi-llm", 2, 1)],
)
def test_named_streams_keep_nothing(name: str, window: int, batch: int) -> None:
    made = plan(DENSE, 8 * GIB, stream=name)
    assert made.stream is not None
    assert (made.stream.shape.window, made.stream.shape.batch, made.stream.kept) == (window, batch, 0)
    assert lines(made)["layer stream"] == window * max(DENSE.units)


@pytest.mark.parametrize(
    "text", ["", "on", "se-moe:", "se-moe:0", "superpipeline:2,3", "tpi-llm:1,2", "zero-inference:2"]
)
def test_a_stream_that_makes_no_sense_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="stream"):
        EngineConfig(model="m", stream=text)


def test_every_buffer_grows_with_the_rows() -> None:
    few, many = work_buffers(LARGE, 8, 2, 1024), work_buffers(LARGE, 512, 2, 1024)
    assert all(many[name] >= few[name] for name in few)
    assert work_bytes(LARGE, 512, 2, 1024) == sum(many.values())


def test_fast_math_adds_what_it_rounds_to() -> None:
    """Two bytes per element of the widest input, and of an MLP's hidden rows, all padded to groups of 32."""
    rows, model = 64, dataclasses.replace(LARGE, hidden=2050, trunk_integer=False, experts_integer=False)
    exact, fast = work_buffers(model, rows, 2, 256), work_buffers(model, rows, 2, 256, "fast")
    piece = 256  # expert rows computed between two looks at the disk
    assert fast["experts"] - exact["experts"] == 2 * (rows * 2080 + piece * model.expert_width)
    dense = dataclasses.replace(DENSE, trunk_integer=False)
    exact, fast = work_buffers(dense, rows, 2, 256), work_buffers(dense, rows, 2, 256, "fast")
    widest = max(dense.hidden, dense.heads * dense.head_dim)
    assert fast["kernels"] - exact["kernels"] == 2 * rows * (widest + dense.dense_width)
    assert {name for name in fast if fast[name] != exact[name]} == {"kernels"}


def test_fast_math_is_planned_for_where_it_will_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(core, "make_compute", lambda math: SimpleNamespace(math=math))  # a CPU that has it
    bf16 = dataclasses.replace(LARGE, bf16=True)
    exact, fast = (plan(bf16, "min", math=math) for math in ("exact", "fast"))
    assert (exact.math, fast.math) == ("exact", "fast")
    assert fast.scratch == work_bytes(bf16, 1, 2, LEAST_KV_TOKENS, "fast") > exact.scratch
    assert plan(LARGE, "min", math="fast") == plan(LARGE, "min"), "no weight of it is bf16"


@pytest.mark.parametrize("packed", [None, "bf16", "q8", "q4"])
@pytest.mark.parametrize(
    "name", ["qwen3_moe", "qwen3_moe-dense-layers-biases", "qwen3_moe-every-second-tied", "mixtral-fused", "qwen3-tied"]
)
def test_a_loaded_model_holds_what_was_planned(
    name: str, packed: str | None, tiny_checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    directory = tiny_checkpoint(name)
    if packed:
        directory = pack_checkpoint(directory, tmp_path / packed, packed, trunk_format=None, threads=1, progress=None)
    config = EngineConfig(model=str(directory), host_memory="min", threads=2)
    footprint = open_model(directory, config).footprint()
    loaded = load_model(directory, config)
    try:
        held = {entry["name"]: entry["bytes"] for entry in loaded.runtime.ledger.entries()}
        planned = lines(loaded.plan)
        assert held["trunk"] == planned["trunk"] == footprint.trunk
        assert held["staging"] == planned["staging"]
        assert held["scratch"] == planned["scratch"]
        residency = loaded.runtime.residency()
        assert residency["expert_bytes_total"] == footprint.records
        assert residency["slot_bytes"] == footprint.record
        assert loaded.kv_pool.block_bytes == loaded.plan.kv_block_bytes
        for _ in range(planned["kv"] // loaded.plan.kv_block_bytes):
            loaded.kv_pool.allocate()
        if footprint.moe_layers:
            assert loaded.runtime.residency()["slots"] == 2
        with pytest.raises(BudgetError):
            loaded.kv_pool.allocate()
    finally:
        loaded.close()
