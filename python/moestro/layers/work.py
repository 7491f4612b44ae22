"""Arrays a step computes in: allocated once for the largest chunk, handed out as views of the rows in use."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from moestro._core import F32


@dataclass(frozen=True)
class WorkShape:
    """Sizes of a model that its work arrays depend on."""

    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    max_experts: int  # of any layer; 0 for a dense model


@dataclass(frozen=True)
class Work:
    """Views for `rows` rows, all C-contiguous."""

    x: F32  # [rows, hidden]: the residual stream
    normed: F32  # [rows, hidden]: what a branch reads
    branch: F32  # [rows, hidden]: what a branch adds
    q: F32  # [rows, heads * head_dim]
    k: F32  # [rows, kv_heads * head_dim]
    v: F32  # [rows, kv_heads * head_dim]
    attended: F32  # [rows, heads * head_dim]
    q_heads: F32  # q as [rows, heads, head_dim]
    k_heads: F32  # k as [rows, kv_heads, head_dim]
    v_heads: F32  # v as [rows, kv_heads, head_dim]
    attended_heads: F32  # attended as [rows, heads, head_dim]
    router: F32  # [rows * max_experts]: room for router logits

    def router_logits(self, experts: int) -> F32:
        """[rows, experts]; contents are undefined."""
        rows = self.x.shape[0]
        return self.router[: rows * experts].reshape(rows, experts)


class WorkArrays:
    """Owns the arrays. `work_bytes` of the memory plan counts them."""

    def __init__(self, shape: WorkShape, max_rows: int) -> None:
        self.max_rows = max_rows
        self._shape = shape
        queries, keys = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
        widths = (shape.hidden, shape.hidden, shape.hidden, queries, keys, keys, queries, shape.max_experts)
        self._arrays = tuple(np.empty(max_rows * width, dtype=np.float32) for width in widths)
        self._last: Work | None = None

    def take(self, rows: int) -> Work:
        """Views for the first `rows` rows; a step's contents are gone at the next take."""
        if self._last is None or self._last.x.shape[0] != rows:
            self._last = self._views(rows)
        return self._last

    def _views(self, rows: int) -> Work:
        flat = [array[: rows * (array.size // self.max_rows)] for array in self._arrays]
        x, normed, branch, q, k, v, attended = (array.reshape(rows, -1) for array in flat[:7])
        shape = self._shape
        query_heads, key_heads = (rows, shape.heads, shape.head_dim), (rows, shape.kv_heads, shape.head_dim)
        return Work(
            x=x,
            normed=normed,
            branch=branch,
            q=q,
            k=k,
            v=v,
            attended=attended,
            q_heads=q.reshape(query_heads),
            k_heads=k.reshape(key_heads),
            v_heads=v.reshape(key_heads),
            attended_heads=attended.reshape(query_heads),
            router=flat[7],
        )
