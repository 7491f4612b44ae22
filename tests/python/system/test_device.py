"""Experts on a device: the same bits wherever they are, in the same time everywhere, as a replay foretells."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_models
from typer.testing import CliRunner

from moestro import LLM, SamplingParams, core
from moestro.cli.main import app
from moestro.config import SCHEDULES
from moestro.device_names import EmulatedDevice, parse_device
from moestro.errors import BudgetError, UsageError
from moestro.gen.stats import RunStats
from moestro.models.emulated import emulated_machine
from moestro.trace.machines import MODELS
from moestro.trace.routing import RoutingTrace, write_routing_trace

TOKENS = tiny_models.prompt(44)
PARAMS = SamplingParams(max_tokens=24, temperature=0.0, ignore_eos=True)
FAMILIES = tiny_models.by_family()
DEMO = "moestro:demo"
PROMPTS = ["def main():\n", 'class Queue(object):\n    """A queue']
RECORD = 36864  # bytes of an expert of the demo model; it has 256 of them
ALL = 256 * RECORD


def load(model: Path | str, **settings: Any) -> LLM:
    given = {"host_memory": "256MiB", "threads": 1, "kv_dtype": "f32", "say": None, **settings}
    if "device_memory" in given or "schedule" in given:
        given = {"device": "emulated:memory=64MiB", **given}
    return LLM(model, **given)


def logits(model: Path | str, **settings: Any) -> Any:
    with load(model, **settings) as llm:
        return llm.logits(TOKENS)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_gives_the_same_bits(family: str, tiny_checkpoint: Callable[[str], Path]) -> None:
    source = tiny_checkpoint(FAMILIES[family])
    with load(source) as llm:
        plain, experts = llm.logits(TOKENS), llm.report().experts
    if experts == 0:
        with pytest.raises(UsageError, match="has none"):
            load(source, schedule="hybrid")
        return
    placements: tuple[dict[str, Any], ...] = (
        {"schedule": "hybrid"},
        {"schedule": "on_demand", "expert_slots": 2, "device_memory": 1 << 20, "threads": 2},
        {"schedule": "static", "device_copies": "exclusive", "stream": "interleave", "prefill_chunk": 9},
        {"schedule": "auto", "host_memory": "min", "device": "emulated:memory=64MiB,link=100MB/s,like=mixtral-8x7b"},
    )
    for settings in placements:
        np.testing.assert_array_equal(logits(source, **settings), plain, str(settings))


def test_the_demo_model_gives_the_same_bits() -> None:
    tokens = np.arange(200, dtype=np.int32) % 2048
    with load(DEMO) as llm:
        plain = llm.logits(tokens)
    links = ("emulated:memory=64MiB", "emulated:memory=64MiB,link=20MB/s,latency=1ms")
    for schedule, share, copies in product(SCHEDULES, (0.12, 0.25, 0.5, 1.0), ("inclusive", "exclusive")):
        if schedule == "device" and share < 1:
            continue
        slots = 64 if copies == "exclusive" else None
        with load(
            DEMO,
            device=links[share == 0.25],
            device_memory=int(share * ALL),
            device_copies=copies,
            schedule=schedule,
            expert_slots=slots,
            prefill_chunk=64,
        ) as llm:
            np.testing.assert_array_equal(llm.logits(tokens), plain, f"{schedule} {share} {copies}")


def run(**settings: Any) -> tuple[RunStats, RoutingTrace]:
    with load(DEMO, record_tokens=1000, **settings) as llm:
        llm.generate(PROMPTS, PARAMS)
        stats, trace = llm.stats(), llm.routing()
    assert stats is not None
    return stats, trace


def test_the_time_is_the_same_everywhere() -> None:
    settings: dict[str, Any] = {"device_memory": ALL // 4, "schedule": "auto"}
    first, second = run(**settings)[0], run(**{**settings, "threads": 2})[0]
    assert first.virtual and first.device is not None and first.device.computed > 0
    for name in ("wall_s", "ttft_s", "decode_tokens_per_s", "lanes_s", "hits", "misses", "device"):
        assert getattr(first, name) == getattr(second, name), name
    assert first.real_s > 0 and first.wall_s > 0


@pytest.mark.parametrize("like", [None, "mixtral-8x7b"])
@pytest.mark.parametrize("schedule", [name for name in SCHEDULES if name not in ("auto", "device")])
def test_a_replay_takes_as_long_as_the_run(schedule: str, like: str | None) -> None:
    device = "emulated:memory=64MiB" + (f",like={like}" if like else "")
    for slots, copies in ((None, "inclusive"), (100, "inclusive"), (100, "exclusive")):
        stats, trace = run(
            device=device, device_memory=ALL // 4, schedule=schedule, expert_slots=slots, device_copies=copies
        )
        assert stats.device is not None
        machine = emulated_machine(parse_device(device) or EmulatedDevice(0))
        if like:
            costs, layer = machine.costs(MODELS[like]), machine.layer(MODELS[like])
        else:
            costs = machine.lane_costs(RECORD, 3 * 192 * 32)
            layer = machine.layer_costs(192 * 2 * (6 + 2) * 32)
        replay = core.replay(
            trace.record(),
            record_bytes=[RECORD] * 8,
            costs=[costs] * 8,
            layer=layer,
            cache_bytes=ALL // 4,
            host_bytes=(slots or 256) * RECORD,
            copies=copies,
            policy="lrfu",
            planner=schedule,
        )
        assert replay["time_ns"] / 1e9 == pytest.approx(stats.prefill_s + stats.decode_s, rel=0.02)
        assert replay["nbytes"] == pytest.approx(stats.device.link_bytes, rel=0.02)


@pytest.mark.parametrize(("slots", "copies"), [(256, "inclusive"), (100, "exclusive")])
def test_so_does_the_command(slots: int, copies: str, tmp_path: Path) -> None:
    device = "emulated:memory=64MiB,like=qwen2-57b-a14b"
    stats, trace = run(
        device=device, device_memory=64 * RECORD, schedule="hybrid", expert_slots=slots, device_copies=copies
    )
    write_routing_trace(tmp_path / "t.npz", trace)
    words = ["--machine", device, "--memory", "64", "--host-memory", str(slots), "--copies", copies]
    words += ["--policy", "lrfu", "--planner", "hybrid", "--json", str(tmp_path / "r.json")]
    done = CliRunner().invoke(app, ["trace", "replay", str(tmp_path / "t.npz"), *words])
    assert done.exit_code == 0, done.output
    (one,) = json.loads((tmp_path / "r.json").read_text())["replays"]
    assert one["time_ns"] / 1e9 == pytest.approx(stats.prefill_s + stats.decode_s, rel=0.02)


def test_budgets_change_between_runs() -> None:
    with load(DEMO) as llm:
        plain = llm.generate(PROMPTS, PARAMS)[0].token_ids
    with load(DEMO, device_memory=ALL // 2) as llm:
        assert llm.generate(PROMPTS, PARAMS)[0].token_ids == plain
        llm.resize(device_memory=4 * RECORD, host_memory="40MiB")
        assert llm.generate(PROMPTS, PARAMS)[0].token_ids == plain
        stats = llm.stats()
        assert stats is not None and stats.device is not None
        assert (stats.device.slots, stats.budget_bytes) == (4, 40 << 20)
        with pytest.raises(BudgetError, match="two experts"):
            llm.resize(device_memory=RECORD)
        with pytest.raises(BudgetError, match="the device has"):
            llm.resize(device_memory="65MiB")
        with pytest.raises(BudgetError, match="missing"):
            llm.resize(host_memory="1MiB")
        llm.resize(device_memory="64MiB", host_memory="256MiB")
        assert llm.generate(PROMPTS, PARAMS)[0].token_ids == plain


def test_what_is_running_is_said() -> None:
    with load(DEMO, device_memory=ALL // 4, schedule="auto") as llm:
        said = str(llm.report())
        assert "for experts, room for 64" in said and "auto: trying hybrid" in said and "virtual" in said
        llm.generate(PROMPTS, SamplingParams(max_tokens=60, temperature=0.0, ignore_eos=True))
        stats = llm.stats()
        assert stats is not None and stats.device is not None
        assert " ms a token (" in stats.device.schedule
        assert stats.device.peak_bytes <= ALL // 4


@pytest.mark.parametrize(
    ("settings", "error", "words"),
    [
        ({"device": "gpu"}, UsageError, "expected 'cpu', 'cuda'"),
        ({"trunk": "device"}, UsageError, "computes no trunk"),
        ({"device": "emulated"}, UsageError, "needs a size"),
        ({"device": "emulated:memory=1GiB,colour=red"}, UsageError, "colour"),
        ({"device": "emulated:memory=1GiB,link=fast"}, UsageError, "link"),
        ({"device": "emulated:memory=1GiB,latency=3"}, UsageError, "10us"),
        ({"device": "emulated:memory=1GiB,machine=laptop"}, UsageError, "has no device"),
        ({"device": "emulated:memory=1GiB,machine=nowhere"}, UsageError, "nowhere"),
        ({"device": "emulated:memory=1GiB,like=me"}, UsageError, "mixtral-8x7b"),
        ({"schedule": "best"}, UsageError, "hybrid"),
        ({"device_copies": "two"}, UsageError, "inclusive"),
        ({"device": "cpu", "device_memory": "1GiB"}, UsageError, "no memory of its own"),
        ({"device_memory": 40000}, BudgetError, "two experts"),
        ({"device_memory": "1GiB"}, BudgetError, "the device has"),
        ({"device_memory": "1MiB", "schedule": "device"}, BudgetError, "missing"),
    ],
)
def test_what_cannot_be_is_refused(settings: dict[str, Any], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        load(DEMO, **settings)


def test_a_dense_model_has_nothing_for_a_device() -> None:
    with pytest.raises(UsageError, match="has none"):
        load("moestro:draft", device_memory="1MiB")
