"""A decoder's weights but the experts, by layer, and how they are put together from any source.

Experts are not here: the runtime streams them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from moestro._core import F32, Matrix
from moestro.layers.embedding import EmbeddingTable
from moestro.models.roles import F32_MATRICES, linear_shapes, model_shapes, small_shapes
from moestro.models.spec import ModelSpec, MoeSpec

Progress = Callable[[int, int], None]  # (bytes read, bytes to read in all)


@dataclass(frozen=True)
class ResidentLayer:
    """By the roles of moestro.models.roles."""

    matrices: Mapping[str, Matrix]  # biases, where the model has them, are inside
    vectors: Mapping[str, F32]


@dataclass(frozen=True)
class ResidentWeights:
    embedding: EmbeddingTable  # its rows stay on disk
    layers: tuple[ResidentLayer, ...]
    vectors: Mapping[str, F32]  # of no layer: "final_norm"
    head: tuple[Matrix, ...]  # consecutive row slices of [vocab, hidden]
    streamed: bool = False  # every layer's linears, and then every slice of the head, are units of the layer stream


class WeightSource(Protocol):
    """A model's weights being loaded into one runtime, each asked for once; all memory is charged to its ledger.

    Linears and head may be streamed: then they are announced here, in the order of their use, and read later.

    Raises BudgetError, StorageError, IntegrityError, CheckpointError, NumericError naming the weight.
    """

    def linears(self, layer: int) -> Mapping[str, Matrix]:
        """The trunk's matrices of a layer, biases inside."""
        ...

    def vector(self, role: str) -> F32:
        """A norm weight or another vector, by role: "final_norm", "layers.3.input_norm"."""
        ...

    def small_matrix(self, role: str) -> Matrix:
        """A router ("layers.3.router") or another small linear, bias inside: f32 whatever the model's precision."""
        ...

    def add_experts(self, layer: int, activation: str) -> None:
        """Tells the runtime where the layer's experts lie; reads no more of them than biases."""
        ...

    def head(self) -> tuple[Matrix, ...]: ...
    def embedding(self) -> EmbeddingTable: ...


def load_resident(spec: ModelSpec, source: WeightSource, *, streamed: bool = False) -> ResidentWeights:
    """Loads everything that stays and announces every expert, layer by layer."""
    return ResidentWeights(
        embedding=source.embedding(),
        layers=tuple(_layer(spec, source, number) for number in range(spec.num_layers)),
        vectors={
            shape.role: _vector(spec, source, shape.role) for shape in model_shapes(spec) if shape.role != "head_bias"
        },
        head=source.head(),
        streamed=streamed,
    )


def _layer(spec: ModelSpec, source: WeightSource, number: int) -> ResidentLayer:
    layer, prefix = spec.layers[number], f"layers.{number}."
    inside = {f"{shape.role}_bias" for shape in linear_shapes(spec, layer)} | {f"{role}_bias" for role in F32_MATRICES}
    small = [shape.role for shape in small_shapes(spec, layer) if shape.role not in inside]
    matrices = dict(source.linears(number))
    matrices |= {role: source.small_matrix(prefix + role) for role in small if role in F32_MATRICES}
    if isinstance(layer.mlp, MoeSpec):
        source.add_experts(number, spec.activation)
    vectors = {
        role: _vector(spec, source, prefix + role)
        for role in small
        if role not in F32_MATRICES and not role.startswith("expert_")
    }
    return ResidentLayer(matrices, vectors)


def _vector(spec: ModelSpec, source: WeightSource, role: str) -> F32:
    values = source.vector(role)
    counts_from_one = spec.norm == "rms_plus_one" and role.endswith("norm")
    return values + np.float32(1) if counts_from_one else values
