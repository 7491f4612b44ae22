"""Published systems as settings of a replay, each with the parts that its paper is about."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from moestro.core import plan_layer
from moestro.trace.replays import Learnt, Platform, Replayer, Setting
from moestro.trace.routing import RoutingTrace

AUTO = Setting("lrfu", "next_gate", "hybrid")

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


def run_system(replayer: Replayer, name: str, slots: int, split: Taken) -> Taken:
    """split: what the static split takes, which is no replay."""
    if name == SPLIT:
        return split
    one = replayer.run(SYSTEMS[name], slots)
    return Taken(one.seconds_per_token, one.hit_rate, one.bytes_per_token)


def static_split(trace: RoutingTrace, learnt: Learnt, platform: Platform, slots: int, first_step: int) -> Taken:
    """Fiddler's split: what another trace used most is on the device from the start, the processor computes the rest,
    and nothing crosses the link; so there is nothing to simulate.
    """
    assert learnt.trace is not None
    experts = [int(count) for count in trace.array("experts")]
    uses = np.asarray(learnt.trace.frequencies(experts, "what is learnt from"))
    here = np.zeros(len(uses), bool)
    here[np.argsort(-uses, kind="stable")[:slots]] = True
    begins = np.cumsum([0, *experts])
    rows = trace.array("step_rows")
    plan = _Plans(platform)
    row, nanoseconds, hits, asked = int(rows[:first_step].sum()), 0.0, 0, 0
    for count in rows[first_step:]:
        nanoseconds += _at(platform.step, count)
        for layer, begin in enumerate(begins[:-1]):
            used, pairs = np.unique(trace.chosen[layer, row : row + count], return_counts=True)
            found = here[begin + used]
            nanoseconds += _at(platform.layer, count) + plan.took(layer, pairs, found)
            hits, asked = hits + int(found.sum()), asked + len(used)
        row += int(count)
    return Taken(nanoseconds / 1e9 / rows[first_step:].sum(), hits / asked, 0.0)


class _Plans:
    """What layers take by the split's planner, each kind of layer planned once."""

    def __init__(self, platform: Platform) -> None:
        self._platform = platform
        self._known: dict[tuple[Any, ...], float] = {}

    def took(self, layer: int, rows: Any, found: Any) -> float:
        """Nanoseconds, for experts with so many rows each, found on the device or not."""
        costs = self._platform.lanes[layer]
        kind = (id(costs), *sorted(zip(rows.tolist(), found.tolist(), strict=True)))
        if kind not in self._known:
            places = [(number, rows, "device" if there else "host") for number, (rows, there) in enumerate(kind[1:])]
            self._known[kind] = plan_layer("static", costs, places)[1]
        return self._known[kind]


def _at(line: tuple[float, float], rows: float) -> float:
    return line[0] + line[1] * float(rows)
