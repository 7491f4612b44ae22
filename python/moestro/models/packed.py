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
from moestro.errors import CheckpointError
from moestro.models.registry import supported_model_types
from moestro.models.roles import Shape, linear_shapes, mlp_shapes, model_shapes, small_shapes
from moestro.models.spec import DenseSpec, LayerSpec, ModelSpec
from moestro.models.spec_check import impossible_values
from moestro.models.spec_json import spec_from_json


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
    if spec.model_type not in supported_model_types():
        raise CheckpointError(
            f"{where}: model_type {spec.model_type!r} is unknown to this moestro: pack the model again"
        )
    problems = list(impossible_values(spec)) or list(_problems(spec, manifest)) or list(_wrong_sizes(manifest))
    if problems:
        raise CheckpointError(f"{where}: {'; '.join(problems[:4])}: pack the model again")
    return spec


def _problems(spec: ModelSpec, manifest: StoreManifest) -> Iterator[str]:
    if len(manifest.layers) != spec.num_layers:
        yield f"{len(manifest.layers)} layers, expected {spec.num_layers}"
        return
    for number, (layer, wanted) in enumerate(zip(manifest.layers, spec.layers, strict=True)):
        yield from _layer_problems(spec, layer, wanted, f"layer {number}")
    rows = sum(record.parts[0].rows for record in manifest.head)
    if rows != spec.vocab_size or any(record.parts[0].cols != spec.hidden_size for record in manifest.head):
        yield f"the head is not [{spec.vocab_size}, {spec.hidden_size}]"
    found = {tensor.name: Shape(tensor.name, tensor.rows, tensor.cols) for tensor in manifest.plain}
    expected = dict.fromkeys(_plain_shapes(spec))
    yield from (f"{shape.role} should be {list(shape[1:])}" for shape in expected if found.get(shape.role) != shape)
    yield from (f"{shape.role} is not part of the model" for shape in found.values() if shape not in expected)


def _wrong_sizes(manifest: StoreManifest) -> Iterator[str]:
    """Of matrices whose shapes are right."""
    parts = [part for record in manifest.head for part in record.parts]
    for layer in manifest.layers:
        parts += (*layer.trunk.parts, *(layer.experts.parts if layer.experts else ()))
    for part in parts:
        if part.nbytes != _core.matrix_bytes(part.format, part.scale, part.rows, part.cols):
            yield f"{part.name} has {part.nbytes} bytes, which is not [{part.rows}, {part.cols}] in {part.format}"


def _layer_problems(spec: ModelSpec, layer: StoreLayer, wanted: LayerSpec, where: str) -> Iterator[str]:
    if _shapes(layer.trunk.parts) != linear_shapes(spec, wanted):
        yield f"{where}: the trunk's matrices do not match the model"
    experts, moe = layer.experts, wanted.mlp
    if experts is None or isinstance(moe, DenseSpec):
        if experts is not None or not isinstance(moe, DenseSpec):
            yield f"{where}: dense where the model has experts, or the other way round"
    elif len(experts.files) != moe.num_experts:
        yield f"{where}: {len(experts.files)} experts, expected {moe.num_experts}"
    elif _shapes(experts.parts) != mlp_shapes(spec.hidden_size, moe.intermediate_size):
        yield f"{where}: the experts' matrices do not match the model"


def _shapes(parts: tuple[PartSpec, ...]) -> list[Shape]:
    return [Shape(part.name, part.rows, part.cols) for part in parts]


def _plain_shapes(spec: ModelSpec) -> Iterator[Shape]:
    yield Shape("embed", spec.vocab_size, spec.hidden_size)
    yield Shape(EMBED_CHECKSUMS, spec.vocab_size, 1)
    yield from model_shapes(spec)
    for number, layer in enumerate(spec.layers):
        yield from (shape._replace(role=f"layers.{number}.{shape.role}") for shape in small_shapes(spec, layer))
