"""Machines and models as a few numbers, for replays: what an expert of a model costs on a machine.

A machine is a JSON file: cpu, device, link, ssd, each {"gb_per_s", "gflop_per_s" (cpu, device), "fixed_us": per expert
or record}; cpu may have "first_us", more for the first expert of a layer; device and ssd may be missing; "source" says
where the numbers come from. `known_machines()` lists those that come with moestro.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from math import inf
from pathlib import Path
from typing import Any

from moestro._core import LaneCosts
from moestro.errors import CheckpointError, StorageError, UsageError

_FOLDER = Path(__file__).parent / "machines"
_LANES = {"cpu": ("gb_per_s", "gflop_per_s", "fixed_us"), "device": ("gb_per_s", "gflop_per_s", "fixed_us"),
          "link": ("gb_per_s", "fixed_us"), "ssd": ("gb_per_s", "fixed_us")}  # fmt: skip
_OPTIONAL = {"cpu": ("first_us",)}
_PAGE = 4096


@dataclass(frozen=True)
class ExpertShape:
    """Of a published model: what decides its costs."""

    name: str
    hidden: int
    intermediate: int
    bits: float  # per weight of an expert, scales included
    trunk_weights: int  # of a layer beside its routed experts, with 2 bytes each

    @property
    def weights(self) -> int:
        return 3 * self.hidden * self.intermediate

    @property
    def record_bytes(self) -> int:
        return -(-int(self.weights * self.bits / 8) // _PAGE) * _PAGE


# As in HybriMoE's evaluation (2504.05897): int4 with a scale per 32 weights; attention and shared experts in 16 bits.
MODELS = {
    shape.name: shape
    for shape in (
        ExpertShape("mixtral-8x7b", 4096, 14336, 4.5, 4096 * (2 * 4096 + 2 * 1024)),
        ExpertShape("qwen2-57b-a14b", 3584, 2560, 4.5, 3584 * (2 * 3584 + 2 * 512) + 3 * 3584 * 20480),
        ExpertShape("deepseek-v2-lite", 2048, 1408, 4.5, 12_000_000 + 2 * 3 * 2048 * 1408),
    )
}


@dataclass(frozen=True)
class Machine:
    name: str
    source: str
    lanes: Mapping[str, Mapping[str, float]]

    @property
    def has_device(self) -> bool:
        return "device" in self.lanes

    def costs(self, model: ExpertShape) -> LaneCosts:
        """Of one of the model's experts."""
        return self.lane_costs(model.record_bytes, model.weights)

    def lane_costs(self, nbytes: int, weights: int) -> LaneCosts:
        """Of an expert with so many weights, in so many bytes."""
        return LaneCosts(
            cpu=self._compute("cpu", nbytes, weights),
            cpu_start=self.lanes["cpu"].get("first_us", 0.0) * 1e3,
            device=self._compute("device", nbytes, weights) if self.has_device else None,
            link=self._move("link", nbytes),
            ssd=self._move("ssd", nbytes),
        )

    def layer(self, model: ExpertShape) -> tuple[float, float]:
        """A layer beside its experts, on the device where there is one: ns fixed and per row."""
        return self.layer_costs(model.trunk_weights)

    def layer_costs(self, weights: int) -> tuple[float, float]:
        """The same, of so many weights with 2 bytes each."""
        return self._compute("device" if self.has_device else "cpu", 2 * weights, weights)

    def _compute(self, name: str, nbytes: int, weights: int) -> tuple[float, float]:
        """The weights are read once, and multiplied once per row."""
        lane = self.lanes[name]
        return lane["fixed_us"] * 1e3 + nbytes / lane["gb_per_s"], 2 * weights / lane["gflop_per_s"]

    def _move(self, name: str, nbytes: int) -> float:
        lane = self.lanes.get(name)
        return 0.0 if lane is None else lane["fixed_us"] * 1e3 + nbytes / lane["gb_per_s"]


def known_machines() -> list[str]:
    return sorted(path.stem for path in _FOLDER.glob("*.json"))


def read_machine(name: str) -> Machine:
    """One that comes with moestro, by name, or a file. Raises UsageError, StorageError, CheckpointError."""
    path = _FOLDER / f"{name}.json" if name in known_machines() else Path(name)
    if not path.is_file():
        raise UsageError(f"machine {name!r}: neither a file nor one of {', '.join(known_machines())}")
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise StorageError(f"{path}: cannot be read: {error.strerror or error}") from error
    except ValueError as error:
        raise CheckpointError(f"{path}: not JSON: {error}") from error
    return _checked(path, values)


def _checked(path: Path, values: Any) -> Machine:
    if not isinstance(values, dict) or not isinstance(values.get("cpu"), dict):
        raise CheckpointError(f"{path}: expected an object with name, source, cpu and link or ssd")
    unknown = set(values) - set(_LANES) - {"name", "source"}
    if unknown:
        raise CheckpointError(f"{path}: unknown {', '.join(sorted(unknown))}; expected {', '.join(_LANES)}")
    for lane, keys in _LANES.items():
        if lane not in values:
            continue
        if not isinstance(values[lane], dict):
            raise CheckpointError(f"{path}: {lane}: expected an object with {', '.join(keys)}, got {values[lane]!r}")
        for key in (*keys, *_OPTIONAL.get(lane, ())):
            value = values[lane].get(key, 0.0 if key not in keys else None)
            if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value < inf:
                raise CheckpointError(f"{path}: {lane}.{key}: expected a number of at least 0, got {value!r}")
            if not key.endswith("_us") and value == 0:
                raise CheckpointError(f"{path}: {lane}.{key}: expected a number above 0")
    if ("device" in values) != ("link" in values) or not ({"link", "ssd"} & set(values)):
        raise CheckpointError(f"{path}: expected device and link together, or an ssd")
    lanes = {lane: values[lane] for lane in _LANES if lane in values}
    return Machine(str(values.get("name", path.stem)), str(values.get("source", "")), lanes)
