"""A decoder's weights but the experts, by layer, and how they are put together from any source.

Experts are not here: the runtime streams them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from moestro._core import F32, Matrix
from moestro.layers.attention import AttentionWeights
from moestro.layers.embedding import EmbeddingTable
from moestro.layers.mlp import MlpWeights
from moestro.layers.moe import RouterWeights
from moestro.models.spec import DenseSpec, ModelSpec

Progress = Callable[[int, int], None]  # (bytes read, bytes to read in all)


@dataclass(frozen=True)
class ResidentLayer:
    input_norm: F32  # [hidden]
    attention: AttentionWeights
    post_attention_norm: F32  # [hidden]
    mlp: MlpWeights | RouterWeights


@dataclass(frozen=True)
class ResidentWeights:
    embedding: EmbeddingTable  # its rows stay on disk
    layers: tuple[ResidentLayer, ...]
    final_norm: F32  # [hidden]
    head: tuple[Matrix, ...]  # consecutive row slices of [vocab, hidden]
    streamed: bool = False  # every layer's linears, and then every slice of the head, are units of the layer stream


class WeightSource(Protocol):
    """A model's weights being loaded into one runtime, each asked for once; all memory is charged to its ledger.

    Linears and head may be streamed: then they are announced here, in the order of their use, and read later.

    Raises BudgetError, StorageError, IntegrityError, CheckpointError, NumericError naming the weight.
    """

    def linears(self, layer: int) -> Mapping[str, Matrix]:
        """By name, biases inside: q, k, v, o and, of a dense MLP, gate, up, down."""
        ...

    def vector(self, role: str) -> F32:
        """A norm weight, by role: "final_norm", "layers.3.input_norm"."""
        ...

    def router(self, layer: int) -> Matrix:
        """[experts, hidden], f32 whatever the model's precision."""
        ...

    def add_experts(self, layer: int) -> None:
        """Tells the runtime where the layer's experts lie; reads none."""
        ...

    def head(self) -> tuple[Matrix, ...]: ...
    def embedding(self) -> EmbeddingTable: ...


def load_resident(spec: ModelSpec, source: WeightSource, *, streamed: bool = False) -> ResidentWeights:
    """Loads everything that stays and announces every expert, layer by layer."""
    return ResidentWeights(
        embedding=source.embedding(),
        layers=tuple(_layer(spec, source, number) for number in range(spec.num_layers)),
        final_norm=source.vector("final_norm"),
        head=source.head(),
        streamed=streamed,
    )


def _layer(spec: ModelSpec, source: WeightSource, number: int) -> ResidentLayer:
    name, linears = f"layers.{number}", source.linears(number)
    return ResidentLayer(
        input_norm=source.vector(f"{name}.input_norm"),
        attention=AttentionWeights(
            q=linears["q"],
            k=linears["k"],
            v=linears["v"],
            o=linears["o"],
            q_norm=source.vector(f"{name}.q_norm") if spec.qk_norm else None,
            k_norm=source.vector(f"{name}.k_norm") if spec.qk_norm else None,
        ),
        post_attention_norm=source.vector(f"{name}.post_attention_norm"),
        mlp=_feed_forward(spec, source, number, linears),
    )


def _feed_forward(
    spec: ModelSpec, source: WeightSource, number: int, linears: Mapping[str, Matrix]
) -> MlpWeights | RouterWeights:
    if isinstance(spec.layers[number].mlp, DenseSpec):
        return MlpWeights(linears["gate"], linears["up"], linears["down"])
    source.add_experts(number)
    return RouterWeights(source.router(number))
