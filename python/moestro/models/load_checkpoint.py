"""A Hugging Face checkpoint used where it lies: trunk into memory, experts described to the runtime, nothing copied."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from moestro._core import F32, Matrix, Runtime
from moestro.checkpoint.weights import GatedMlpTensors, LayerTensors, ModelWeights, TensorSlice
from moestro.errors import CheckpointError
from moestro.layers.attention import AttentionWeights
from moestro.layers.embedding import EmbeddingTable
from moestro.layers.mlp import MlpWeights
from moestro.layers.moe import RouterWeights
from moestro.models.resident import ResidentLayer, ResidentWeights
from moestro.models.vectors import read_vector

Progress = Callable[[int, int], None]  # (bytes loaded, bytes in all)


def kept_format(dtype: str) -> str:
    """The format that keeps every value of a source type ("f32" | "bf16" | "f16")."""
    return "bf16" if dtype == "bf16" else "f32"


def trunk_tensors(weights: ModelWeights) -> list[TensorSlice]:
    """Everything that is read while loading: all but experts and embedding rows."""
    tensors = [weights.final_norm, weights.head]
    for layer in weights.layers:
        tensors += [tensor for _, tensor in (*layer.small(), *layer.linears())]
    return tensors


class CheckpointLoader:
    """Loads one checkpoint into one runtime.

    trunk_format, expert_format: "f32" or "bf16", or "auto": per tensor, whichever keeps its values. Routers are f32.
    """

    def __init__(
        self,
        runtime: Runtime,
        weights: ModelWeights,
        *,
        trunk_format: str = "auto",
        expert_format: str = "auto",
        progress: Progress | None = None,
    ) -> None:
        self._runtime = runtime
        self._weights = weights
        self._trunk_format = trunk_format
        self._expert_format = expert_format
        self._progress = progress
        self._done = 0
        self._total = sum(tensor.nbytes for tensor in trunk_tensors(weights))

    def load(self) -> ResidentWeights:
        """Reads the trunk and adds every expert layer. Raises BudgetError, StorageError, CheckpointError, NumericError.

        Vectors are charged to the ledger's "trunk" like matrices.
        """
        layers = tuple(self._layer(number, layer) for number, layer in enumerate(self._weights.layers))
        embed = self._weights.embed
        return ResidentWeights(
            embedding=EmbeddingTable(embed.path, embed.offset, embed.core_type, embed.rows, embed.cols),
            layers=layers,
            final_norm=self._vector("final_norm", self._weights.final_norm),
            head=(self._matrix("head", self._weights.head),),
        )

    def _layer(self, number: int, layer: LayerTensors) -> ResidentLayer:
        name = f"layers.{number}."
        return ResidentLayer(
            input_norm=self._vector(f"{name}input_norm", layer.input_norm),
            attention=AttentionWeights(
                q=self._matrix(f"{name}q", layer.q, layer.q_bias),
                k=self._matrix(f"{name}k", layer.k, layer.k_bias),
                v=self._matrix(f"{name}v", layer.v, layer.v_bias),
                o=self._matrix(f"{name}o", layer.o, layer.o_bias),
                q_norm=None if layer.q_norm is None else self._vector(f"{name}q_norm", layer.q_norm),
                k_norm=None if layer.k_norm is None else self._vector(f"{name}k_norm", layer.k_norm),
            ),
            post_attention_norm=self._vector(f"{name}post_attention_norm", layer.post_attention_norm),
            mlp=self._feed_forward(number, layer),
        )

    def _feed_forward(self, number: int, layer: LayerTensors) -> MlpWeights | RouterWeights:
        name, dense = f"layers.{number}.", layer.dense
        if dense is not None:
            return MlpWeights(
                gate=self._matrix(f"{name}gate", dense.gate, dense.gate_bias),
                up=self._matrix(f"{name}up", dense.up, dense.up_bias),
                down=self._matrix(f"{name}down", dense.down, dense.down_bias),
            )
        if layer.router is None:
            raise CheckpointError(f"layer {number} has neither a dense MLP nor a router")
        self._add_experts(number, layer.experts)
        return RouterWeights(self._matrix(f"{name}router", layer.router, format="f32"))

    def _add_experts(self, number: int, experts: tuple[GatedMlpTensors, ...]) -> None:
        parts = [(expert.gate, expert.up, expert.down) for expert in experts]
        shapes = [(part.rows, part.cols, part.core_type) for part in parts[0]]
        for index, expert in enumerate(parts):
            if [(part.rows, part.cols, part.core_type) for part in expert] != shapes:
                raise CheckpointError(f"layer {number}: expert {index} differs from expert 0 in shape or element type")
        self._runtime.add_expert_layer_inplace(
            number,
            self._format_of_experts([dtype for _, _, dtype in shapes]),
            shapes,
            np.array([[self._file(part) for part in expert] for expert in parts], dtype=np.int32),
            np.array([[part.offset for part in expert] for expert in parts], dtype=np.uint64),
        )

    def _format_of_experts(self, dtypes: list[str]) -> str:
        """One format serves the three parts of a record."""
        if self._expert_format != "auto":
            return self._expert_format
        return "bf16" if all(kept_format(dtype) == "bf16" for dtype in dtypes) else "f32"

    def _matrix(
        self, name: str, tensor: TensorSlice, bias: TensorSlice | None = None, *, format: str | None = None
    ) -> Matrix:
        chosen = format or self._trunk_format
        matrix = self._runtime.load_matrix(
            name,
            self._file(tensor),
            tensor.offset,
            tensor.core_type,
            tensor.rows,
            tensor.cols,
            kept_format(tensor.core_type) if chosen == "auto" else chosen,
            None if bias is None else self._vector(f"{name}_bias", bias),
        )
        self._advance(tensor)
        return matrix

    def _vector(self, name: str, tensor: TensorSlice) -> F32:
        self._runtime.ledger.take("trunk", 4 * tensor.rows * tensor.cols)
        values = read_vector(name, tensor)
        self._advance(tensor)
        return values

    def _file(self, tensor: TensorSlice) -> int:
        return self._runtime.open_file(str(tensor.path))

    def _advance(self, tensor: TensorSlice) -> None:
        self._done += tensor.nbytes
        if self._progress is not None:
            self._progress(self._done, self._total)
