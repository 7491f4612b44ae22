"""model_type -> family, imported when asked for. A new family is one file and one line here."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from moestro.checkpoint.index import CONFIG_FILE, read_config, read_index
from moestro.checkpoint.weights import ModelWeights
from moestro.errors import CheckpointError
from moestro.models.config_reader import ConfigReader
from moestro.models.family import Family
from moestro.models.locate import locate_weights
from moestro.models.spec import ModelSpec

_FAMILIES = {
    "llama": "moestro.models.families.llama",
    "mistral": "moestro.models.families.mistral",
    "mixtral": "moestro.models.families.mixtral",
    "phi3": "moestro.models.families.phi3",
    "qwen2": "moestro.models.families.qwen2",
    "qwen3": "moestro.models.families.qwen3",
    "qwen3_moe": "moestro.models.families.qwen3_moe",
    "smollm3": "moestro.models.families.smollm3",
}


@dataclass(frozen=True)
class Checkpoint:
    """A Hugging Face model directory, understood: nothing of its weights has been read yet."""

    directory: Path
    config: Mapping[str, Any]  # config.json as it is
    spec: ModelSpec
    weights: ModelWeights


def supported_model_types() -> tuple[str, ...]:
    return tuple(sorted(_FAMILIES))


def families() -> tuple[Family, ...]:
    """Every family, by name."""
    return tuple(importlib.import_module(_FAMILIES[name]).FAMILY for name in supported_model_types())


def open_checkpoint(directory: Path) -> Checkpoint:
    """Reads config and tensor headers. Raises CheckpointError naming what is missing, unknown or left over."""
    config = read_config(directory)
    spec = read_spec(config, str(directory / CONFIG_FILE))
    weights = locate_weights(family_of(config, str(directory / CONFIG_FILE)), spec, read_index(directory))
    if config.get("dtype") is None and config.get("torch_dtype") is None:
        spec = replace(spec, dtype=weights.embed.core_type)
    return Checkpoint(directory, config, spec, weights)


def read_spec(config: Mapping[str, Any], where: str = CONFIG_FILE) -> ModelSpec:
    """The ModelSpec of a config.json; every key of it is used or known not to matter. Raises CheckpointError."""
    family = family_of(config, where)
    reader = ConfigReader(config, where)
    reader.take("model_type")
    architectures = reader.take("architectures", [family.architectures[0]])
    if not isinstance(architectures, list) or not set(architectures) & set(family.architectures):
        raise reader.wrong("architectures", architectures, f"a language model, {family.architectures[0]}")
    spec = family.read_spec(reader)
    reader.finish()
    return spec


def family_of(config: Mapping[str, Any], where: str = CONFIG_FILE) -> Family:
    name = config.get("model_type")
    if not isinstance(name, str) or name not in _FAMILIES:
        supported = ", ".join(supported_model_types())
        raise CheckpointError(f"{where}: model_type {name!r} is not supported; supported are {supported}")
    family: Family = importlib.import_module(_FAMILIES[name]).FAMILY
    return family
