"""`moestro trace record` and `moestro trace replay`: what they write, show and refuse."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from moestro.cli.main import app
from moestro.trace.routing import RoutingTrace, read_routing_trace, write_routing_trace

MODEL = "moestro:demo"
SMALL = ("--host-memory", "64MiB", "--threads", "2", "--max-tokens", "12", "--ignore-eos")


def trace(*words: Any) -> Any:
    return CliRunner().invoke(app, ["trace", *map(str, words)], env={"COLUMNS": "80"})


def record(out: Path, *words: Any) -> Any:
    done = trace("record", MODEL, *words, "--out", out, *SMALL)
    assert done.exit_code == 0, done.output
    return done


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("recorded") / "trace.npz"
    record(path, "import os", "class Error", "--expert-slots", 40)
    return path


def test_prompts_are_run_one_after_the_other(recorded: Path) -> None:
    read = read_routing_trace(recorded)
    assert (read.model, read.complete, int(read.array("slots"))) == (MODEL, True, 40)
    rows = read.array("step_rows")
    assert sorted(rows)[:-2] == [1] * 22, "after each prompt eleven steps of a token"
    assert rows.sum() == read.chosen.shape[1] and read.chosen.shape[::2] == (8, 4)
    assert read.array("ahead_ids").shape[1] == 3


def test_prompts_of_a_file_as_one_batch(tmp_path: Path) -> None:
    (tmp_path / "prompts.txt").write_text("import os\n\nclass Error\n", encoding="utf-8")
    out = tmp_path / "t.npz"
    done = record(out, "def main", "--prompts", tmp_path / "prompts.txt", "--together", "--ahead", 0)
    read = read_routing_trace(out)
    assert read.array("step_rows")[-1] == 3
    assert read.array("ahead_ids").shape[1] == 0
    tokens, steps = read.chosen.shape[1], len(read.array("step_rows"))
    assert f"{tokens} tokens in {steps} steps, 8 layers of 32 experts, 4 per token: {out}, " in done.output


def test_the_same_seed_records_the_same(tmp_path: Path) -> None:
    for name in ("a", "b"):
        record(tmp_path / name, "import os", "--temperature", 1, "--seed", 3)
    one, other = (read_routing_trace(tmp_path / name) for name in ("a", "b"))
    np.testing.assert_array_equal(one.chosen, other.chosen)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("record", MODEL), "no prompt: give one or more, or a file of them with --prompts"),
        (("record", MODEL, "x", "--out", "no/where/t.npz"), "there is no folder"),
        (("record", MODEL, "--prompts", "nowhere.txt"), "nowhere.txt: cannot read the prompts"),
    ],
)
def test_what_cannot_be_recorded_is_said(words: tuple[str, ...], says: str) -> None:
    done = trace(*words)
    assert done.exit_code == 1
    assert says in done.output


def test_a_model_without_experts_has_no_routing(tmp_path: Path) -> None:
    done = trace("record", "moestro:draft", "x", "--out", tmp_path / "t.npz", *SMALL)
    assert done.exit_code == 1
    assert "a model without experts has no routing to record" in done.output
    assert not (tmp_path / "t.npz").exists()


def test_a_replay_shows_a_line_per_setting(recorded: Path, tmp_path: Path) -> None:
    figures = tmp_path / "figures.json"
    done = trace("replay", recorded, "--policy", "lru,lfu", "--memory", "25%,100", "--json", figures)
    assert done.exit_code == 0, done.output
    head, machine, titles, *lines = done.output.splitlines()
    assert f"{recorded}: {MODEL}, " in head and "8 layers of 32 experts" in head
    assert machine.startswith("machine: as recorded, experts of 36.00 KiB")
    assert titles.split()[:4] == ["policy", "prefetch", "memory", "hits"]
    assert [line.split()[:3] for line in lines] == [
        [policy, "none", share] for policy in ("lru", "lfu") for share in ("25.0%", "39.1%")
    ]
    assert len({len(line) for line in lines}) == 1, "columns end at one place"
    written = json.loads(figures.read_text())
    assert written["machine"] == "as recorded" and not written["device"]
    assert [one["slots"] for one in written["replays"]] == [64, 100, 64, 100]
    assert all(one["least_misses"] <= one["misses"] for one in written["replays"])


def test_a_machine_with_a_device_and_everything_that_can_be_had(recorded: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    picture = tmp_path / "plot.png"
    words = ("--prefetch", "none,next_gate", "--planner", "all", "--memory", "25%", "--plot", picture)
    done = trace("replay", recorded, *words, "--machine", "a6000-xeon", "--model", "deepseek-v2-lite")
    assert done.exit_code == 0, done.output
    assert "left out: policy 'static'" in done.output
    assert "machine: deepseek-v2-lite on RTX A6000" in done.output
    assert "recall" in done.output and "greedy_01" in done.output
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_what_is_learnt_comes_from_another_trace_or_from_the_beginning(recorded: Path) -> None:
    learners = ("--policy", "static", "--prefetch", "transition,activation", "--memory", "25%")
    for words in (("--learn", recorded), ("--learn-first", "50%"), ("--learn", recorded, "--skip", "30%")):
        done = trace("replay", recorded, *learners, *words)
        assert done.exit_code == 0, done.output
        assert [line.split()[1] for line in done.output.splitlines()[3:]] == ["transition", "activation"]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--policy", "static"), "policy 'static' keeps what a routing trace used most: give a trace to learn from"),
        (("--prefetch", "path"), "prefetch 'path' is a trained network: give its weights"),
        (("--prefetch", "oracle"), "prefetch: expected one of none, auto, next_gate"),
        (("--planner", "hybrid"), "planner 'hybrid' shares experts out between processor and device; as recorded has"),
        (("--machine", "laptop"), "--model: laptop needs one of mixtral-8x7b"),
        (("--machine", "pocket", "--model", "mixtral-8x7b"), "machine 'pocket': neither a file nor one of"),
        (("--model", "mixtral-8x7b"), "--model: a recorded machine goes with the recorded model"),
        (("--memory", "1B"), "memory: 1B is room for 0 of 256 experts"),
        (("--memory", ","), "--memory: expected at least one"),
        (("--skip", "100%"), "--skip 100%: leaves none of"),
        (("--skip", "2"), "--skip: expected a share"),
        (("--learn-first", "0%"), "--learn-first 0%: leaves nothing of"),
        (("--learn-first", "10%", "--learn", "x.npz"), "--learn and --learn-first: choose one"),
        (("--learn", "nowhere.npz"), "nowhere.npz: cannot read the routing trace"),
        (("--path-weights", "nowhere.npz"), "nowhere.npz: cannot read the path weights"),
        (("--json", "no/where/x.json"), "there is no folder"),
    ],
)
def test_what_cannot_be_replayed_is_said(words: tuple[str, ...], says: str, recorded: Path) -> None:
    done = trace("replay", recorded, *words)
    assert done.exit_code == 1
    assert says in done.output


def test_a_trace_without_steps_cannot_be_replayed(tmp_path: Path) -> None:
    write_routing_trace(tmp_path / "t.npz", RoutingTrace(np.zeros((2, 3, 1), np.int32), {}))
    done = trace("replay", tmp_path / "t.npz", "--machine", "laptop", "--model", "mixtral-8x7b")
    assert done.exit_code == 1
    assert "record one with `moestro trace record`" in done.output
