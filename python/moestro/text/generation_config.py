"""The model's own defaults: which tokens end an answer, and how it likes to be sampled."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from moestro.checkpoint.strict_json import read_object
from moestro.config import SamplingParams
from moestro.errors import CheckpointError, UsageError

GENERATION_FILE = "generation_config.json"
MODEL_FILE = "config.json"

# Names in generation_config.json -> names of SamplingParams: those that vLLM takes over.
_SAMPLING = {
    "temperature": "temperature",
    "top_k": "top_k",
    "top_p": "top_p",
    "min_p": "min_p",
    "repetition_penalty": "repetition_penalty",
    "max_new_tokens": "max_tokens",
}


@dataclass(frozen=True)
class GenerationDefaults:
    eos_ids: frozenset[int]
    sampling: SamplingParams  # used where the caller gives none


def read_generation_defaults(directory: Path) -> GenerationDefaults:
    """generation_config.json; end tokens from config.json where that file names none. `do_sample: false` means
    temperature 0; where the file does not say, its temperature (or 1) counts, as in vLLM.

    Missing files mean defaults. Raises CheckpointError naming file, field and value.
    """
    path = directory / GENERATION_FILE
    config = _optional(path)
    eos = config.get("eos_token_id")
    eos_path = path
    if eos is None:
        eos_path = directory / MODEL_FILE
        eos = _optional(eos_path).get("eos_token_id")
    given = {ours: config[theirs] for theirs, ours in _SAMPLING.items() if config.get(theirs) is not None}
    if config.get("do_sample") is False:
        given["temperature"] = 0.0
    try:
        sampling = SamplingParams(**given)
    except UsageError as error:
        raise CheckpointError(f"{path}: {error}") from error
    return GenerationDefaults(_token_ids(eos, eos_path), sampling)


def _token_ids(value: Any, path: Path) -> frozenset[int]:
    ids = [] if value is None else value if isinstance(value, list) else [value]
    if any(isinstance(token, bool) or not isinstance(token, int) or token < 0 for token in ids):
        raise CheckpointError(f"{path}: eos_token_id: expected a token id or a list of them, got {value!r}")
    return frozenset(ids)


def _optional(path: Path) -> dict[str, Any]:
    try:
        return read_object(path)
    except FileNotFoundError:
        return {}
