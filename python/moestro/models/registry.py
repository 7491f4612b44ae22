"""model_type -> family, imported when asked for. A new family is one file and one name here."""

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
from moestro.models.spec_check import impossible_values
from moestro.models.text_tower import text_config

# Each is a module of moestro.models.families.
_FAMILIES = (
    "afmoe",
    "cohere2_moe",
    "dbrx",
    "deepseek_v2",
    "deepseek_v3",
    "deepseek_v32",
    "dots1",
    "ernie4_5_moe",
    "exaone_moe",
    "flex_olmo",
    "gemma2",
    "gemma3_text",
    "glm4_moe",
    "glm4_moe_lite",
    "glm_moe_dsa",
    "gpt_oss",
    "granitemoe",
    "granitemoeshared",
    "hunyuan_v1_moe",
    "hy_v3",
    "llama",
    "llama4_text",
    "mellum",
    "minimax_m2",
    "mistral",
    "mixtral",
    "olmoe",
    "phi3",
    "phimoe",
    "pre_gated_qwen3_moe",
    "qwen2",
    "qwen2_moe",
    "qwen3",
    "qwen3_moe",
    "smollm3",
    "solar_open",
)


# Other names that repositories give a family's own config.
_ALIASES = {"kimi_k2": "deepseek_v3"}


@dataclass(frozen=True)
class Checkpoint:
    """A Hugging Face model directory, understood: nothing of its weights has been read yet."""

    directory: Path
    config: Mapping[str, Any]  # config.json as it is
    spec: ModelSpec
    weights: ModelWeights


def supported_model_types() -> tuple[str, ...]:
    return _FAMILIES


def families() -> tuple[Family, ...]:
    """Every family, by name."""
    return tuple(map(_family, _FAMILIES))


def open_checkpoint(directory: Path) -> Checkpoint:
    """Reads config and tensor headers. Raises CheckpointError naming what is missing, unknown or left over."""
    config, where = read_config(directory), str(directory / CONFIG_FILE)
    spec = read_spec(config, where)
    weights = locate_weights(family_of(config, where), spec, read_index(directory))
    text, _ = text_config(config)
    if text.get("dtype") is None and text.get("torch_dtype") is None:
        spec = replace(spec, dtype=weights.embed.core_type)
    return Checkpoint(directory, config, spec, weights)


def read_spec(config: Mapping[str, Any], where: str = CONFIG_FILE) -> ModelSpec:
    """The ModelSpec of a config.json; every key of it is used or known not to matter. Raises CheckpointError.

    Of a repository with several towers the one that reads text is meant, and its part of the config.
    """
    family = family_of(config, where)
    text, nested = text_config(config)
    reader = ConfigReader(text, f"{where}: text_config" if nested else where)
    reader.take("model_type")
    architectures = reader.take("architectures", [family.architectures[0]])
    known = isinstance(architectures, list) and bool(set(architectures) & set(family.architectures))
    if not known and not nested:
        raise reader.wrong("architectures", architectures, f"a language model, {family.architectures[0]}")
    spec = family.read_spec(reader)
    reader.finish()
    if problems := list(impossible_values(spec)):
        raise CheckpointError(f"{where}: {'; '.join(problems)}")
    return spec


def family_of(config: Mapping[str, Any], where: str = CONFIG_FILE) -> Family:
    name = text_config(config)[0].get("model_type")
    name = _ALIASES.get(name, name) if isinstance(name, str) else name
    if name not in _FAMILIES:
        supported = ", ".join(supported_model_types())
        raise CheckpointError(f"{where}: model_type {name!r} is not supported; supported are {supported}")
    return _family(name)


def _family(name: str) -> Family:
    family: Family = importlib.import_module(f"moestro.models.families.{name}").FAMILY
    return family
