"""A packed store: every record is read as it will be used, and verified against its checksum."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from moestro import _core
from moestro._core import F32, Matrix, Runtime
from moestro.checkpoint.store_format import (
    EMBED_CHECKSUMS,
    PartSpec,
    PlainTensor,
    Record,
    checksum_value,
)
from moestro.checkpoint.weights import CORE_TYPES, TensorSlice
from moestro.errors import CheckpointError
from moestro.layers.embedding import EmbeddingTable
from moestro.models.packed import PackedModel
from moestro.models.resident import Progress
from moestro.models.roles import GATED_MLP
from moestro.models.vectors import read_bytes, read_vector, vector_bytes


class StoreSource:
    """A WeightSource. The manifest was held against the model it describes when it was opened."""

    def __init__(
        self, runtime: Runtime, packed: PackedModel, *, streamed: bool = False, progress: Progress | None = None
    ) -> None:
        manifest = packed.manifest
        self._runtime = runtime
        self._directory = packed.directory
        self._manifest = manifest
        self._streamed = streamed
        self._progress = progress
        self._plain = {tensor.name: tensor for tensor in manifest.plain}
        records = [layer.trunk for layer in manifest.layers] + list(manifest.head)
        small = [tensor for name, tensor in self._plain.items() if name != "embed"]
        read_now = 0 if streamed else sum(record.record_bytes for record in records)
        self._total = read_now + sum(tensor.nbytes for tensor in small)
        self._done = 0

    def linears(self, layer: int) -> Mapping[str, Matrix]:
        record, role = self._manifest.layers[layer].trunk, f"layers.{layer}"
        bias_roles = [f"{role}.{part.name}_bias" for part in record.parts]
        # The core copies biases, and charges them.
        biases = [self._read(bias) if bias in self._plain else None for bias in bias_roles]
        matrices = self._record(f"{role}.trunk", record, biases)
        return {part.name: matrix for part, matrix in zip(record.parts, matrices, strict=True)}

    def vector(self, role: str) -> F32:
        self._runtime.ledger.take("trunk", vector_bytes(self._tensor(role)))
        return self._read(role)

    def small_matrix(self, role: str) -> Matrix:
        """Verified and widened here: a router is small and no record."""
        tensor = self._tensor(role)
        raw = read_bytes(role, self._path(tensor.file), tensor.offset, tensor.nbytes, checksum_value(tensor.checksum))
        packed = np.empty(_core.matrix_bytes("f32", "none", tensor.rows, tensor.cols), dtype=np.uint8)
        self._runtime.ledger.take("trunk", packed.nbytes)
        source_type = _core_type(tensor)
        _core.pack_matrix(self._runtime.compute, raw, source_type, tensor.rows, tensor.cols, "f32", "none", packed)
        self._advance(tensor.nbytes)
        bias = self.vector(f"{role}_bias") if f"{role}_bias" in self._plain else None
        return Matrix.from_packed(packed, "f32", "none", tensor.rows, tensor.cols, bias)

    def add_experts(self, layer: int, activation: str) -> None:
        experts = self._manifest.layers[layer].experts
        if experts is None:
            raise CheckpointError(f"{self._directory}: layer {layer} has no experts; pack the model again")
        self._runtime.add_expert_layer_packed(
            layer,
            [_part(part) for part in experts.parts],
            experts.record_bytes,
            np.array([self._file(file) for file in experts.files], dtype=np.int32),
            np.array(experts.offsets, dtype=np.uint64),
            np.array([checksum_value(text) for text in experts.checksums], dtype=np.uint64),
            activation,
            self._expert_biases(layer),
        )

    def head(self) -> tuple[Matrix, ...]:
        bias, row, matrices = self._read("head_bias") if "head_bias" in self._plain else None, 0, []
        for number, record in enumerate(self._manifest.head):
            rows = record.parts[0].rows
            matrices += self._record(f"head.{number}", record, [None if bias is None else bias[row : row + rows]])
            row += rows
        return tuple(matrices)

    def embedding(self) -> EmbeddingTable:
        embed = self._tensor("embed")
        path = self._path(embed.file)
        return EmbeddingTable(path, embed.offset, _core_type(embed), embed.rows, embed.cols, self._row_checksums(embed))

    def _row_checksums(self, embed: PlainTensor) -> NDArray[np.uint64]:
        table = self._tensor(EMBED_CHECKSUMS)
        if (table.rows, table.cols, table.checksum) != (embed.rows, 1, embed.checksum):
            raise CheckpointError(f"{self._directory}: {EMBED_CHECKSUMS} is not that of embed; pack the model again")
        self._runtime.ledger.take("trunk", table.nbytes)
        path, checksum = self._path(table.file), checksum_value(table.checksum)
        raw = read_bytes(EMBED_CHECKSUMS, path, table.offset, table.nbytes, checksum)
        self._advance(table.nbytes)
        return raw.view(np.uint64)

    def _expert_biases(self, layer: int) -> tuple[F32, F32, F32] | None:
        gate, up, down = (f"layers.{layer}.expert_{part}_bias" for part in GATED_MLP)
        if gate not in self._plain:
            return None
        return self._rows(gate), self._rows(up), self._rows(down)

    def _rows(self, role: str) -> F32:
        tensor = self._tensor(role)
        return self.vector(role).reshape(tensor.rows, tensor.cols)

    def _read(self, role: str) -> F32:
        tensor = self._tensor(role)
        place = TensorSlice(self._path(tensor.file), tensor.offset, tensor.dtype, tensor.rows, tensor.cols)
        values = read_vector(role, place, checksum_value(tensor.checksum))
        self._advance(tensor.nbytes)
        return values

    def _record(self, role: str, record: Record, biases: Sequence[F32 | None]) -> list[Matrix]:
        take = self._runtime.stream_record if self._streamed else self._runtime.load_record
        matrices = take(
            role,
            self._file(record.file),
            record.offset,
            record.record_bytes,
            checksum_value(record.checksum),
            [_part(part) for part in record.parts],
            biases,
        )
        if not self._streamed:
            self._advance(record.record_bytes)
        return matrices

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
