"""Costs that were planted in a trace are found in it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tiny_traces

from moestro._core import LaneCosts
from moestro._core import replay as core_replay
from moestro.errors import CheckpointError
from moestro.trace.fitted import fit_costs, replay
from moestro.trace.routing import RoutingTrace

EXPERT, LAYER, STEP, READ = (2000.0, 300.0), (40000.0, 1000.0), 5000.0, 2.5  # ns; READ per byte
SLOTS = 6


def planted(policy: str = "lru", read: float = READ) -> RoutingTrace:
    """A run of these costs: steps of one row, and now and then of eight."""
    rows = [8 if step % 10 == 0 else 1 for step in range(60)]
    chosen = np.sort(np.random.default_rng(5).permuted(np.tile(np.arange(5), (3, sum(rows), 1)), axis=2)[:, :, :2])
    trace = tiny_traces.routing(chosen, 5, rows=rows, policy=np.array(policy), slots=np.array(SLOTS))
    lanes = LaneCosts(cpu=EXPERT, ssd=read * tiny_traces.RECORD)
    ran = core_replay(
        trace.record(),
        record_bytes=[tiny_traces.RECORD] * 3,
        costs=[lanes] * 3,
        layer=LAYER,
        step=(STEP, 0.0),
        max_slots=SLOTS,
        policy=policy,
    )
    return RoutingTrace(trace.chosen, {**trace.arrays, "step_costs": step_costs(trace, ran["stall_ns"])}, "planted")


def step_costs(trace: RoutingTrace, stalled: float) -> Any:
    costs, now, begin = [], 0.0, 0
    for rows in trace.array("step_rows"):
        step = trace.chosen[:, begin : begin + rows]
        begin += rows
        experts = sum(len(np.unique(layer)) for layer in step)
        compute = EXPERT[0] * experts + EXPERT[1] * step.size
        stall = stalled / len(trace.array("step_rows"))
        took = compute + stall + 3 * (LAYER[0] + LAYER[1] * rows)
        costs.append((now, now + took, compute, stall, 0, 0, 0))
        now += took + STEP
    return np.asarray(costs).round().astype(np.int64)


@pytest.mark.parametrize("policy", ("lru", "lfu"))
def test_planted_costs_are_found(policy: str) -> None:
    found = fit_costs(planted(policy))
    assert found.expert == pytest.approx(EXPERT, rel=1e-3)
    assert found.layer == pytest.approx(LAYER, rel=1e-3)
    assert found.step == pytest.approx((STEP, 0), rel=1e-3)
    assert found.read_ns_per_byte == pytest.approx(READ, rel=1e-2)


def test_what_beginning_to_read_takes_is_found() -> None:
    trace, first = planted(), 5 * READ * tiny_traces.RECORD
    costs = trace.array("step_costs").copy()
    reads = np.random.default_rng(1).integers(1, 9, len(costs))
    begun = 3 * (1 - (1 - 1 / 3) ** reads)  # layers that read, when reads meet three of them evenly
    costs[:, 6] = reads * tiny_traces.RECORD
    costs[:, 5] = (READ * costs[:, 6] + first * begun).round()
    found = fit_costs(RoutingTrace(trace.chosen, {**trace.arrays, "step_costs": costs}, "planted"))
    assert found.read_start_ns / found.read_ns_per_byte == pytest.approx(first / READ, rel=1e-3)


@pytest.mark.parametrize("begun", (0.0, 3.0))
def test_its_replay_takes_as_long_as_the_run(begun: float) -> None:
    trace = planted()
    if begun:
        trace.array("step_costs")[:, 5:7] = begun * READ * tiny_traces.RECORD, tiny_traces.RECORD
    costs = fit_costs(trace)
    ran = trace.array("step_costs")[-1, 1] - trace.array("step_costs")[0, 0] + STEP
    again = replay(trace, costs, max_slots=SLOTS)
    assert again["time_ns"] == pytest.approx(ran, rel=0.01)


def test_a_run_that_waited_for_nothing_says_nothing_of_the_disk() -> None:
    assert fit_costs(planted(read=0.0)).read_ns_per_byte == 0


def test_runs_that_cannot_be_replayed_are_refused() -> None:
    trace = planted()
    for arrays, words in (
        ({"prefetch": np.array("next_gate")}, "prefetch 'next_gate'"),
        ({"policy": np.array("static")}, "policy 'static'"),
    ):
        with pytest.raises(CheckpointError, match=words):
            fit_costs(RoutingTrace(trace.chosen, {**trace.arrays, **arrays}))
    with pytest.raises(CheckpointError, match="has no steps"):
        fit_costs(trace.part(0, 0))
    lacking = {name: values for name, values in trace.arrays.items() if name != "step_costs"}
    with pytest.raises(CheckpointError, match="lacks step_costs"):
        fit_costs(RoutingTrace(trace.chosen, lacking))
