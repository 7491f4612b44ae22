"""What a model directory holds, whichever of the two kinds it is; nothing is loaded."""

from __future__ import annotations

from pathlib import Path

from moestro.checkpoint.inspect import ModelSummary, summarise_checkpoint, summarise_store
from moestro.checkpoint.store_format import is_store
from moestro.models.packed import open_store
from moestro.models.registry import open_checkpoint


def describe_model(directory: Path) -> ModelSummary:
    """Raises CheckpointError where the directory cannot be understood."""
    if is_store(directory):
        packed = open_store(directory)
        spec, padded = packed.spec, {}
        if spec.mla is not None:
            padded = {"k_up": spec.num_heads * spec.mla.kv_lora_rank, "v_up": spec.num_heads * spec.mla.v_head_dim}
        return summarise_store(spec.model_type, spec.tie_word_embeddings, packed.manifest, padded)
    checkpoint = open_checkpoint(directory)
    return summarise_checkpoint(checkpoint.spec.model_type, checkpoint.weights)
