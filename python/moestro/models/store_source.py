"""A packed store: every record is read as it will be used, and verified against its checksum."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from moestro import _core
from moestro._core import F32, Matrix, Runtime
from moestro.checkpoint.store_format import PartSpec, PlainTensor, Record, StoreManifest, checksum_value
from moestro.checkpoint.weights import CORE_TYPES, TensorSlice
from moestro.errors import CheckpointError
from moestro.layers.embedding import EmbeddingTable
from moestro.models.resident import Progress
from moestro.models.shapes import Shape, biased_linears, gated_shapes, linear_shapes
from moestro.models.spec import ModelSpec, MoeSpec
from moestro.models.vectors import read_bytes, read_vector


class StoreSource:
    """A WeightSource. The manifest has been validated; here it is held against the model it should describe."""

    def __init__(
        self,
        runtime: Runtime,
        directory: Path,
        manifest: StoreManifest,
        spec: ModelSpec,
        *,
        progress: Progress | None = None,
    ) -> None:
        if len(manifest.layers) != spec.num_layers:
            raise CheckpointError(f"{directory}: {len(manifest.layers)} layers for a model of {spec.num_layers}")
        self._runtime = runtime
        self._directory = directory
        self._manifest = manifest
        self._spec = spec
        self._progress = progress
        self._plain = {tensor.name: tensor for tensor in manifest.plain}
        records = [layer.trunk for layer in manifest.layers] + list(manifest.head)
        small = [tensor for name, tensor in self._plain.items() if not name.startswith("embed")]
        self._total = sum(record.record_bytes for record in records) + sum(tensor.nbytes for tensor in small)
        self._done = 0

    def linears(self, layer: int) -> Mapping[str, Matrix]:
        record, role = self._manifest.layers[layer].trunk, f"layers.{layer}"
        self._expect_parts(f"{role}.trunk", record.parts, linear_shapes(self._spec, layer))
        biased = biased_linears(self._spec, layer)
        biases = [self.vector(f"{role}.{part.name}_bias") if part.name in biased else None for part in record.parts]
        matrices = self._record(f"{role}.trunk", record, biases)
        return {part.name: matrix for part, matrix in zip(record.parts, matrices, strict=True)}

    def vector(self, role: str) -> F32:
        tensor = self._tensor(role)
        self._runtime.ledger.take("trunk", 4 * tensor.rows * tensor.cols)
        path = self._path(tensor.file)
        place = TensorSlice(path, tensor.offset, tensor.dtype, tensor.rows, tensor.cols)
        values = read_vector(role, place, checksum_value(tensor.checksum))
        self._advance(tensor.nbytes)
        return values

    def router(self, layer: int) -> Matrix:
        """Verified and widened here: a router is small and no record."""
        role = f"layers.{layer}.router"
        tensor = self._tensor(role)
        raw = read_bytes(role, self._path(tensor.file), tensor.offset, tensor.nbytes, checksum_value(tensor.checksum))
        packed = np.empty(_core.matrix_bytes("f32", "none", tensor.rows, tensor.cols), dtype=np.uint8)
        self._runtime.ledger.take("trunk", packed.nbytes)
        source_type = _core_type(tensor)
        _core.pack_matrix(self._runtime.compute, raw, source_type, tensor.rows, tensor.cols, "f32", "none", packed)
        self._advance(tensor.nbytes)
        return Matrix.from_packed(packed, "f32", "none", tensor.rows, tensor.cols)

    def add_experts(self, layer: int) -> None:
        experts, moe = self._manifest.layers[layer].experts, self._spec.layers[layer].mlp
        if experts is None or not isinstance(moe, MoeSpec) or len(experts.files) != moe.num_experts:
            raise CheckpointError(f"{self._directory}: layer {layer} does not have the experts its model says")
        shapes = gated_shapes(self._spec.hidden_size, moe.intermediate_size)
        self._expect_parts(f"layers.{layer}.experts", experts.parts, shapes)
        files = [self._file(file) for file in experts.files]
        self._runtime.add_expert_layer_packed(
            layer,
            [_part(part) for part in experts.parts],
            experts.record_bytes,
            np.array(files, dtype=np.int32),
            np.array(experts.offsets, dtype=np.uint64),
            np.array([checksum_value(text) for text in experts.checksums], dtype=np.uint64),
        )

    def head(self) -> tuple[Matrix, ...]:
        return tuple(
            self._record(f"head.{number}", record, [None])[0] for number, record in enumerate(self._manifest.head)
        )

    def embedding(self) -> EmbeddingTable:
        embed = self._tensor("embed")
        return EmbeddingTable(self._path(embed.file), embed.offset, _core_type(embed), embed.rows, embed.cols)

    def _record(self, role: str, record: Record, biases: Sequence[F32 | None]) -> list[Matrix]:
        matrices = self._runtime.load_record(
            role,
            self._file(record.file),
            record.offset,
            record.record_bytes,
            checksum_value(record.checksum),
            [_part(part) for part in record.parts],
            biases,
        )
        self._advance(record.record_bytes)
        return matrices

    def _expect_parts(self, role: str, parts: Sequence[PartSpec], shapes: Mapping[str, Shape]) -> None:
        found = {part.name: (part.rows, part.cols) for part in parts}
        if found != shapes or len(parts) != len(shapes):
            raise CheckpointError(
                f"{self._directory}: {role}: expected {dict(shapes)}, the store has {found}; pack the model again"
            )

    def _tensor(self, role: str) -> PlainTensor:
        if role not in self._plain:
            raise CheckpointError(f"{self._directory}: the store has no tensor {role!r}; pack the model again")
        return self._plain[role]

    def _path(self, file: int) -> Path:
        return self._directory / self._manifest.files[file].name

    def _file(self, file: int) -> int:
        return self._runtime.open_file(str(self._path(file)))

    def _advance(self, nbytes: int) -> None:
        self._done += nbytes
        if self._progress is not None:
            self._progress(self._done, self._total)


def _core_type(tensor: PlainTensor) -> str:
    return CORE_TYPES[tensor.dtype]


def _part(part: PartSpec) -> tuple[int, int, str, str, int]:
    return part.rows, part.cols, part.format, part.scale, part.offset
