"""A decoder's weights that stay in memory, by layer. Experts are not here: the runtime streams them."""

from __future__ import annotations

from dataclasses import dataclass

from moestro._core import F32, Matrix
from moestro.layers.attention import AttentionWeights
from moestro.layers.embedding import EmbeddingTable
from moestro.layers.mlp import MlpWeights
from moestro.layers.moe import RouterWeights


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
