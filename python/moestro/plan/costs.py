"""What an expert costs on this machine: computing it, by rows, while the disk reads, and reading it meanwhile.

Both are measured together, because they share memory's bandwidth: apart, each looks cheaper than it will be. Fitted to
lines, remembered per machine and folder; a run corrects them by what it sees.
"""

from __future__ import annotations

import platform
import statistics
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from moestro import core
from moestro.errors import MoestroError
from moestro.plan.footprint import Footprint
from moestro.plan.machine import cpu_name
from moestro.plan.remembered import read_remembered, remember

REMEMBERED_FILE = "expert-costs.json"

_ROWS = (1, 4, 16, 64)
_SECONDS = 0.4  # for all of them
_MOST_MEMORY = 64 << 20  # of experts in turn, so that none is computed from a processor's cache
_DEPTH = 8
_SCALE = {"q8": "f16", "q4": "f16"}


@dataclass(frozen=True)
class ExpertCosts:
    """Nanoseconds: of an expert fixed + per_row * rows; of reading its record."""

    fixed: float
    per_row: float
    read: float  # 0: not measured

    def lanes(self) -> core.LaneCosts:
        return core.LaneCosts(cpu=(self.fixed, self.per_row), ssd=self.read)


def expert_costs(model: Footprint, format: str, threads: int, files: Sequence[Path]) -> ExpertCosts:
    """Of the model's largest expert, its records read from the largest of its files."""
    largest = max(files, key=lambda path: path.stat().st_size)
    key = (
        f"{platform.node()}, {cpu_name()}, {threads} threads, {largest.resolve().parent}: {format}"
        f" [{model.expert_width}, {model.hidden}], {model.record} bytes"
    )
    known = read_remembered(REMEMBERED_FILE).get(key)
    if known is None:
        known = asdict(_measure(model, format, threads, largest))
        remember(REMEMBERED_FILE, key, known)
    try:
        return ExpertCosts(**known)
    except TypeError:
        return _measure(model, format, threads, largest)


def fit_line(units: Sequence[float], times: Sequence[float]) -> tuple[float, float]:
    """fixed and per_unit of the line of least relative errors through (units, times), neither below 0."""
    x, y = np.asarray(units, float), np.asarray(times, float)
    matrix = np.stack([1 / y, x / y], axis=1)
    (fixed, per_unit), *_ = np.linalg.lstsq(matrix, np.ones_like(y), rcond=None)
    if per_unit < 0:
        return float(np.median(y)), 0.0
    if fixed < 0:
        return 0.0, float(np.median(y / x))
    return float(fixed), float(per_unit)


def _measure(model: Footprint, format: str, threads: int, file: Path) -> ExpertCosts:
    """Computes for a moment while another thread reads."""
    reading: dict[str, Any] = {}
    seconds = _SECONDS * 1.25

    def read() -> None:
        with suppress(MoestroError):  # an odd file system: what reads cost is learnt in the run
            block = max(4096, model.record)
            reading.update(core.measure_read_rate(str(file), block, _DEPTH, "auto", "direct", seconds))

    thread = threading.Thread(target=read)
    thread.start()
    try:
        times = _compute(model, format, threads)
    finally:
        thread.join()
    fixed, per_row = fit_line(_ROWS, times)
    rate = float(reading.get("bytes_per_second", 0.0))
    return ExpertCosts(fixed, per_row, model.record / rate * 1e9 if rate > 0 else 0.0)


def _compute(model: Footprint, format: str, threads: int) -> list[float]:
    """Nanoseconds of an expert, the median, by _ROWS."""
    compute = core.make_compute(threads)
    count = max(1, min(16, _MOST_MEMORY // max(1, model.record)))
    experts = [_expert(model, format) for _ in range(count)]
    times = []
    for rows in _ROWS:
        x, out = np.zeros((rows, model.hidden), np.float32), np.empty((rows, model.hidden), np.float32)
        taken: list[float] = []
        until = time.perf_counter() + _SECONDS / len(_ROWS)
        while not taken or time.perf_counter() < until:
            begin = time.perf_counter()
            for gate, up, down in experts:
                core.gated_mlp(compute, x, gate, up, down, out)
            taken.append((time.perf_counter() - begin) / count * 1e9)
        times.append(statistics.median(taken))
    return times


def _expert(model: Footprint, format: str) -> tuple[core.Matrix, core.Matrix, core.Matrix]:
    def matrix(rows: int, cols: int) -> core.Matrix:
        scale = _SCALE.get(format, "none")
        packed = np.zeros(core.matrix_bytes(format, scale, rows, cols), np.uint8)
        return core.Matrix.from_packed(packed, format, scale, rows, cols)

    wide, hidden = model.expert_width, model.hidden
    return matrix(wide, hidden), matrix(wide, hidden), matrix(hidden, wide)
