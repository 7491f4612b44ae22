"""What a device's memory is spent on where the whole model computes there: trunk, KV, work arrays, and experts in the
rest.

With the trunk on the processor a device holds experts alone, and there is nothing to plan.
"""

from __future__ import annotations

from dataclasses import dataclass

from moestro import core
from moestro.plan.footprint import Footprint
from moestro.plan.memory import LEAST_KV_TOKENS, MemoryPlan, PlanLine
from moestro.plan.work import device_array_bytes, device_blocks, device_launch_bytes
from moestro.units import format_bytes

_SEQUENCES = 8  # at once: KV beyond theirs is not planned for


@dataclass(frozen=True)
class DevicePlan:
    """How `memory` bytes of a device will be spent. `lines` are what must be there beside two expert slots."""

    memory: int
    lines: tuple[PlanLine, ...]
    slots: int  # bytes of two expert slots
    blocks: int  # entries of block tables that a step has room for
    most: int  # bytes that are of any use: all experts, and KV of _SEQUENCES sequences of the longest length

    @property
    def missing(self) -> int:
        """Bytes; 0 where it fits."""
        return max(0, sum(line.nbytes for line in self.lines) + self.slots - self.memory)

    def of(self, name: str) -> int:
        """Bytes of a line."""
        return next(line.nbytes for line in self.lines if line.name == name)

    def arithmetic(self) -> str:
        sums = [f"{line.name} {format_bytes(line.nbytes)} ({line.meaning})" for line in self.lines]
        return " + ".join([*sums, f"two expert slots {format_bytes(self.slots)}"])


def plan_device(model: Footprint, memory: int, plan: MemoryPlan, limit: int | None) -> DevicePlan:
    """plan: of the host, whose chunk and KV type are the device's too. limit: tokens of the longest sequence, for which
    there is always room then; None: the model's, and room for a short one."""
    tokens = limit or min(LEAST_KV_TOKENS, model.max_len)
    chunk, longest = plan.prefill_chunk, min(limit or model.max_len, model.max_len)
    launches = device_launch_bytes(model, chunk, longest, trunk=True)
    lines = (
        PlanLine("trunk", model.trunk, "all weights but experts"),
        PlanLine("launches", launches, "what kernels leave each other"),
        PlanLine("arrays", device_array_bytes(model, chunk, longest), f"steps of {chunk} rows"),
        PlanLine("kv", -(-tokens // core.KV_BLOCK) * plan.kv_block_bytes, f"{tokens} tokens"),
    )
    longest_kv = -(-longest // core.KV_BLOCK) * plan.kv_block_bytes
    return DevicePlan(
        memory=memory,
        lines=lines,
        slots=2 * model.record,
        blocks=device_blocks(chunk, longest),
        most=sum(line.nbytes for line in lines[:-1]) + model.records + _SEQUENCES * longest_kv,
    )
