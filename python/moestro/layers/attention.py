"""Self-attention of one layer over KV block tables."""

from __future__ import annotations

from dataclasses import dataclass

from moestro import _core
from moestro._core import F32, I32, I64, Compute, KvPool, Matrix
from moestro.layers.norm import RmsNorm
from moestro.layers.work import Work


@dataclass(frozen=True)
class AttentionWeights:
    """Projections [out, in] with their biases inside; norm weights [head_dim] where the model has head norms."""

    q: Matrix  # [heads * head_dim, hidden]
    k: Matrix  # [kv_heads * head_dim, hidden]
    v: Matrix  # [kv_heads * head_dim, hidden]
    o: Matrix  # [hidden, heads * head_dim]
    q_norm: F32 | None = None
    k_norm: F32 | None = None


@dataclass(frozen=True)
class Places:
    """Where the rows of a step stand: what every layer's attention needs to know of the batch."""

    positions: I64  # [rows] in their own sequences
    cos: F32  # [rows, head_dim / 2]
    sin: F32  # [rows, head_dim / 2]
    tables: I32  # block tables of the sequences, one after the other
    table_begin: I64  # [rows]: where the table of a row's sequence starts
    blocks: I32  # [rows]: the block that takes a row's key and value


class Attention:
    """Constants of one layer, bound once."""

    def __init__(
        self,
        compute: Compute,
        kv: KvPool,
        layer: int,
        weights: AttentionWeights,
        *,
        eps: float,
        scale: float,
        window: int,
    ) -> None:
        """window: keys visible to a query, itself included; 0 is no limit."""
        self._compute = compute
        self._kv = kv
        self._layer = layer
        self._qkv = (weights.q, weights.k, weights.v)
        self._o = (weights.o,)
        self._q_norm = None if weights.q_norm is None else RmsNorm(compute, weights.q_norm, eps)
        self._k_norm = None if weights.k_norm is None else RmsNorm(compute, weights.k_norm, eps)
        self._scale = scale
        self._window = window

    def __call__(self, work: Work, places: Places) -> None:
        """work.normed -> work.branch; keys and values of the rows are stored on the way."""
        _core.linear(self._compute, work.normed, self._qkv, (work.q, work.k, work.v))
        if self._q_norm is not None:
            self._q_norm(work.q_heads, work.q_heads)
        if self._k_norm is not None:
            self._k_norm(work.k_heads, work.k_heads)
        _core.rope(self._compute, work.q_heads, places.cos, places.sin)
        _core.rope(self._compute, work.k_heads, places.cos, places.sin)
        self._attend(work, places)
        _core.linear(self._compute, work.attended, self._o, (work.branch,))

    def _attend(self, work: Work, places: Places) -> None:
        _core.kv_append(
            self._compute, self._kv, self._layer, work.k_heads, work.v_heads, places.positions, places.blocks
        )
        _core.attention(
            self._compute,
            self._kv,
            self._layer,
            work.q_heads,
            places.positions,
            places.tables,
            places.table_begin,
            self._scale,
            work.attended_heads,
            self._window,
        )
