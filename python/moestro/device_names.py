"""What `device=` may say: "cpu", a CUDA device, or a machine with a device that is emulated.

    cuda
    cuda:1
    emulated:memory=2GiB
    emulated:memory=2GiB,machine=a6000-xeon,link=16GB/s,latency=10us

An emulated device needs no hardware: its kernels are the processor's, so answers are the same, and its time is virtual,
so every run takes the same time everywhere. It says what a machine would do, and lets schedules be tested.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from moestro.errors import UsageError
from moestro.units import parse_bytes

CUDA = "cuda"
EMULATED = "emulated"
_TIME = re.compile(r"(\d+(?:\.\d+)?)(ns|us|ms)", re.ASCII)
_TO_US = {"ns": 1e-3, "us": 1.0, "ms": 1e3}


@dataclass(frozen=True)
class CudaDevice:
    ordinal: int = 0  # among the devices that the driver shows


@dataclass(frozen=True)
class EmulatedDevice:
    memory: int  # bytes that the device has
    machine: str = "a6000-xeon"  # one of `moestro.trace.machines`, or a file: what its lanes take
    like: str | None = None  # costs of another model's experts, "mixtral-8x7b"; None: the model's own
    # In place of the machine's; rates in GB/s (1e9 bytes), times in microseconds.
    link: float | None = None
    latency: float | None = None  # of the link
    compute: float | None = None  # weights that the device reads
    cpu: float | None = None  # weights that the processor reads
    ssd: float | None = None


def parse_device(text: str) -> CudaDevice | EmulatedDevice | None:
    """None for "cpu". Raises UsageError naming what cannot be read."""
    if text == "cpu":
        return None
    name, colon, settings = text.partition(":")
    if name == CUDA and (not colon or (settings.isascii() and settings.isdigit())):
        return CudaDevice(int(settings or 0))
    if name != EMULATED:
        raise UsageError(f"device: expected 'cpu', 'cuda', 'cuda:1' or 'emulated:memory=2GiB,...', got {text!r}")
    return _emulated(settings)


def _emulated(settings: str) -> EmulatedDevice:
    values: dict[str, str] = {}
    for word in filter(None, settings.split(",")):
        key, equals, value = word.partition("=")
        if not equals or key not in EmulatedDevice.__dataclass_fields__ or key in values:
            known = ", ".join(EmulatedDevice.__dataclass_fields__)
            raise UsageError(f"device: cannot read {word!r}: expected each of {known} at most once, as key=value")
        values[key] = value
    if "memory" not in values:
        raise UsageError("device: an emulated device needs a size, as in 'emulated:memory=2GiB'")
    rates = {key: _rate(key, values[key]) for key in ("link", "compute", "cpu", "ssd") if key in values}
    return EmulatedDevice(
        memory=parse_bytes(values["memory"], "device: memory"),
        machine=values.get("machine", EmulatedDevice.machine),
        like=values.get("like"),
        latency=_microseconds(values["latency"]) if "latency" in values else None,
        **rates,
    )


def _rate(key: str, text: str) -> float:
    rate = parse_bytes(text.removesuffix("/s"), f"device: {key} (a rate like 16GB/s)") / 1e9
    if rate == 0 or not text.endswith("/s"):
        raise UsageError(f"device: {key}: expected a rate like 16GB/s, got {text!r}")
    return rate


def _microseconds(text: str) -> float:
    match = _TIME.fullmatch(text)
    if match is None:
        raise UsageError(f"device: latency: expected a time like 10us, got {text!r}")
    return float(match[1]) * _TO_US[match[2]]
