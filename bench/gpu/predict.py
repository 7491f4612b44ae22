"""What a replay says that a run would take: lanes as they were measured, routing as it was recorded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from moestro.core import LaneCosts
from moestro.trace.replays import Platform, Replayer, Setting
from moestro.trace.routing import read_routing_trace

Row = Mapping[str, Any]  # a line of run_engine.py, with its case


@dataclass(frozen=True)
class Lanes:
    """Nanoseconds while decoding."""

    cpu: float  # an expert on the processor
    device: float  # one on the device
    link: float  # a record on its way there
    layer: float  # a layer beside its experts


def fit_lanes(rows: Sequence[Row], layers: int, record_bytes: int) -> Lanes | None:
    """From the runs that keep one lane busy alone; None where one of them is missing."""
    processor = next((row for row in rows if row["case"] == "cpu"), None)
    whole = max((row for row in rows if row["case"] != "cpu"), key=lambda row: _on_device(row), default=None)
    sent = max(rows, key=lambda row: row["decode"]["link_bytes"], default=None)
    if processor is None or whole is None or sent is None or not _on_device(whole):
        return None
    computed = _asked(processor) - _on_device(processor)
    if not computed:
        return None
    device = whole["decode"]["device_ns"] / _on_device(whole)
    wall = whole["decode_s"] * 1e9 / (whole["decode"]["steps"] * layers)
    experts = _asked(whole) / (whole["decode"]["steps"] * layers)
    crossed = sent["decode"]["link_bytes"] / record_bytes
    return Lanes(
        cpu=processor["decode"]["compute_ns"] / computed,
        device=device,
        link=sent["decode"]["link_busy_ns"] / crossed if crossed else 0.0,
        layer=max(0.0, wall - experts * device),
    )


def predict(trace_file: Path, lanes: Lanes, rows: Sequence[Row], first_step: int) -> list[float | None]:
    """Seconds per token of each row's settings; None where a replay lacks something."""
    trace = read_routing_trace(trace_file)
    sizes = tuple(int(size) for size in trace.array("record_bytes"))
    costs = LaneCosts(cpu=(lanes.cpu, 0.0), device=(lanes.device, 0.0), link=lanes.link)
    platform = Platform("as measured", sizes, (costs,) * len(sizes), (lanes.layer, 0.0), has_device=True)
    replayer = Replayer(trace, platform, first_step=first_step)
    found: list[float | None] = []
    for row in rows:
        setting = Setting(row["policy"], row["prefetch"], row["schedule"])
        slots = row["residency"]["device_slots"]
        lacking = replayer.lacking(setting) or slots < 2
        found.append(None if lacking else replayer.run(setting, min(slots, sum(replayer.experts))).seconds_per_token)
    return found


def _asked(row: Row) -> int:
    return int(sum(row["decode"][name] for name in ("hits", "misses", "joined")))


def _on_device(row: Row) -> int:
    return int(row["decode"]["on_device"])
