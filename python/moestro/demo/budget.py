"""A budget that holds a quarter of a model's experts, and everything else that must be there."""

from __future__ import annotations

from pathlib import Path

from moestro.config import EngineConfig
from moestro.models.opening import open_model
from moestro.plan.memory import MemoryPlan, plan_memory
from moestro.threads import default_threads

# Prompts are short here; a small chunk keeps the numbers about experts.
PREFILL_CHUNK = 64


def quarter_budget(directory: Path, math: str = "exact") -> int:
    """Bytes for `host_memory`, to be used with prefill_chunk=PREFILL_CHUNK and this `math`."""
    config = EngineConfig(model=str(directory), prefill_chunk=PREFILL_CHUNK)
    footprint = open_model(directory, config).footprint()
    quarter = footprint.records // footprint.record // 4

    def plan(host_memory: int | str) -> MemoryPlan:
        asked = EngineConfig(model=str(directory), host_memory=host_memory, prefill_chunk=PREFILL_CHUNK, math=math)
        return plan_memory(footprint, asked, default_threads())

    planned = plan("min")
    while planned.expert_slots < quarter:  # more memory also means longer sequences, whose scratch grows a little
        planned = plan(planned.budget + (quarter - planned.expert_slots) * footprint.record)
    return planned.budget
