"""A Hugging Face checkpoint used where it lies: trunk into memory, experts described to the runtime, nothing copied."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from moestro._core import F32, Matrix, Runtime
from moestro.checkpoint.weights import GatedMlpTensors, ModelWeights, TensorSlice, kept_format
from moestro.errors import CheckpointError
from moestro.layers.embedding import EmbeddingTable
from moestro.models.resident import Progress
from moestro.models.vectors import read_vector, vector_bytes

ExpertPlaces = tuple[TensorSlice, TensorSlice, TensorSlice]  # gate, up, down


def expert_format(wanted: str, expert: GatedMlpTensors) -> str:
    """The format of a layer's records: `wanted`, or for "auto" the one that keeps gate, up and down alike."""
    return kept_format((expert.gate, expert.up, expert.down)) if wanted == "auto" else wanted


def trunk_format(wanted: str, tensor: TensorSlice) -> str:
    """The format of a matrix of the trunk: `wanted`, or for "auto" the one that keeps its values."""
    return kept_format((tensor,)) if wanted == "auto" else wanted


class CheckpointSource:
    """A WeightSource. trunk, experts: "f32" or "bf16", or "auto": whichever keeps the values. Routers are f32."""

    def __init__(
        self,
        runtime: Runtime,
        weights: ModelWeights,
        *,
        trunk: str = "auto",
        experts: str = "auto",
        progress: Progress | None = None,
    ) -> None:
        self._runtime = runtime
        self._weights = weights
        self._trunk = trunk
        self._experts = experts
        self._progress = progress
        self._small = {"final_norm": weights.final_norm}
        for number, layer in enumerate(weights.layers):
            self._small.update({f"layers.{number}.{name}": tensor for name, tensor in layer.small()})
        linears = [tensor for layer in weights.layers for _, tensor in layer.linears()]
        self._total = sum(tensor.nbytes for tensor in (*self._small.values(), *linears, weights.head))
        self._done = 0

    def linears(self, layer: int) -> Mapping[str, Matrix]:
        return {
            name: self._matrix(f"layers.{layer}.{name}", tensor, trunk_format(self._trunk, tensor))
            for name, tensor in self._weights.layers[layer].linears()
        }

    def vector(self, role: str) -> F32:
        tensor = self._small[role]
        self._runtime.ledger.take("trunk", vector_bytes(tensor))
        return self._read(role)

    def router(self, layer: int) -> Matrix:
        role = f"layers.{layer}.router"
        return self._matrix(role, self._small[role], "f32")

    def add_experts(self, layer: int) -> None:
        experts = self._weights.layers[layer].experts
        places = [(expert.gate, expert.up, expert.down) for expert in experts]
        shapes = _same_shapes(layer, places)
        self._runtime.add_expert_layer_inplace(
            layer,
            expert_format(self._experts, experts[0]),
            shapes,
            np.array([[self._file(part) for part in expert] for expert in places], dtype=np.int32),
            np.array([[part.offset for part in expert] for expert in places], dtype=np.uint64),
        )

    def head(self) -> tuple[Matrix, ...]:
        head = self._weights.head
        return (self._matrix("head", head, trunk_format(self._trunk, head)),)

    def embedding(self) -> EmbeddingTable:
        embed = self._weights.embed
        return EmbeddingTable(embed.path, embed.offset, embed.core_type, embed.rows, embed.cols)

    def _read(self, role: str) -> F32:
        values = read_vector(role, self._small[role])
        self._advance(self._small[role])
        return values

    def _matrix(self, role: str, tensor: TensorSlice, format: str) -> Matrix:
        bias_role = f"{role}_bias"
        matrix = self._runtime.load_matrix(
            role,
            self._file(tensor),
            tensor.offset,
            tensor.core_type,
            tensor.rows,
            tensor.cols,
            format,
            self._read(bias_role) if bias_role in self._small else None,  # copied, and charged, by the core
        )
        self._advance(tensor)
        return matrix

    def _file(self, tensor: TensorSlice) -> int:
        return self._runtime.open_file(str(tensor.path))

    def _advance(self, tensor: TensorSlice) -> None:
        self._done += tensor.nbytes
        if self._progress is not None:
            self._progress(self._done, self._total)


def _same_shapes(layer: int, places: list[ExpertPlaces]) -> list[tuple[int, int, str]]:
    """(rows, cols, type) of gate, up and down, which all experts of a layer must share."""
    shapes = [[(part.rows, part.cols, part.core_type) for part in expert] for expert in places]
    for number, expert in enumerate(shapes):
        if expert != shapes[0]:
            raise CheckpointError(f"layer {layer}: expert {number} is {expert}; expected {shapes[0]}, as expert 0")
    return shapes[0]
