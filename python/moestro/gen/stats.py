"""What one run cost: `LLM.stats()` and the closing line of the commands."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from moestro.gen.parts import MeasuredRuntime

# Counters of the core that are times, and the lanes they belong to.
_LANES = {
    "compute": "compute_ns",  # expert kernels
    "stall": "stall_ns",  # waiting for reads with nothing to compute
    "arrival": "arrival_ns",  # verifying and interleaving what arrived
    "ssd": "read_busy_ns",  # at least one expert read in flight
    "stream stall": "stream_stall_ns",  # waiting for a streamed unit
    "stream arrival": "stream_arrival_ns",  # verifying and interleaving units, beside the computation
    "stream ssd": "stream_read_busy_ns",  # at least one read of a unit in flight
    "link": "link_busy_ns",  # at least one copy to the device on its way
    "device": "device_ns",  # it has something to compute
}


# What work waited behind other work of its lane: kernels, reads of experts, reads of streamed units. SKIP (2504.11750)
# adds up the launch and queue times of GPU kernels (TKLQT) to tell what binds a run; here every lane has its sum.
_QUEUES = {"cpu": "compute_queued_ns", "ssd": "read_queued_ns", "stream ssd": "stream_queued_ns"}


@dataclass(frozen=True)
class DeviceStats:
    """Of one run, but for what is there now."""

    schedule: str  # who decides what the device computes, and why
    computed: int  # experts, of hits + misses + joined
    link_bytes: int  # copied to the device
    evictions: int
    slots: int  # now: experts that fit
    resident: int  # now: experts
    limit_bytes: int  # now: of the slots
    peak_bytes: int  # allocated on the device, since loading


@dataclass(frozen=True)
class RunStats:
    """One run of generate, stream or chat. Times in seconds, without the time the caller took between chunks; with an
    emulated device they are virtual, and `real_s` is apart.
    """

    prompt_tokens: int
    reused_tokens: int  # prompt tokens whose KV an earlier turn had left
    generated_tokens: int
    finish_reasons: dict[str, int]  # "stop" | "length" | "cancelled" -> answers
    steps: int
    wall_s: float
    ttft_s: float | None  # from the call to the run's first token; None where there was none
    prefill_s: float  # steps that read a prompt, decodes beside it included
    prefill_tokens_per_s: float
    decode_s: float  # all other steps
    decode_tokens_per_s: float
    hits: int  # per distinct (layer, expert) of a step: in memory
    misses: int  # read from the SSD
    joined: int  # found while being read
    evictions: int
    reads: int
    expert_bytes_read: int
    trunk_bytes_read: int
    stream_bytes_read: int  # weights that pass through memory
    lanes_s: dict[str, float]
    queued_s: dict[str, float]  # per lane: what its work waited behind other work of the lane, added up
    budget_bytes: int
    peak_bytes: int  # of all reservations together, since loading
    peak_bytes_by_entry: dict[str, int]
    # Of each layer with experts, where a predictor says what will be used: steps, needed (experts that the router
    # chose), hinted (that were expected), foreseen (both), used_bytes, late_bytes and wasted_bytes (read ahead and then
    # asked for when they were there, asked for before, not asked for), started, cancelled, regretted (missing because
    # they had made room for a hint), times_off, and off: whether it is not listened to now.
    prefetch: tuple[dict[str, int], ...] = ()
    virtual: bool = False
    real_s: float = 0.0  # from the run's beginning to its end, by the clock on the wall
    device: DeviceStats | None = None  # None: experts stay off devices

    @property
    def hit_rate(self) -> float | None:
        """None for a model without experts."""
        asked = self.hits + self.misses + self.joined
        return self.hits / asked if asked else None

    @property
    def read_gb_per_s(self) -> float | None:
        """Expert bytes over the time with a read in flight, 1e9 bytes per second; None where nothing was read."""
        busy = self.lanes_s["ssd"]
        return self.expert_bytes_read / busy / 1e9 if busy > 0 else None

    @property
    def busy(self) -> dict[str, float]:
        """Share of the run's time in which a lane worked; the processor did whenever it did not wait."""
        wall = max(self.wall_s, 1e-9)
        waits = self.lanes_s["stall"] + self.lanes_s["stream stall"]
        return {
            "cpu": max(0.0, 1 - waits / wall),
            "ssd": self.lanes_s["ssd"] / wall,
            **{lane: self.lanes_s[lane] / wall for lane in ("stream ssd", "link", "device")},
        }

    @property
    def binding(self) -> str:
        """The lane that the run is bound by: the busiest."""
        busy = self.busy
        return max(busy, key=lambda lane: busy[lane])

    @property
    def recall(self) -> float | None:
        """Share of the experts that routers chose which had been expected; None without a predictor."""
        needed = sum(layer["needed"] for layer in self.prefetch)
        return sum(layer["foreseen"] for layer in self.prefetch) / needed if needed else None

    @property
    def precision(self) -> float | None:
        """Share of the expected experts that routers chose; None where none was expected."""
        hinted = sum(layer["hinted"] for layer in self.prefetch)
        return sum(layer["foreseen"] for layer in self.prefetch) / hinted if hinted else None

    @property
    def stream_gb_per_s(self) -> float | None:
        """The same of the layer stream."""
        busy = self.lanes_s["stream ssd"]
        return self.stream_bytes_read / busy / 1e9 if busy > 0 else None

    def as_dict(self) -> dict[str, Any]:
        return {
            **asdict(self),
            "hit_rate": self.hit_rate,
            "read_gb_per_s": self.read_gb_per_s,
            "stream_gb_per_s": self.stream_gb_per_s,
            "busy": self.busy,
            "binding": self.binding,
            "recall": self.recall,
            "precision": self.precision,
        }


class RunMeter:
    """Measures one run, from construction to `finish`."""

    def __init__(self, runtime: MeasuredRuntime, clock: Callable[[], float] | None = None) -> None:
        """clock: seconds; None takes the runtime's where that is virtual, else time.perf_counter."""
        self._runtime = runtime
        self._clock = clock or (self._virtual_s if runtime.virtual_time else time.perf_counter)
        self._real_begun = time.perf_counter()
        self._before = runtime.counters()
        self._prefetch_before = runtime.prefetch_counters()
        self._begun = self._clock()
        self._ttft: float | None = None
        self._seconds = {True: 0.0, False: 0.0}  # by: did the step read a prompt
        self._decoded = 0  # tokens of steps that read no prompt
        self._step_begun = 0.0
        self.steps = self.prompt_rows = self.prompt_tokens = self.reused_tokens = 0

    def begin_step(self) -> None:
        self._step_begun = self._clock()

    def end_step(self, prompt_rows: int, new_tokens: int) -> None:
        now = self._clock()
        self.steps += 1
        self.prompt_rows += prompt_rows
        self._seconds[prompt_rows > 0] += now - self._step_begun
        self._decoded += new_tokens if prompt_rows == 0 else 0
        if self._ttft is None and new_tokens:
            self._ttft = now - self._begun

    def finish(self, generated: int, reasons: Iterable[str]) -> RunStats:
        used = _difference(self._runtime.counters(), self._before)
        ledger = self._runtime.ledger
        prefill, decode = self._seconds[True], self._seconds[False]
        return RunStats(
            prompt_tokens=self.prompt_tokens,
            reused_tokens=self.reused_tokens,
            generated_tokens=generated,
            finish_reasons=dict(Counter(reasons)),
            steps=self.steps,
            wall_s=prefill + decode,
            ttft_s=self._ttft,
            prefill_s=prefill,
            prefill_tokens_per_s=_rate(self.prompt_rows, prefill),
            decode_s=decode,
            decode_tokens_per_s=_rate(self._decoded, decode),
            hits=used["hits"],
            misses=used["misses"],
            joined=used["joined"],
            evictions=used["evictions"],
            reads=used["reads"],
            expert_bytes_read=used["expert_bytes_read"],
            trunk_bytes_read=used["trunk_bytes_read"],
            stream_bytes_read=used["stream_bytes_read"],
            queued_s={lane: used[name] / 1e9 for lane, name in _QUEUES.items()},
            lanes_s={lane: used[name] / 1e9 for lane, name in _LANES.items()},
            budget_bytes=ledger.budget,
            peak_bytes=ledger.peak,
            prefetch=_by_layer(self._runtime.prefetch_counters(), self._prefetch_before),
            peak_bytes_by_entry={entry["name"]: entry["peak"] for entry in ledger.entries()},
            virtual=self._runtime.virtual_time,
            real_s=time.perf_counter() - self._real_begun,
            device=self._device(used),
        )

    def _virtual_s(self) -> float:
        return self._runtime.counters()["clock_ns"] / 1e9

    def _device(self, used: Mapping[str, int]) -> DeviceStats | None:
        where = self._runtime.residency()
        if where["device_slots"] == 0:
            return None
        return DeviceStats(
            schedule=self._runtime.schedule(),
            computed=used["on_device"],
            link_bytes=used["link_bytes"],
            evictions=used["device_evictions"],
            slots=where["device_slots"],
            resident=where["device_resident"],
            limit_bytes=where["device_bytes"],
            peak_bytes=where["device_peak"],
        )


def _difference(after: Mapping[str, int], before: Mapping[str, int]) -> dict[str, int]:
    return {name: value - before[name] for name, value in after.items()}


def _by_layer(after: list[dict[str, int]], before: list[dict[str, int]]) -> tuple[dict[str, int], ...]:
    return tuple(
        {**_difference(now, then), "off": now["off"]} for now, then in zip(after, before or after, strict=True)
    )


def _rate(count: int, seconds: float) -> float:
    return count / seconds if seconds > 0 else 0.0
