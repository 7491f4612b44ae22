"""The tower that reads text, in repositories with others beside it: its part of the config, names of its weights."""

from __future__ import annotations

import re
from collections.abc import Container, Mapping
from dataclasses import dataclass
from typing import Any

# model_type of a repository with towers -> that of its text tower, where its text_config does not say.
WRAPPERS: Mapping[str, str] = {"gemma3": "gemma3_text", "llama4": "llama4_text", "mistral3": "mistral"}

# What such repositories hold besides.
_BESIDE = re.compile(r"(model\.)?(vision_|audio_|multi_modal_|mm_|visual|patch_)\w*\.")

# Settings that a text tower shares with the others, where it has none of its own.
_SHARED_KEYS = ("dtype", "torch_dtype", "tie_word_embeddings", "quantization_config")


def text_config(config: Mapping[str, Any]) -> tuple[Mapping[str, Any], bool]:
    """The config of the text tower, and whether it is a part of `config` rather than all of it."""
    inner = config.get("text_config")
    if config.get("model_type") not in WRAPPERS or not isinstance(inner, dict):
        return config, False
    shared = {key: config[key] for key in _SHARED_KEYS if config.get(key) is not None}
    named = {"model_type": WRAPPERS[config["model_type"]]}
    own = {key: value for key, value in inner.items() if value is not None or key not in (*named, *shared)}
    text = {**named, **shared, **own}
    # Which of the two decides depends on the family; where they differ it is enough that a head in the file is used.
    if config.get("tie_word_embeddings") is True:
        text["tie_word_embeddings"] = True
    return text, True


@dataclass(frozen=True)
class TowerNames:
    """Names of a model's tensors -> those in the checkpoint."""

    model: str = "model."  # what "model." is there
    others: str = ""  # in front of every other name

    @property
    def plain(self) -> bool:
        return self == TowerNames()

    def name(self, name: str) -> str:
        if name.startswith("model."):
            return self.model + name.removeprefix("model.")
        return self.others + name

    def beside(self, name: str) -> bool:
        """Whether a tensor is of another tower."""
        return not self.plain and _BESIDE.match(name) is not None


_KNOWN = (
    TowerNames(),
    TowerNames("language_model.model.", "language_model."),
    TowerNames("model.language_model."),
)


def tower_names(tensors: Container[str], embed: tuple[str, ...]) -> TowerNames:
    """Those under which the embedding is found."""
    for tower in _KNOWN:
        if any(tower.name(name) in tensors for name in embed):
            return tower
    return TowerNames()
