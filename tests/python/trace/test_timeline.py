"""Timelines: what a run recorded, as Chrome reads it and as a picture."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from moestro import LLM, SamplingParams
from moestro.cli.main import app
from moestro.trace.timeline import Timeline


def event(lane: str, activity: str, begin: int, end: int, **more: Any) -> dict[str, Any]:
    fields = {"layer": -1, "item": -1, "count": 0, "nbytes": 0, "submitted": begin}
    return {**fields, "lane": lane, "activity": activity, "started": begin, "done": end, **more}


PLANTED = Timeline.of(
    [
        event("cpu", "step", 0, 40),
        event("ssd", "read", 100, 140, layer=2, item=5, nbytes=4096, submitted=60),
        event("cpu", "attention", 50, 80, layer=2),
        event("cpu", "stall", 80, 140, layer=2),
        event("cpu", "experts", 140, 150, layer=2, count=3),
        event("cpu", "step", 50, 150),
    ],
    7,
)


def test_lanes_are_busy_while_they_work() -> None:
    last = PLANTED.last_steps(1)
    assert [one.activity for one in last.events] == ["read", "attention", "stall", "experts", "step"]
    assert last.span == (50, 150)
    assert last.busy() == {"cpu": 0.4, "ssd": 0.8, "stream": 0.0, "link": 0.0, "device": 0.0}
    assert PLANTED.last_steps(9) == PLANTED
    assert set(Timeline.of([], 0).busy().values()) == {0.0}


def test_chrome_gets_what_it_reads() -> None:
    chrome = PLANTED.chrome()
    json.dumps(chrome)
    assert chrome["otherData"] == {"lost": 7}
    read = next(one for one in chrome["traceEvents"] if one.get("cat") == "read")
    assert (read["ph"], read["ts"], read["dur"], read["name"]) == ("X", 0.1, 0.04, "read layer 2 expert 5")
    assert read["args"] == {"layer": 2, "item": 5, "count": 0, "nbytes": 4096, "queued_us": 0.04}
    names = {one["tid"]: one["args"]["name"] for one in chrome["traceEvents"] if one["ph"] == "M"}
    assert names[read["tid"]] == "ssd: reads of experts"


@pytest.mark.parametrize("stream", ("off", "zero-inference"))
def test_a_run_records_what_it_did(stream: str, tiny_checkpoint: Callable[[str], Path]) -> None:
    params = SamplingParams(max_tokens=6, temperature=0, ignore_eos=True)
    settings = {"host_memory": "64MiB", "expert_slots": 4, "stream": stream, "say": None}
    with LLM(tiny_checkpoint("qwen3_moe"), trace_events=20000, **settings) as llm:
        llm.timeline()
        llm.generate([[1, 2, 3]], params)
        stats, timeline = llm.stats(), llm.timeline()
        assert {one.activity for one in llm.timeline().events} <= {"read"}, "nothing else goes on between runs"
    assert stats is not None
    assert timeline.lost == 0
    kinds = {(one.lane, one.activity) for one in timeline.events}
    assert {("cpu", name) for name in ("step", "attention", "route", "experts", "head")} <= kinds
    assert (("stream", "read") in kinds) == (stream != "off")
    steps = [one for one in timeline.events if one.activity == "step"]
    assert [one.count for one in steps] == [3, 1, 1, 1, 1, 1]
    reads = [one for one in timeline.events if one.lane == "ssd"]
    assert len(reads) == stats.misses > 0
    assert all(one.submitted <= one.started <= one.done for one in timeline.events)
    assert all(0 <= one.layer < 3 and 0 <= one.item < 7 and one.nbytes > 0 for one in reads)
    computed = sum(one.count for one in timeline.events if one.activity == "experts")
    assert computed == stats.hits + stats.misses + stats.joined
    queued = sum(one.started - one.submitted for one in reads) / 1e9
    assert stats.queued_s["ssd"] == pytest.approx(queued)
    assert stats.binding in stats.busy and 0 < stats.busy[stats.binding] <= 1.001


def test_a_device_has_lanes_of_its_own(tmp_path: Path) -> None:
    asked = {"device": "emulated:memory=64MiB", "device_memory": "2MiB", "schedule": "on_demand"}
    with LLM("moestro:demo", host_memory="256MiB", trace_events=10_000, say=None, **asked) as llm:
        llm.generate([[1, 2, 3]], SamplingParams(max_tokens=4, temperature=0.0, ignore_eos=True))
        timeline, stats = llm.timeline(), llm.stats()
    assert stats is not None and stats.device is not None
    assert sum(event.nbytes for event in timeline.events if event.lane == "link") == stats.device.link_bytes
    computed = sum(event.count for event in timeline.events if event.lane == "device")
    assert computed == stats.device.computed > 0
    begin, end = timeline.span
    assert (end - begin) / 1e9 == pytest.approx(stats.wall_s, rel=0.01), "all of it on the virtual clock"
    words = ["trace", "timeline", "moestro:demo", "--max-tokens", "2", "--out", str(tmp_path / "t.json")]
    done = CliRunner().invoke(app, [*words, "--device", "emulated:memory=64MiB", "--device-memory", "2MiB"])
    assert done.exit_code == 0, done.output
    assert "device: busy" in done.output and "link: busy" in done.output
    lanes = {one["tid"] for one in json.loads((tmp_path / "t.json").read_text())["traceEvents"]}
    assert lanes == set(range(5))


def test_nothing_is_recorded_unless_asked(tiny_checkpoint: Callable[[str], Path]) -> None:
    with LLM(tiny_checkpoint("qwen3_moe"), host_memory="64MiB", say=None) as llm:
        llm.generate([[1, 2, 3]], SamplingParams(max_tokens=2))
        assert llm.timeline() == Timeline((), 0)


def test_the_command_writes_both(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    out, plot = tmp_path / "timeline.json", tmp_path / "timeline.png"
    arguments = ["trace", "timeline", "moestro:demo", "def main", "--host-memory", "min", "--max-tokens", "6"]
    done = CliRunner().invoke(app, [*arguments, "--out", str(out), "--plot", str(plot), "--steps", "2"])
    assert done.exit_code == 0, done.output
    assert "bound by: " in done.output and "events of 2 steps" in done.output
    assert len(json.loads(out.read_text())["traceEvents"]) > 50
    assert plot.read_bytes().startswith(b"\x89PNG")


def test_a_folder_that_is_not_there_is_named_before_anything_runs(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["trace", "timeline", "moestro:demo", "--out", str(tmp_path / "no" / "x.json")])
    assert done.exit_code == 1
    assert "there is no folder" in done.output
