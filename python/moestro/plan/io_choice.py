"""How a model's files are read: as asked, or as a short trial on those files says, remembered per machine and place.

The trial reads each way for a moment, in reads as long as the model's records, from places of the largest file that no
other way has read: a cache below the disk would otherwise favour whoever comes later.
"""

from __future__ import annotations

import platform
import statistics
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from moestro import core
from moestro.cache_dir import cache_root
from moestro.config import EngineConfig
from moestro.errors import MoestroError
from moestro.plan.machine import cpu_name
from moestro.plan.remembered import read_remembered, remember
from moestro.units import format_bytes

REMEMBERED_FILE = "io-trials.json"

# Smaller files are read in less time than a trial takes.
LEAST_BYTES = 1 << 30
_SECONDS = 0.1  # of one measurement
_ROUNDS = 3
_LONGEST_READ = 16 << 20
_MOST_MEMORY = 64 << 20  # for reads in flight


@dataclass(frozen=True)
class Way:
    """One way to read."""

    engine: str = "auto"  # "io_uring" | "threads"; "auto": io_uring where the system allows it
    cache: str = "direct"  # "direct" | "buffered"
    depth: int = 0  # reads in flight; 0: the engine's default
    read_bytes: int = 0  # longer reads are cut into such ones; 0: the engine's default

    def __str__(self) -> str:
        depth = f", {self.depth} in flight" if self.depth else ""
        size = f", {format_bytes(self.read_bytes)} each" if self.read_bytes else ""
        return f"{self.engine}, {'page cache' if self.cache == 'buffered' else self.cache}{depth}{size}"


# The first is taken unless another is so many times as fast. The page cache is memory outside the budget: it must be
# worth it.
_WAYS = (
    (Way("io_uring", "direct", 32, 4 << 20), 1.0),
    (Way("io_uring", "direct", 8, 4 << 20), 1.1),
    (Way("io_uring", "direct", 32, 1 << 20), 1.1),
    (Way("threads", "direct", 8, 4 << 20), 1.1),
    (Way("io_uring", "buffered", 32, 4 << 20), 1.5),
)


@dataclass(frozen=True)
class IoChoice:
    way: Way
    why: str  # a sentence


def choose_io(config: EngineConfig, files: Iterable[Path], read_bytes: int, memory: int) -> IoChoice:
    """files: the model's; read_bytes: its usual read; memory: bytes that a trial may take for a moment.

    What `config` asks for is taken as it is, without a trial.
    """
    if (config.io, config.io_engine, config.io_depth) != ("auto", "auto", None):
        cache = "buffered" if config.io == "cached" else "direct"
        return IoChoice(Way(config.io_engine, cache, config.io_depth or 0), "as asked")
    largest = max(files, key=lambda path: path.stat().st_size)
    if largest.stat().st_size < LEAST_BYTES:
        return IoChoice(Way(), f"no trial: no file is larger than {format_bytes(LEAST_BYTES)}")
    place = _place(largest)
    known = read_remembered(REMEMBERED_FILE).get(place)
    if known is None:
        known = _try(largest, min(read_bytes, _LONGEST_READ), min(memory, _MOST_MEMORY))
        if known is None:
            return IoChoice(Way(), "no trial: none of the ways could be measured")
        remember(REMEMBERED_FILE, place, known)
    with suppress(TypeError, KeyError):
        return IoChoice(Way(**known["way"]), f"by a trial of {known['date']}: {known['rates']}")
    return IoChoice(Way(), f"no trial: {cache_root() / REMEMBERED_FILE} is damaged; delete it")


def _place(path: Path) -> str:
    """A machine and a folder on it; a home directory may be shared between machines."""
    return f"{platform.node()}, {cpu_name()}: {path.resolve().parent}"


def _try(path: Path, read_bytes: int, memory: int) -> dict[str, Any] | None:
    rates = _measure(path, read_bytes, memory, [way for way, _ in _WAYS])
    if not rates:
        return None
    first = next(iter(rates))
    worth = {way: rate / dict(_WAYS)[way] for way, rate in rates.items()}
    best = max(worth, key=lambda way: (worth[way], way == first))
    said = "; ".join(f"{way}: {rate / 1e9:.2f} GB/s" for way, rate in rates.items())
    return {"way": asdict(best), "rates": said, "date": time.strftime("%Y-%m-%d")}


def _measure(path: Path, read_bytes: int, memory: int, ways: Sequence[Way]) -> dict[Way, float]:
    """bytes/s of each way that works, the median of its rounds."""
    turns = [way for _ in range(_ROUNDS) for way in ways]
    step = path.stat().st_size // len(turns) // 4096 * 4096
    seen: dict[Way, list[float]] = {}
    for turn, way in enumerate(turns):
        with suppress(MoestroError):
            block = max(4096, min(read_bytes, memory // way.depth) // 4096 * 4096)
            rate = _rate(path, block, way, turn * step)
            if rate is not None:
                seen.setdefault(way, []).append(rate)
    return {way: statistics.median(rates) for way, rates in seen.items()}


def _rate(path: Path, block: int, way: Way, offset: int) -> float | None:
    measured = core.measure_read_rate(
        str(path), block, way.depth, way.engine, way.cache, _SECONDS, offset, way.read_bytes
    )
    if way.cache == "direct" and not measured["direct"]:
        return None
    return float(measured["bytes_per_second"])
