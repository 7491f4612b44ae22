"""A packed store, understood: its manifest and its ModelSpec, checked against each other."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from moestro import _core
from moestro.checkpoint.store_format import (
    EMBED_CHECKSUMS,
    MANIFEST_FILE,
    PartSpec,
    StoreLayer,
    StoreManifest,
    read_manifest,
)
from moestro.checkpoint.weights import CORE_TYPES
from moestro.errors import CheckpointError
from moestro.models.registry import supported_model_types
from moestro.models.rope import ROPE_TYPES
from moestro.models.spec import DenseSpec, LayerSpec, ModelSpec, MoeSpec
from moestro.models.spec_json import spec_from_json

# name, rows, cols
Shape = tuple[str, int, int]


@dataclass(frozen=True)
class PackedModel:
    directory: Path
    spec: ModelSpec
    manifest: StoreManifest


def open_store(directory: Path) -> PackedModel:
    """Reads moestro.json. Raises CheckpointError when it is broken, or when its matrices are not those of its model."""
    manifest = read_manifest(directory)
    return PackedModel(directory, model_of(manifest, str(directory / MANIFEST_FILE)), manifest)


def model_of(manifest: StoreManifest, where: str) -> ModelSpec:
    """The model that a manifest describes, held against its matrices. Raises CheckpointError naming what is wrong."""
    spec = spec_from_json(manifest.model, f"{where}: model")
    problems = list(_impossible_values(spec)) or list(_problems(spec, manifest)) or list(_wrong_sizes(manifest))
    if problems:
        raise CheckpointError(f"{where}: {'; '.join(problems[:4])}: pack the model again")
    return spec


def _impossible_values(spec: ModelSpec) -> Iterator[str]:
    """What no family would have written; config.json is checked by the families, this is read back from a file."""
    rope, mixtures = spec.rope, [layer.mlp for layer in spec.layers if isinstance(layer.mlp, MoeSpec)]
    checks = {
        "model_type": spec.model_type in supported_model_types(),
        "activation": spec.activation == "silu",
        "dtype": spec.dtype in CORE_TYPES.values(),
        "num_kv_heads": spec.num_kv_heads > 0 and spec.num_heads % spec.num_kv_heads == 0,
        "head_dim": spec.head_dim > 0 and spec.head_dim % 2 == 0,
        "rms_norm_eps": spec.rms_norm_eps >= 0,
        "max_position_embeddings": spec.max_position_embeddings > 0,
        "sliding_window": all(layer.sliding_window is None or layer.sliding_window > 0 for layer in spec.layers),
        "num_experts_per_tok": all(1 <= moe.num_experts_per_tok <= moe.num_experts for moe in mixtures),
        "rope": rope.type in ROPE_TYPES and rope.theta > 0 and rope.factor > 0,
    }
    yield from (f"model: {name} is impossible or unknown" for name, possible in checks.items() if not possible)


def _problems(spec: ModelSpec, manifest: StoreManifest) -> Iterator[str]:
    if len(manifest.layers) != spec.num_layers:
        yield f"{len(manifest.layers)} layers, expected {spec.num_layers}"
        return
    for number, (layer, wanted) in enumerate(zip(manifest.layers, spec.layers, strict=True)):
        yield from _layer_problems(spec, layer, wanted, f"layer {number}")
    rows = sum(record.parts[0].rows for record in manifest.head)
    if rows != spec.vocab_size or any(record.parts[0].cols != spec.hidden_size for record in manifest.head):
        yield f"the head is not [{spec.vocab_size}, {spec.hidden_size}]"
    found = {tensor.name: (tensor.name, tensor.rows, tensor.cols) for tensor in manifest.plain}
    expected = dict.fromkeys(_plain_shapes(spec))
    yield from (f"{shape[0]} should be {list(shape[1:])}" for shape in expected if found.get(shape[0]) != shape)
    yield from (f"{shape[0]} is not part of the model" for shape in found.values() if shape not in expected)


def _wrong_sizes(manifest: StoreManifest) -> Iterator[str]:
    """Of matrices whose shapes are right."""
    parts = [part for record in manifest.head for part in record.parts]
    for layer in manifest.layers:
        parts += (*layer.trunk.parts, *(layer.experts.parts if layer.experts else ()))
    for part in parts:
        if part.nbytes != _core.matrix_bytes(part.format, part.scale, part.rows, part.cols):
            yield f"{part.name} has {part.nbytes} bytes, which is not [{part.rows}, {part.cols}] in {part.format}"


def _layer_problems(spec: ModelSpec, layer: StoreLayer, wanted: LayerSpec, where: str) -> Iterator[str]:
    if _shapes(layer.trunk.parts) != _trunk_shapes(spec, wanted):
        yield f"{where}: the trunk's matrices do not match the model"
    experts, moe = layer.experts, wanted.mlp
    if experts is None or isinstance(moe, DenseSpec):
        if experts is not None or not isinstance(moe, DenseSpec):
            yield f"{where}: dense where the model has experts, or the other way round"
    elif len(experts.files) != moe.num_experts:
        yield f"{where}: {len(experts.files)} experts, expected {moe.num_experts}"
    elif _shapes(experts.parts) != _mlp_shapes(spec.hidden_size, moe.intermediate_size):
        yield f"{where}: the experts' matrices do not match the model"


def _shapes(parts: tuple[PartSpec, ...]) -> list[Shape]:
    return [(part.name, part.rows, part.cols) for part in parts]


def _trunk_shapes(spec: ModelSpec, layer: LayerSpec) -> list[Shape]:
    q_rows, kv_rows, hidden = spec.num_heads * spec.head_dim, spec.num_kv_heads * spec.head_dim, spec.hidden_size
    attention = [("q", q_rows, hidden), ("k", kv_rows, hidden), ("v", kv_rows, hidden), ("o", hidden, q_rows)]
    dense = isinstance(layer.mlp, DenseSpec)
    return attention + (_mlp_shapes(hidden, layer.mlp.intermediate_size) if dense else [])


def _mlp_shapes(hidden: int, width: int) -> list[Shape]:
    return [("gate", width, hidden), ("up", width, hidden), ("down", hidden, width)]


def _plain_shapes(spec: ModelSpec) -> Iterator[Shape]:
    yield "embed", spec.vocab_size, spec.hidden_size
    yield EMBED_CHECKSUMS, spec.vocab_size, 1
    yield "final_norm", 1, spec.hidden_size
    q_rows, kv_rows, hidden = spec.num_heads * spec.head_dim, spec.num_kv_heads * spec.head_dim, spec.hidden_size
    for number, layer in enumerate(spec.layers):
        sizes = {"input_norm": hidden, "post_attention_norm": hidden}
        if spec.qk_norm:
            sizes |= {"q_norm": spec.head_dim, "k_norm": spec.head_dim}
        if spec.qkv_bias:
            sizes |= {"q_bias": q_rows, "k_bias": kv_rows, "v_bias": kv_rows}
        if spec.o_bias:
            sizes |= {"o_bias": hidden}
        if isinstance(layer.mlp, DenseSpec):
            width = layer.mlp.intermediate_size
            sizes |= {"gate_bias": width, "up_bias": width, "down_bias": hidden} if spec.mlp_bias else {}
        else:
            yield f"layers.{number}.router", layer.mlp.num_experts, hidden
        yield from ((f"layers.{number}.{name}", 1, size) for name, size in sizes.items())
