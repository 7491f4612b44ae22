"""ModelSpec <-> the JSON of a packed store."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from moestro.checkpoint.dataclass_json import from_json, to_json
from moestro.models.spec import ModelSpec


def spec_to_json(spec: ModelSpec) -> dict[str, Any]:
    result: dict[str, Any] = to_json(spec)
    return result


def spec_from_json(values: Mapping[str, Any], where: str) -> ModelSpec:
    """Raises CheckpointError for a missing, unknown or mistyped field, naming it below `where`."""
    return from_json(ModelSpec, dict(values), where)
