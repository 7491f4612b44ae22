"""A replay counts what a run counts: the same trace, another cache, another policy, and no difference at all."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny_models

from moestro import LLM, SamplingParams, core
from moestro.config import POLICIES
from moestro.gen.stats import RunStats
from moestro.pack import pack_checkpoint
from moestro.trace.routing import RoutingTrace, read_routing_trace, write_routing_trace

PARAMS = SamplingParams(max_tokens=24, temperature=0.0, ignore_eos=True)
PROMPTS = [tiny_models.prompt(length).tolist() for length in (1, 19, 7)]  # 19 in chunks of 9
FEW = 2  # fewer than the four experts that a token needs in a layer of most of these
# Of tiny models: experts of one size; and one whose layers have experts and none by turns.
CASES = ("qwen3_moe", "deepseek_v3", "llama4_text", "packed q8 qwen3_moe", "packed bf16 mixtral")


@pytest.fixture(scope="module")
def directory(
    tiny_checkpoint: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Path]:
    @functools.cache
    def stored(case: str) -> Path:
        kind, *rest = case.split()
        if kind != "packed":
            return tiny_checkpoint(case)
        format, name = rest
        return pack_checkpoint(tiny_checkpoint(name), tmp_path_factory.mktemp("packed") / name, format, threads=2)

    return stored


def run(directory: Path | str, slots: int, prompts: Any = PROMPTS, **settings: Any) -> tuple[RunStats, RoutingTrace]:
    """All prompts as one batch, which gets smaller towards the end of none."""
    fixed = {"host_memory": "256MiB", "threads": 2, "prefill_chunk": 9, "record_tokens": 1000, "say": None}
    with LLM(directory, expert_slots=slots, **{**fixed, **settings}) as llm:
        llm.generate(prompts, PARAMS)
        stats, trace = llm.stats(), llm.routing()
    assert stats is not None
    return stats, trace


def replayed(trace: RoutingTrace, slots: int, policy: str, learnt: RoutingTrace) -> dict[str, Any]:
    sizes = trace.array("record_bytes").tolist()
    experts = trace.array("experts").tolist()
    return core.replay(
        trace.record(),
        record_bytes=sizes,
        costs=[core.LaneCosts(cpu=(1000.0, 100.0), ssd=5000.0)] * len(sizes),
        cache_bytes=slots * max(sizes),
        max_slots=slots,
        policy=policy,
        frequencies=learnt.frequencies(experts, "the trace") if policy == "static" else (),
    )


def check(stats: RunStats, replay: dict[str, Any], packed: bool) -> None:
    found = {name: int(replay[name].sum()) for name in ("hits", "misses", "joined")}
    assert found == {"hits": stats.hits, "misses": stats.misses, "joined": stats.joined}
    assert (replay["evictions"], replay["loads"]) == (stats.evictions, stats.misses)
    if packed:
        assert replay["nbytes"] == stats.expert_bytes_read


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("case", CASES)
def test_a_replay_counts_what_the_run_counts(
    case: str, policy: str, directory: Callable[[str], Path], tmp_path: Path
) -> None:
    _, trace = run(directory(case), 5)
    settings: dict[str, Any] = {"policy": policy}
    if policy == "static":
        write_routing_trace(tmp_path / "learnt.npz", trace)
        settings["policy_trace"] = tmp_path / "learnt.npz"
    every = int(trace.array("experts").sum())
    for slots in (FEW, 4, every // 2, every - 1, every):
        stats, own = run(directory(case), slots, **settings)
        assert stats.hits + stats.misses > 0
        assert (own.chosen == trace.chosen).all(), "routing does not depend on the cache"
        check(stats, replayed(trace, slots, policy, trace), case.startswith("packed"))


def test_a_written_trace_replays_the_same(directory: Callable[[str], Path], tmp_path: Path) -> None:
    stats, trace = run(directory("qwen3_moe"), 6)
    write_routing_trace(tmp_path / "t.npz", trace)
    again = read_routing_trace(tmp_path / "t.npz")
    assert (str(again.array("policy")), int(again.array("slots")), again.complete) == ("lrfu", 6, True)
    check(stats, replayed(again, 6, "lrfu", again), False)


@pytest.mark.parametrize("policy", POLICIES)
def test_a_trained_model_too(policy: str, tmp_path: Path) -> None:
    prompts = ["def main():\n", 'class Queue(object):\n    """A queue']
    _, trace = run("moestro:demo", 64, prompts)
    settings: dict[str, Any] = {"policy": policy}
    if policy == "static":
        write_routing_trace(tmp_path / "learnt.npz", trace)
        settings["policy_trace"] = tmp_path / "learnt.npz"
    for slots in (3, 32, 100):
        stats, _ = run("moestro:demo", slots, prompts, **settings)
        check(stats, replayed(trace, slots, policy, trace), False)
