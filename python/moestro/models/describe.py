"""What a model directory holds, whichever of the two kinds it is; nothing is loaded."""

from __future__ import annotations

from pathlib import Path

from moestro.checkpoint.dataclass_json import from_json
from moestro.checkpoint.inspect import ModelSummary, summarise_checkpoint, summarise_store
from moestro.checkpoint.store_format import MANIFEST_FILE, is_store, read_manifest
from moestro.models.registry import open_checkpoint
from moestro.models.spec import ModelSpec


def describe_model(directory: Path) -> ModelSummary:
    """Raises CheckpointError where the directory cannot be understood."""
    if is_store(directory):
        manifest = read_manifest(directory)
        spec = from_json(ModelSpec, manifest.model, f"{directory / MANIFEST_FILE}: model")
        return summarise_store(spec.model_type, spec.tie_word_embeddings, manifest)
    checkpoint = open_checkpoint(directory)
    return summarise_checkpoint(checkpoint.spec.model_type, checkpoint.weights)
