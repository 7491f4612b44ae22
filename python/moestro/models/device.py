"""The device that a model runs on beside the processor: whether there is one, how much of its memory is given, and
whether the trunk goes there too."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from moestro import core
from moestro.config import EngineConfig
from moestro.device_names import CudaDevice, EmulatedDevice, parse_device
from moestro.errors import BudgetError, UnsupportedError, UsageError
from moestro.models.emulated import emulate
from moestro.models.spec import ModelSpec
from moestro.plan.device import DevicePlan, plan_device
from moestro.plan.footprint import Footprint
from moestro.plan.memory import MemoryPlan
from moestro.plan.work import device_launch_bytes
from moestro.stream_shape import parse_stream
from moestro.units import format_bytes

# Of a device's free memory, "auto" leaves the larger of these to others: displays, and libraries that grow.
_MARGIN_BYTES = 512 << 20
_MARGIN_SHARE = 20  # one part in so many

_LEAST_LAUNCHES = 512 << 10  # bytes


@dataclass(frozen=True)
class DeviceChoice:
    """What a load found. Without a device everything is as it begins here."""

    memory: int = 0  # bytes
    source: str = ""  # a sentence: where that number comes from
    context: str = ""  # the same: what is not moestro's
    trunk: bool = False  # computes there
    cuda: CudaDevice | None = None
    emulated: Any = None  # the core's EmulatedMachine
    plan: DevicePlan | None = None  # with the trunk there
    launches: int = 0  # bytes of memory that launches need themselves
    refused: list[str] = field(default_factory=list)

    def with_room(self, model: Footprint, plan: MemoryPlan, config: EngineConfig) -> DeviceChoice:
        """Whether the trunk fits: else it stays on the processor, which is said, or refused where it was asked for.

        Raises BudgetError with the arithmetic.
        """
        wanted = plan_device(model, self.memory, plan, config.max_model_len)
        if not wanted.missing:
            choice = replace(self, plan=wanted, launches=wanted.of("launches"))
            return choice._no_more_than(wanted.most) if config.device_memory == "auto" else choice
        why = (
            f"device_memory of {format_bytes(self.memory)} cannot hold the trunk: {format_bytes(wanted.missing)}"
            f" ({wanted.missing:,} bytes) are missing of {wanted.arithmetic()}"
        )
        if config.trunk == "device" or not model.records:
            raise BudgetError(f"{why}. Give more device_memory, a smaller prefill_chunk, or trunk='cpu'")
        return replace(self, trunk=False, refused=[f"trunk on the device: {why}; it computes on the processor"])

    def with_launches(self, model: Footprint, rows: int) -> DeviceChoice:
        """For experts alone, in steps of up to `rows` rows. Small devices spend a quarter of what they have."""
        if self.cuda is None:
            return self
        wanted = device_launch_bytes(model, rows, model.max_len, trunk=False)
        return replace(self, launches=min(wanted, max(self.memory // 4, _LEAST_LAUNCHES)))

    def _no_more_than(self, nbytes: int) -> DeviceChoice:
        if nbytes >= self.memory:
            return self
        return replace(self, memory=nbytes, source=f"{format_bytes(nbytes)}, all that this model can use")

    def options(self, config: EngineConfig) -> dict[str, Any]:
        """Of the core's Runtime."""
        if not self.memory:
            return {}
        common = {"device_memory": self.memory, "copies": config.device_copies, "schedule": config.schedule}
        if self.cuda is not None:
            cuda = core.CudaMachine(ordinal=self.cuda.ordinal, trunk=self.trunk, work=self.launches)
            return {"cuda": cuda, **common}
        return {"emulated": self.emulated, **common}

    def facts(self) -> dict[str, Any] | None:
        """For LLM.report()."""
        if self.cuda is None:
            return None
        return {"memory": self.memory, "source": self.source, "context": self.context, "trunk": self.trunk}


def take_device(config: EngineConfig, model: Footprint, spec: ModelSpec, directory: Path) -> DeviceChoice:
    """Raises UsageError for a device that this model has no use for, UnsupportedError for one that is not there."""
    device = parse_device(config.device)
    if device is None or config.device_memory == 0:
        return DeviceChoice()
    if isinstance(device, EmulatedDevice):
        if not model.records:
            raise UsageError(
                f"device: an emulated device takes experts, and {directory} has none; leave device at 'cpu'"
            )
        memory = device.memory if config.device_memory == "auto" else int(config.device_memory)
        return DeviceChoice(memory, emulated=emulate(device, spec, list(model.record_sizes)))
    return _cuda(device, config, model, directory)


def _cuda(device: CudaDevice, config: EngineConfig, model: Footprint, directory: Path) -> DeviceChoice:
    info = core.cuda_info()
    if info["missing"]:
        raise UnsupportedError(f"device 'cuda': {info['missing']}")
    if device.ordinal >= len(info["devices"]):
        raise UnsupportedError(f"device 'cuda:{device.ordinal}': the driver shows {len(info['devices'])} devices")
    if config.math == "fast":
        raise UsageError("math: 'fast' rounds as one CPU model does, so a device cannot follow; use 'exact'")
    streamed = parse_stream(config.stream) is not None
    if streamed and config.trunk == "device":
        raise UsageError(
            f"trunk: 'device' keeps the trunk there, and stream={config.stream!r} lets it pass through memory"
        )
    if (config.trunk == "cpu" or streamed) and not model.records:
        raise UsageError(
            f"trunk: {directory} has no experts: with the trunk on the processor the device has nothing to do"
        )
    total, free = (int(info["devices"][device.ordinal][key]) for key in ("total", "free"))
    if config.device_memory == "auto":
        memory = free - max(_MARGIN_BYTES, free // _MARGIN_SHARE)
        source = f"{format_bytes(memory)}, what the device has free ({format_bytes(free)}) less a margin"
        if memory <= 0:
            raise BudgetError(f"device_memory: the device has {format_bytes(free)} free, which is less than a margin")
    else:
        memory = int(config.device_memory)
        source = f"{format_bytes(memory)}, as asked"
        if memory > free:
            raise BudgetError(
                f"device_memory: {format_bytes(memory)} were asked for, the device has {format_bytes(free)} free:"
                f" {format_bytes(memory - free)} are missing. Ask for less, or free some"
            )
    context = f"beside it {format_bytes(total - free)} of {format_bytes(total)} are CUDA's own and others'"
    stays = ["trunk on the device: it is streamed, as asked, and computes on the processor"] if streamed else []
    trunk = config.trunk != "cpu" and not streamed
    return DeviceChoice(memory, source, context, trunk=trunk, cuda=device, refused=stays)
