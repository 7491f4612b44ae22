"""A timeline: what each lane did when, for Chrome's and Perfetto's viewers, and what it says by itself."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

LANES = ("cpu", "ssd", "stream", "link", "device")
_LANE_TITLES = {
    "cpu": "cpu: computing threads",
    "ssd": "ssd: reads of experts",
    "stream": "ssd: reads of streamed units",
    "link": "link: copies to the device",
    "device": "device: experts",
}


@dataclass(frozen=True, slots=True)
class Event:
    """Times in nanoseconds of one clock. started: when the lane turned to it, as if it did one thing at a time."""

    lane: str  # of LANES
    activity: str  # "step", "attention", "mlp", "route", "experts", "head", "stall", "read"
    layer: int  # -1: of none
    item: int  # an expert, or a streamed unit; -1: none
    count: int  # rows, or experts computed together
    nbytes: int
    submitted: int
    started: int
    done: int

    @property
    def title(self) -> str:
        what = {"ssd": "expert", "link": "expert", "stream": "unit"}.get(self.lane)
        of = [f"layer {self.layer}"] if self.layer >= 0 else []
        if self.item >= 0:
            of.append(f"{what or 'unit'} {self.item}")
        if self.activity == "experts":
            of.append(f"{self.count} of them")
        return " ".join([self.activity, *of])


@dataclass(frozen=True)
class Timeline:
    events: tuple[Event, ...]  # in the order in which they ended
    lost: int  # older events that had no room

    @classmethod
    def of(cls, events: Iterable[Mapping[str, Any]], lost: int) -> Timeline:
        return cls(tuple(Event(**event) for event in events), lost)

    def last_steps(self, count: int) -> Timeline:
        """The events of the last `count` steps."""
        steps = [event for event in self.events if event.activity == "step"][-count:]
        if not steps:
            return self
        begin, end = steps[0].started, steps[-1].done
        return Timeline(tuple(event for event in self.events if event.done > begin and event.started < end), self.lost)

    @property
    def span(self) -> tuple[int, int]:
        """First and last nanosecond; (0, 0) without events."""
        if not self.events:
            return 0, 0
        return min(event.started for event in self.events), max(event.done for event in self.events)

    def busy(self) -> dict[str, float]:
        """Share of the span in which each lane worked; waiting is not working."""
        begin, end = self.span
        whole = max(1, end - begin)
        return {
            lane: _covered(
                (max(event.submitted if lane != "cpu" else event.started, begin), event.done)
                for event in self.events
                if event.lane == lane and event.activity not in ("stall", "step")
            )
            / whole
            for lane in LANES
        }

    def chrome(self) -> dict[str, Any]:
        """The Trace Event Format, as chrome://tracing and ui.perfetto.dev read it. Times in microseconds."""
        begin = self.span[0]
        names: list[dict[str, Any]] = [
            {"ph": "M", "pid": 1, "tid": tid, "name": "thread_name", "args": {"name": _LANE_TITLES[lane]}}
            for tid, lane in enumerate(LANES)
        ]
        return {
            "traceEvents": names + [_chrome_event(event, begin) for event in self.events],
            "displayTimeUnit": "ms",
            "otherData": {"lost": self.lost},
        }

    def write_chrome(self, path: Path) -> None:
        path.write_text(json.dumps(self.chrome()) + "\n")


def _chrome_event(event: Event, begin: int) -> dict[str, Any]:
    details = {name: getattr(event, name) for name in ("layer", "item", "count", "nbytes") if getattr(event, name) > -1}
    return {
        "ph": "X",
        "pid": 1,
        "tid": LANES.index(event.lane),
        "name": event.title,
        "cat": event.activity,
        "ts": (event.started - begin) / 1e3,
        "dur": (event.done - event.started) / 1e3,
        "args": {**details, "queued_us": (event.started - event.submitted) / 1e3},
    }


def _covered(spans: Iterable[tuple[int, int]]) -> int:
    """Length of the union."""
    covered, reached = 0, -1
    for begin, end in sorted(spans):
        covered += max(0, end - max(begin, reached))
        reached = max(reached, end)
    return covered
