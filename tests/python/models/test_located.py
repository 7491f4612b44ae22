"""Of every family: no element of a checkpoint is left out or used twice, and the spec says what the config class says.

Which element has which role, the oracle tests show.
"""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_models

from moestro.checkpoint.index import read_index
from moestro.checkpoint.weights import TensorSlice
from moestro.models.registry import open_checkpoint

Checkpoints = Callable[[str], Path]

KINDS = ("full_attention", "sliding_attention")


def elements(tensor: TensorSlice) -> np.ndarray:
    """Where in its file each element of a slice begins; of a stack without what is between its matrices."""
    parts = []
    for block in tensor.blocks():
        columns = block.columns
        down, across = (block.cols, 1) if columns is None else (columns.step, columns.stride)
        numbers = np.arange(block.rows)[:, None] * down + np.arange(block.cols) * across
        parts.append(block.offset + numbers.ravel() * block.element_bytes)
    return np.concatenate(parts)


@pytest.mark.parametrize("name", tiny_models.SHORT)
def test_every_element_has_one_role(name: str, tiny_checkpoint: Checkpoints) -> None:
    """But for what sparse attention would choose tokens by."""
    directory = tiny_checkpoint(name)
    uses: dict[Path, list[np.ndarray]] = {}
    for _, tensor in open_checkpoint(directory).weights.roles():
        uses.setdefault(tensor.path, []).append(elements(tensor))
    there: dict[Path, list[np.ndarray]] = {}
    for key, info in read_index(directory).tensors.items():
        if ".indexer." not in key:
            whole = TensorSlice(info.file, info.offset, info.dtype, 1, prod(info.shape))
            there.setdefault(info.file, []).append(elements(whole))
    assert uses.keys() == there.keys()
    for path, used in uses.items():
        np.testing.assert_array_equal(np.sort(np.concatenate(used)), np.sort(np.concatenate(there[path])))


@pytest.mark.parametrize("name", tiny_models.SHORT)
def test_spec_says_what_the_config_class_says(name: str, tiny_checkpoint: Checkpoints) -> None:
    directory = tiny_checkpoint(name)
    spec, hf = open_checkpoint(directory).spec, tiny_models.reference(directory).config
    assert (spec.model_type, spec.vocab_size, spec.hidden_size) == (hf.model_type, hf.vocab_size, hf.hidden_size)
    assert (spec.num_heads, spec.num_layers) == (hf.num_attention_heads, hf.num_hidden_layers)
    assert spec.num_kv_heads == (1 if spec.mla else hf.num_key_value_heads)
    assert spec.max_position_embeddings == hf.max_position_embeddings
    assert (spec.tie_word_embeddings, spec.dtype) == (hf.tie_word_embeddings, "bf16")
    for layer, kind in zip(spec.layers, getattr(hf, "layer_types", None) or [None] * spec.num_layers, strict=True):
        if kind is not None:
            assert (layer.sliding_window is not None) == (kind == "sliding_attention")
            assert (layer.chunk is not None) == (kind == "chunked_attention")
    ropes: dict[str, Any] = hf.rope_parameters if KINDS[0] in hf.rope_parameters else {KINDS[0]: hf.rope_parameters}
    if "alpha" not in ropes[KINDS[0]]:  # which stretches the base once, whatever type is named
        expected = [(ropes[kind]["rope_theta"], ropes[kind]["rope_type"]) for kind in KINDS if kind in ropes]
        assert [(rope.theta, rope.type) for rope in spec.ropes] == expected
