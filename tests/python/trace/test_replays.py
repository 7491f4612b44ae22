"""Replays: hits, times and bounds as counted by hand; machines; what a replay lacks is said."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_traces

from moestro._core import POLICIES, PREDICTORS, LaneCosts
from moestro.errors import CheckpointError, MoestroError, UsageError
from moestro.trace.machines import MODELS, known_machines, read_machine
from moestro.trace.replays import Learnt, Platform, Replayer, Setting, grid, parse_share, parse_slots, replay_grid

ROUND = tiny_traces.routing([[[0], [1], [2]] * 2], 4)  # one layer, one expert per token
HOST = Platform("by hand", (4096,), (LaneCosts(cpu=(100, 10), ssd=1000),), (5, 0), (2, 1))
DEVICE = Platform(
    "with a device", (4096,), (LaneCosts(cpu=(900, 0), device=(50, 0), link=1000),), (5, 0), has_device=True
)


def test_a_grid_of_hits_and_misses() -> None:
    replayer = Replayer(ROUND, HOST, Learnt(tiny_traces.routing([[[2], [2], [1]]], 4)))
    settings = grid(("lru", "static"), ("none",), ("",))
    found = {(one.setting.policy, one.slots): one for one in replay_grid(replayer, settings, (2, 3))}
    # Two slots: LRU always lacks the one that comes next; who knows the future keeps 0 and 1 and lets 2 pass. Static
    # keeps 2, and what else comes must have the other slot.
    assert [found["lru", slots].misses for slots in (2, 3)] == [6, 3]
    assert [found["lru", slots].least_misses for slots in (2, 3)] == [4, 3]
    assert found["static", 2].hits == 1
    one = found["lru", 2]
    assert (one.hit_rate, one.best_hit_rate, one.share) == pytest.approx((0, 1 / 3, 0.5))
    assert (one.steps, one.tokens, one.nbytes, one.evictions) == (6, 6, 6 * 4096, 4)
    assert one.time_ns == 6 * (2 + 1 + 5 + 1000 + 110)
    assert one.stall_ns == 6000
    assert one.seconds_per_token == pytest.approx(1118e-9)
    assert found["lru", 3].time_ns == 6 * 118 + 3 * 1000
    assert one.recall is None and one.precision is None
    json.dumps(one.as_dict())
    assert (one.as_dict()["policy"], one.as_dict()["misses"], one.as_dict()["hit_rate"]) == ("lru", 6, 0)


def test_steps_that_only_fill_the_cache_are_not_counted() -> None:
    one = Replayer(ROUND, HOST, first_step=3).run(Setting(), 3)
    assert (one.hits, one.misses, one.least_misses, one.tokens, one.time_ns) == (3, 0, 0, 3, 3 * 118)


def test_with_a_device_the_cache_is_its_memory() -> None:
    replayer = Replayer(ROUND, DEVICE)
    sent = replayer.run(Setting("lru", "none", "on_demand"), 3)
    assert (sent.hits, sent.nbytes, sent.time_ns) == (3, 3 * 4096, 6 * 55 + 3 * 1000)
    computed = replayer.run(Setting("lru", "none", "hybrid"), 2)
    assert computed.time_ns <= 6 * (5 + 1050)
    with pytest.raises(UsageError, match="this machine has a device"):
        replayer.run(Setting(), 3)
    with pytest.raises(UsageError, match="by hand has no device"):
        Replayer(ROUND, HOST).run(Setting(planner="hybrid"), 3)


def test_what_a_predictor_foresaw_is_counted() -> None:
    chosen = np.random.default_rng(0).integers(0, 8, (3, 40, 1))
    trace = tiny_traces.routing(chosen, 8, distances=1)
    platform = Platform("by hand", (4096,) * 3, (LaneCosts(cpu=(100, 0), ssd=50),) * 3, (100, 0))
    one = Replayer(trace, platform).run(Setting(prefetch="next_gate"), 12)
    assert one.recall == pytest.approx(2 / 3), "all of the layers after the first"
    assert one.precision == 1


def test_what_is_missing_is_said() -> None:
    foreseen, alone = Replayer(tiny_traces.routing([[[0], [1]]], 4, distances=1), HOST), Replayer(ROUND, HOST)
    for name in POLICIES:
        assert bool(alone.lacking(Setting(name))) == (name == "static")
    lacking = {name: alone.lacking(Setting(prefetch=name)) for name in PREDICTORS}
    assert lacking["none"] == "" and "--ahead 3" in lacking["next_gate"] and "--ahead 3" in lacking["impact"]
    assert "a trace to learn from" in lacking["transition"] and "a trace to learn from" in lacking["activation"]
    assert "give its weights" in lacking["path"] and "choose the next layer's experts" in lacking["pre_gated"]
    assert not foreseen.lacking(Setting(prefetch="next_gate"))
    assert "expected one of lru" in alone.lacking(Setting("newest"))
    assert "expected one of none" in alone.lacking(Setting(prefetch="oracle"))
    with pytest.raises(UsageError, match="'transition' learns from earlier tokens"):
        alone.run(Setting(prefetch="transition"), 3)
    nameless = tiny_traces.routing([[[0], [1]]], 4)
    del nameless.arrays["tokens"]  # type: ignore[attr-defined]
    assert "does not say which" in Replayer(ROUND, HOST, Learnt(nameless)).lacking(Setting(prefetch="transition"))
    with pytest.raises(CheckpointError, match="what is learnt from: a trace of 2 layers"):
        Replayer(ROUND, HOST, Learnt(tiny_traces.routing(np.zeros((2, 1, 1)), 4)))


@pytest.mark.parametrize(
    ("text", "slots"), [("25%", 16), ("12.5%", 8), ("100%", 64), ("9", 9), ("900", 64), ("40KiB", 10), ("1 GB", 64)]
)
def test_sizes_of_caches(text: str, slots: int) -> None:
    assert parse_slots(text, 64, 4096) == slots


@pytest.mark.parametrize("text", ("1%", "0", "1", "-5%", "200%", "5 parts", "4KiB", "", "x%"))
def test_sizes_that_are_none_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match="memory"):
        parse_slots(text, 64, 4096)


def test_shares() -> None:
    assert parse_share(" 12.5% ", "share") == 0.125
    with pytest.raises(UsageError, match=r"--skip: expected a share from 0% to 100%, got '0\.5'"):
        parse_share("0.5", "--skip")


@pytest.mark.parametrize("name", known_machines())
def test_machines_that_come_along_can_be_replayed_on(name: str) -> None:
    machine = read_machine(name)
    assert machine.source and machine.name
    for model in MODELS.values():
        platform = Platform.of(ROUND, machine, model)
        planner = "hybrid" if machine.has_device else ""
        assert platform.has_device == machine.has_device
        one = Replayer(ROUND, platform).run(Setting(planner=planner), 2)
        assert one.nbytes % model.record_bytes == 0 and 1e-5 < one.seconds_per_token < 1


def test_a_model_costs_what_its_machine_says() -> None:
    machine, model = read_machine("a6000-xeon"), MODELS["mixtral-8x7b"]
    assert model.record_bytes == 3 * 4096 * 14336 * 9 // 16
    lane = machine.lanes["link"]
    everything = Replayer(ROUND, Platform.of(ROUND, machine, model)).run(Setting(planner="on_demand"), 2)
    crossed = lane["fixed_us"] * 1e3 + model.record_bytes / lane["gb_per_s"]
    assert everything.time_ns > 6 * crossed
    fixed, per_row = machine.layer(model)
    assert fixed == pytest.approx(20e3 + 2 * model.trunk_weights / 460) and per_row > 0


CPU = {"gb_per_s": 50, "gflop_per_s": 300, "fixed_us": 5}
SSD = {"gb_per_s": 5, "fixed_us": 30}


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ([], "expected an object with name"),
        ({"ssd": SSD}, "expected an object with name"),
        ({"cpu": CPU}, "expected device and link together, or an ssd"),
        ({"cpu": CPU, "ssd": SSD, "device": CPU}, "expected device and link together"),
        ({"cpu": CPU, "ssd": SSD, "gpu": CPU}, "unknown gpu; expected cpu, device, link, ssd"),
        ({"cpu": CPU, "ssd": {"gb_per_s": 5}}, r"ssd\.fixed_us: expected a number of at least 0, got None"),
        ({"cpu": CPU, "ssd": {**SSD, "gb_per_s": 0}}, r"ssd\.gb_per_s: expected a number above 0"),
        ({"cpu": {**CPU, "gflop_per_s": "many"}, "ssd": SSD}, r"cpu\.gflop_per_s: expected a number"),
        ({"cpu": CPU, "ssd": 5}, "ssd: expected an object"),
        ({"cpu": {**CPU, "first_us": "late"}, "ssd": SSD}, r"cpu\.first_us: expected a number"),
    ],
)
def test_a_broken_machine_is_refused(values: Any, words: str, tmp_path: Path) -> None:
    path = tmp_path / "machine.json"
    path.write_text(json.dumps(values))
    with pytest.raises(CheckpointError, match=words) as refused:
        read_machine(str(path))
    assert "machine.json" in str(refused.value)


def test_files_that_are_no_machines_are_refused(tmp_path: Path) -> None:
    (tmp_path / "m.json").write_text("{")
    (tmp_path / "b.json").write_bytes(b"\xff\xfe")
    for name, words in (("m.json", "not JSON"), ("b.json", "not JSON"), ("none.json", "neither a file nor one of")):
        with pytest.raises(MoestroError, match=words):
            read_machine(str(tmp_path / name))


def test_a_picture_shows_every_setting(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    from moestro.trace.replay_plot import draw_replays

    results = list(replay_grid(Replayer(ROUND, HOST), grid(("lru", "lfu"), ("none",), ("",)), (2, 3)))
    draw_replays(results, tmp_path / "plot.png", "by hand")
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")
    assert asdict(results[0].setting) == {"policy": "lru", "prefetch": "none", "planner": ""}
