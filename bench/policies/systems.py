"""Published systems as settings of a replay, each with the parts that its paper is about."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from moestro.trace.replays import Replayer, Setting

AUTO = Setting("lrfu", "auto", "hybrid")

SYSTEMS: Mapping[str, Setting] = {
    "on demand: LRU": Setting("lru", "none", "on_demand"),
    "static split": Setting("static", "none", "static"),
    "Fate": Setting("shallow", "next_gate", "on_demand"),
    "HybriMoE": Setting("score", "impact", "hybrid"),
    "DALI": Setting("workload", "next_gate", "greedy_01"),
    "auto": AUTO,
}
ON_DEMAND, SPLIT, HYBRID = "on demand: LRU", "static split", "auto"


@dataclass(frozen=True)
class Taken:
    seconds: float  # per token
    hit_rate: float
    nbytes: float  # over the link, per token


def run_system(replayer: Replayer, name: str, slots: int) -> Taken:
    one = replayer.run(SYSTEMS[name], slots)
    return Taken(one.seconds_per_token, one.hit_rate, one.bytes_per_token)
