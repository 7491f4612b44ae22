"""What the machine can do, measured by the C++ benches between the peers: memory read, and multiply-adds per unit."""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

DEFAULT_BINARY = Path(__file__).resolve().parents[2] / "build" / "dev" / "bench" / "moestro_bench_kernels"
HOW_TO_BUILD = "cmake --preset dev && cmake --build --preset dev --target moestro_bench_kernels"
_WIDEST_FIRST = ("avx512", "avx2")


@dataclass(frozen=True)
class Limits:
    """One measurement, or what lies between two."""

    read_bytes_per_second: float  # the best of 1, 2 and 4 streams per thread, with and without prefetch
    units: dict[tuple[str, str], float]  # (instruction set, type) -> operations/s
    raw: dict[str, Any]

    def unit(self, type: str, isa: str | None) -> float | None:
        """Operations/s of the type's unit; where the CPU has none for bf16, float32 does its work. None: no vectors.

        isa: what the case was confined to; None is the widest.
        """
        for name in _WIDEST_FIRST if isa is None else (isa,):
            for kind in (type, "f32") if type == "bf16" else (type,):
                if (name, kind) in self.units:
                    return self.units[name, kind]
        return None


def between(before: Limits, after: Limits) -> Limits:
    """The means of both."""
    units = {unit: (before.units[unit] + after.units[unit]) / 2 for unit in before.units}
    read = (before.read_bytes_per_second + after.read_bytes_per_second) / 2
    return Limits(read, units, {"before": before.raw, "after": after.raw})


def measure_limits(binary: Path, threads: int) -> Limits:
    """Takes some five seconds. Raises RuntimeError when the binary fails."""
    done = subprocess.run([str(binary), f"--threads={threads}", "--peaks"], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{binary.name} --peaks failed: {done.stderr.strip()[-400:]}")
    raw = json.loads(done.stdout)
    units = {(unit["isa"], unit["type"]): float(unit["operations_per_second"]) for unit in raw["units"]}
    return Limits(float(raw["read_bytes_per_second"]), units, raw)
