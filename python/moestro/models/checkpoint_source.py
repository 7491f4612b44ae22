"""A Hugging Face checkpoint used where it lies: trunk into memory, experts described to the runtime, nothing copied."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from moestro._core import F32, Matrix, Runtime
from moestro.checkpoint.weights import GatedMlpTensors, ModelWeights, TensorSlice, kept_format
from moestro.errors import CheckpointError
from moestro.layers.embedding import EmbeddingTable
from moestro.models.resident import Progress
from moestro.models.roles import GATED_MLP
from moestro.models.vectors import read_vector, vector_bytes

ExpertPlaces = tuple[TensorSlice, TensorSlice, TensorSlice]  # gate, up, down


def expert_format(wanted: str, expert: GatedMlpTensors) -> str:
    """The format of a layer's records: `wanted`, or for "auto" the one that keeps gate, up and down alike."""
    return kept_format((expert.gate, expert.up, expert.down)) if wanted == "auto" else wanted


def trunk_format(wanted: str, tensor: TensorSlice) -> str:
    """The format of a matrix of the trunk: `wanted`, or for "auto" the one that keeps its values."""
    return kept_format((tensor,)) if wanted == "auto" else wanted


class UnitPiece(NamedTuple):
    """A matrix of a streamed unit."""

    name: str  # "q", ..., "down"; "head"
    tensor: TensorSlice
    format: str


# The head is streamed in slices of about so many bytes, in whole panels of this many rows.
_HEAD_SLICE_BYTES = 8 << 20
_PANEL_ROWS = 32


def checkpoint_units(weights: ModelWeights, wanted: str) -> Iterator[list[UnitPiece]]:
    """What can be streamed of a checkpoint, in the order of its use: every layer's linears, then slices of the head."""
    for layer in weights.layers:
        yield [UnitPiece(name, tensor, trunk_format(wanted, tensor)) for name, tensor in layer.linears.items()]
    head = weights.head
    row_bytes = head.nbytes // head.rows
    step = max(1, _HEAD_SLICE_BYTES // (row_bytes * _PANEL_ROWS)) * _PANEL_ROWS
    for first in range(0, head.rows, step):
        part = replace(head, offset=head.offset + first * row_bytes, rows=min(step, head.rows - first))
        yield [UnitPiece("head", part, trunk_format(wanted, head))]


class CheckpointSource:
    """A WeightSource. trunk, experts: "f32" or "bf16", or "auto": whichever keeps the values. Routers are f32."""

    def __init__(
        self,
        runtime: Runtime,
        weights: ModelWeights,
        *,
        trunk: str = "auto",
        experts: str = "auto",
        streamed: bool = False,
        progress: Progress | None = None,
    ) -> None:
        self._runtime = runtime
        self._weights = weights
        self._trunk = trunk
        self._experts = experts
        self._progress = progress
        self._units = list(checkpoint_units(weights, trunk)) if streamed else []
        self._small = dict(weights.all_small())
        read_now = [] if streamed else [*weights.linears(), weights.head]
        self._total = sum(tensor.nbytes for tensor in (*self._small.values(), *read_now))
        self._done = 0

    def linears(self, layer: int) -> Mapping[str, Matrix]:
        if self._units:
            unit = self._units[layer]
            role = f"layers.{layer}"
            matrices = self._streamed(role, unit, [self._bias(f"{role}.{piece.name}") for piece in unit])
            return {piece.name: matrix for piece, matrix in zip(unit, matrices, strict=True)}
        return {
            name: self._matrix(f"layers.{layer}.{name}", tensor, trunk_format(self._trunk, tensor))
            for name, tensor in self._weights.layers[layer].linears.items()
        }

    def vector(self, role: str) -> F32:
        tensor = self._small[role]
        self._runtime.ledger.take("trunk", vector_bytes(tensor))
        return self._read(role)

    def small_matrix(self, role: str) -> Matrix:
        return self._matrix(role, self._small[role], "f32")

    def add_experts(self, layer: int, activation: str) -> None:
        experts = self._weights.layers[layer].experts
        places = [(expert.gate, expert.up, expert.down) for expert in experts]
        shapes = _same_shapes(layer, places)
        self._runtime.add_expert_layer_inplace(
            layer,
            expert_format(self._experts, experts[0]),
            shapes,
            np.array([[self._file(part) for part in expert] for expert in places], dtype=np.int32),
            np.array([[part.offset for part in expert] for expert in places], dtype=np.uint64),
            activation,
            self._expert_biases(layer),
        )

    def head(self) -> tuple[Matrix, ...]:
        head = self._weights.head
        if self._units:
            slices = self._units[len(self._weights.layers) :]
            return tuple(self._streamed_head(slices))
        return (self._matrix("head", head, trunk_format(self._trunk, head)),)

    def embedding(self) -> EmbeddingTable:
        embed = self._weights.embed
        return EmbeddingTable(embed.path, embed.offset, embed.core_type, embed.rows, embed.cols)

    def _expert_biases(self, layer: int) -> tuple[F32, F32, F32] | None:
        gate, up, down = (f"layers.{layer}.expert_{part}_bias" for part in GATED_MLP)
        if gate not in self._small:
            return None
        return self._rows(gate), self._rows(up), self._rows(down)

    def _rows(self, role: str) -> F32:
        tensor = self._small[role]
        return self.vector(role).reshape(tensor.rows, tensor.cols)

    def _read(self, role: str) -> F32:
        values = read_vector(role, self._small[role])
        self._advance(self._small[role])
        return values

    def _streamed(self, role: str, unit: Sequence[UnitPiece], biases: Sequence[F32 | None]) -> list[Matrix]:
        return self._runtime.stream_matrices(
            role,
            [
                (
                    self._file(tensor),
                    tensor.offset,
                    tensor.core_type,
                    tensor.rows,
                    tensor.cols,
                    format,
                    bias,
                    _columns(tensor),
                    _stack(tensor),
                )
                for (_, tensor, format), bias in zip(unit, biases, strict=True)
            ],
        )

    def _streamed_head(self, slices: Sequence[Sequence[UnitPiece]]) -> Iterator[Matrix]:
        bias, row = self._bias("head"), 0
        for number, unit in enumerate(slices):
            rows = unit[0].tensor.rows
            yield self._streamed(f"head.{number}", unit, [None if bias is None else bias[row : row + rows]])[0]
            row += rows

    def _bias(self, role: str) -> F32 | None:
        """Copied, and charged, by the core."""
        bias = f"{role}_bias"
        return self._read(bias) if bias in self._small else None

    def _matrix(self, role: str, tensor: TensorSlice, format: str) -> Matrix:
        matrix = self._runtime.load_matrix(
            role,
            self._file(tensor),
            tensor.offset,
            tensor.core_type,
            tensor.rows,
            tensor.cols,
            format,
            self._bias(role),
            _columns(tensor),
            _stack(tensor),
        )
        self._advance(tensor)
        return matrix

    def _file(self, tensor: TensorSlice) -> int:
        return self._runtime.open_file(str(tensor.path))

    def _advance(self, tensor: TensorSlice) -> None:
        self._done += tensor.nbytes
        if self._progress is not None:
            self._progress(self._done, self._total)


def _columns(tensor: TensorSlice) -> tuple[int, int] | None:
    return None if tensor.columns is None else (tensor.columns.stride, tensor.columns.step)


def _stack(tensor: TensorSlice) -> tuple[int, int, int] | None:
    return None if tensor.stack is None else (tensor.stack.count, tensor.stack.rows, tensor.stack.stride)


def _same_shapes(layer: int, places: list[ExpertPlaces]) -> list[tuple[int, int, str, int, int]]:
    """(rows, cols, type, stride, step) of gate, up and down, which all experts of a layer must share."""
    shapes = [
        [(part.rows, part.cols, part.core_type, *(_columns(part) or (0, 1))) for part in expert] for expert in places
    ]
    for number, expert in enumerate(shapes):
        if expert != shapes[0]:
            raise CheckpointError(f"layer {layer}: expert {number} is {expert}; expected {shapes[0]}, as expert 0")
    return shapes[0]
