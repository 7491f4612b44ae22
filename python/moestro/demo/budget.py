"""A budget that holds a quarter of a model's experts, and everything else that must be there."""

from __future__ import annotations

from pathlib import Path

from moestro.config import EngineConfig
from moestro.models.opening import open_model
from moestro.plan.memory import plan_memory
from moestro.threads import default_threads

# Prompts are short here; a small chunk keeps the numbers about experts.
PREFILL_CHUNK = 64


def quarter_budget(directory: Path) -> int:
    """Bytes for `host_memory`, to be used with prefill_chunk=PREFILL_CHUNK."""
    config = EngineConfig(model=str(directory), host_memory="min", prefill_chunk=PREFILL_CHUNK)
    footprint = open_model(directory, config).footprint()
    least = plan_memory(footprint, config, default_threads()).least
    return least + max(0, footprint.records // 4 - 2 * footprint.record)
