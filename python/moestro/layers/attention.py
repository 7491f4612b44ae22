"""The attention half of one layer, over KV block tables."""

from __future__ import annotations

from dataclasses import dataclass

from moestro import _core
from moestro._core import F32, Compute, KvPool, Matrix, Workspace


@dataclass(frozen=True)
class AttentionWeights:
    """Projections [out, in] with their biases inside; norm weights [head_dim] where the model has head norms."""

    q: Matrix  # [heads * head_dim, hidden]
    k: Matrix  # [kv_heads * head_dim, hidden]
    v: Matrix  # [kv_heads * head_dim, hidden]
    o: Matrix  # [hidden, heads * head_dim]
    q_norm: F32 | None = None
    k_norm: F32 | None = None


class Attention:
    """x += attention(norm(x)), with the layer's constants bound once."""

    def __init__(
        self,
        compute: Compute,
        kv: KvPool,
        layer: int,
        norm: F32,
        weights: AttentionWeights,
        *,
        eps: float,
        scale: float,
        window: int,
        rotary: bool,
    ) -> None:
        """norm [hidden]: weight of the input norm. window: keys visible to a query, itself included; 0 is no limit.

        rotary: queries and keys are turned by their positions.
        """
        self._layer = _core.AttentionLayer(
            compute,
            kv,
            layer,
            input_norm=norm,
            q=weights.q,
            k=weights.k,
            v=weights.v,
            o=weights.o,
            eps=eps,
            scale=scale,
            window=window,
            rotary=rotary,
            q_norm=weights.q_norm,
            k_norm=weights.k_norm,
        )

    def __call__(self, work: Workspace) -> None:
        """Adds to work.x; keys and values of the step's rows are stored on the way."""
        self._layer.run(work)
