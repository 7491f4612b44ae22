"""What a run has time for, and what of a device's memory its cases give."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

SHARES = (1.0, 0.5, 0.25, 0.1)  # of all expert bytes, in the order in which they are measured
_SLACK = 64 << 20  # what rounding to slots and pages may take


@dataclass
class Budget:
    """Seconds of a whole run. Parts are asked for in the order of their importance; what had no time is kept."""

    seconds: float
    clock: Callable[[], float] = time.monotonic
    left_out: dict[str, str] = field(default_factory=dict)  # part -> why

    def __post_init__(self) -> None:
        self._end = self.clock() + self.seconds

    def left(self) -> float:
        return max(0.0, self._end - self.clock())

    def allows(self, part: str, least: float) -> bool:
        """Whether there is time for a part that needs at least so many seconds."""
        left = self.left()
        if left >= least:
            return True
        self.left_out[part] = f"{left:.0f} s were left, it needs about {least:.0f} s"
        return False


@dataclass(frozen=True)
class Needs:
    """Bytes of a model."""

    experts: int  # all records
    record: int  # the largest one
    trunk: int  # in device memory, all that is not experts: weights, work arrays, the least KV
    host: int  # in host memory, all that is not experts

    def device_memory(self, share: float) -> int:
        """With room for this share of the experts, two at least."""
        return self.trunk + max(int(share * self.experts), 2 * self.record) + _SLACK

    def host_memory(self) -> int:
        """With room for all experts."""
        return self.host + self.experts + self.experts // 50 + _SLACK


@dataclass(frozen=True)
class Case:
    """How a model is run; over all shares, in one process."""

    name: str
    schedule: str
    prefetch: str = "none"
    shares: tuple[float, ...] = SHARES


# In the order of importance. `cpu` gives the device no experts, so its memory makes no difference.
CASES = (
    Case("hybrid", "hybrid"),
    Case("cpu", "cpu", shares=SHARES[:1]),
    Case("on_demand", "on_demand"),
    Case("static", "static"),
    Case("hybrid + prefetch", "hybrid", "auto"),
)
